"""Everything that register, judge and promote need, made in a second instead of by a training."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from tests.conftest import REPOSITORY, TINY
from vivero.config.schema import Config, SamplingConfig
from vivero.evaluation.protocol import protocol_of
from vivero.files import write_json
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config
from vivero.registry.seed_variance import (
    MetricValues,
    SeedVariance,
    recipe_of,
    write_seed_variance,
)
from vivero.tracking.journal import Entry, Journal
from vivero.tracking.tracker import RunSpec

FD = "fd.efficientnet_lite0.5k"


@functools.cache
def tiny_sampling() -> str:
    """The block `sampling` of the tests' settings, as JSON."""
    values = YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text())["sampling"]
    own = {name.removeprefix("sampling."): v for name, v in TINY.items() if "sampling." in name}
    return SamplingConfig.model_validate({**values, **own}).model_dump_json()


def report(
    distance: float = 5.0, protocol: str = "a", config: Config | None = None
) -> dict[str, Any]:
    """A report as evaluate writes it, of a model with this Frechet distance."""

    def metric(value: float, std_error: float, floor: float | None, better: str) -> dict[str, Any]:
        low, high = value - 2 * std_error, value + 2 * std_error
        return {
            "value": value, "low": low, "high": high, "std_error": std_error, "n": 5000,
            "floor": floor, "better": better,
        }  # fmt: skip

    sampling = json.loads(tiny_sampling() if config is None else config.sampling.model_dump_json())
    return {
        "protocol": protocol_of({"name": protocol}, sampling),
        "evaluated_by": {"code_commit": "c" * 40, "is_dirty": False},
        "metrics": {
            FD: metric(distance, 0.1, 1.0, "lower"),
            "label_agreement.small_cnn.5k": metric(0.93, 0.004, 0.9, "higher"),
            "copied_share.features.500": metric(0.0, 0.0, 0.0, "lower"),
            "copied_share.pixels.500": metric(0.0, 0.0, 0.0, "lower"),
            "near_equal_share.pixels.5k": metric(0.03, 0.0024, 0.05, "lower"),
            "recall.efficientnet_lite0.5k": metric(0.6, 0.007, 0.9, "higher"),
            "coverage.efficientnet_lite0.5k": metric(0.7, 0.0065, 0.97, "higher"),
            "unusable_share.efficientnet_lite0.5k": metric(0.004, 0.0009, 0.005, "lower"),
            "denoising_loss.mean.1k": metric(0.25, 0.001, None, "lower"),
        },
    }


def write_spread_between_seeds(root: Path, config: Config, relative_std: float = 0.002) -> None:
    """seed_variance.json of the recipe in config, as `vivero seeds` would leave it."""
    steps = (-1.3, -0.8, -0.1, 0.2, 0.7, 1.3)  # their sample standard deviation is 1

    def values(mean: float) -> MetricValues:
        return MetricValues(
            {seed: mean * (1 + relative_std * step) for seed, step in enumerate(steps)}, 0.0
        )

    metrics = report()["metrics"]
    write_seed_variance(
        root,
        SeedVariance(
            name="tests",
            recipe_sha256=recipe_of(config),
            protocol_sha256="a" * 64,
            data_digest="d.dir",
            weights_sha256={seed: f"{seed:064}" for seed in range(len(steps))},
            metrics={name: values(metric["value"]) for name, metric in metrics.items()},
        ),
    )


def make_artifacts(root: Path, config: Config, seed: int = 0, distance: float = 5.0) -> str:
    """artifacts/ as train, prepare_data, compute_reference and evaluate leave it, and the spread.

    Returns:
        sha256 of the weights.
    """
    artifacts = root / "artifacts"
    values = bundle_config(config, ["shirt", "shoe", "bag"])
    generator = torch.Generator().manual_seed(seed)
    network = build_network(BundleConfig.model_validate(values).network)
    random = {
        name: 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in network.named_parameters()
    }
    weights = {**network.state_dict(), **random}  # a tree's scales of the data stay as they are
    lineage = {
        "data_digest": f"{'d' * 32}.dir", "code_commit": "c" * 40, "is_dirty": False,
        "params_sha256": "e" * 64,
        "seed": seed,
    }  # fmt: skip
    contents = BundleContents(weights, values, lineage, "# A model\n")
    weights_sha256 = write_bundle(artifacts / "sample" / "bundle", contents)

    spec = RunSpec(
        experiment="vivero",
        run_key=f"fingerprint-{seed}",
        run_name=f"train-{seed}",
        journal_path=artifacts / "train" / "journal.jsonl",
        params={"train.seed": str(seed)},
        model_name="vivero",
    )
    spec.journal_path.unlink(missing_ok=True)
    journal = Journal(spec.journal_path)
    journal.append(Entry("run", values=spec.to_values()))
    for step in (8, 16):
        journal.append(Entry("metrics", images_seen=step, values={"train/loss": 1 / step}))
    journal.close()
    write_json(artifacts / "train" / "summary.json", {"num_parameters": 7, "total_images": 16})
    write_json(
        artifacts / "prepare_data" / "images" / "card.json", {"name": "tiny", "class_names": []}
    )
    reference_dir = artifacts / "compute_reference" / "reference"
    reference_dir.mkdir(parents=True, exist_ok=True)
    (reference_dir / "drift.safetensors").write_bytes(b"features")
    write_json(artifacts / "evaluate" / "metrics.json", report(distance, config=config))
    write_spread_between_seeds(root, config)
    return weights_sha256


def read(root: Path, name: str) -> dict[str, Any]:
    """A JSON file below artifacts/."""
    return dict(json.loads((root / "artifacts" / name).read_text()))
