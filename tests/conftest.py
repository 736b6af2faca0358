"""Shared by all tests: one thread, no telemetry, tiny settings."""

import os
import tempfile

os.environ.update(
    XDG_CONFIG_HOME=tempfile.mkdtemp(prefix="vivero-user-"),  # a signing key is made here
    DVC_NO_ANALYTICS="1",
    GX_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="agg",
)

import atexit
import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from ruamel.yaml import YAML

from vivero.config.schema import Config

atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)
torch.set_num_threads(1)  # tiny tensors: two threads are thirty times slower than one

# A busy machine is slow, not wrong.
settings.register_profile("patient", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("patient")

REPOSITORY = Path(__file__).parents[1]

TINY = {
    "validate_data.min_images_per_class": 1,
    "validate_data.max_quarantined_share": 0.5,
    "validate_data.num_processes": 1,
    "prepare_data.image_size_px": 16,
    "compute_reference.num_images": 40,
    "compute_reference.classifier_epochs": 1,
    "compute_reference.extractor_size_px": 32,
    "train.total_images": 64,
    "train.batch_images": 8,
    "train.warmup_images": 16,
    "train.ema_halflives_images": [16, 8],
    "train.log_every_images": 8,
    "train.validate_every_images": 32,
    "train.checkpoint_every_images": 16,
    "train.preview_every_images": 32,
    "train.num_validation_images": 8,
    "train.model.channels": [8, 16],
    "train.model.blocks_per_level": 1,
    "train.model.attention_heads": 2,
    "train.model.embedding_channels": 16,
    "sampling.num_steps": 3,
    "sample.num_images": 20,
    "sample.batch_images": 10,
    "judge.latency_budget_s": 0.05,
    "judge.margins.latency": 100.0,  # of images that take a millisecond
    "evaluate.num_bootstrap": 10,
    "evaluate.num_memorisation_images": 10,
    "evaluate.num_noise_levels": 3,
    "evaluate.num_denoising_images": 8,
    "evaluate.num_neighbours": 2,
    "evaluate.classifier_epochs": 1,
    "check_drift.num_images": 20,
    "check_drift.num_components": 4,
    "check_drift.num_permutations": 99,
    "check_drift.num_generated": 20,
    "monitor.min_images": 20,
    "monitor.max_images": 40,
    "promote.num_check_images": 2,
}


def tiny(params: dict[str, Any], changes: dict[str, Any] | None = None) -> Config:
    """Settings so small that every stage takes seconds; `changes` maps dotted names to values."""
    values = copy.deepcopy(params)
    for name, value in {**TINY, **(changes or {})}.items():
        *blocks, key = name.split(".")
        block = values
        for part in blocks:
            block = block[part]
        assert key in block, f"params.yaml has no {name}"
        block[key] = value
    return Config.model_validate(values)


@pytest.fixture(scope="session")
def params() -> dict[str, Any]:
    """The repository's params.yaml as plain values."""
    return YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())


@pytest.fixture(scope="session")
def config_factory(params: dict[str, Any]) -> Callable[..., Config]:
    """Make a tiny Config; keyword `changes` maps dotted names to values."""

    def factory(changes: dict[str, Any] | None = None) -> Config:
        return tiny(params, changes)

    return factory


@pytest.fixture(scope="session")
def tiny_config(config_factory: Callable[..., Config]) -> Config:
    """Settings so small that every stage takes seconds."""
    return config_factory()
