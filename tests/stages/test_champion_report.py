"""A champion under another protocol, and the same weights with another sampler: all for real."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model_versions import make_artifacts, read
from tests.prepared_images import write_prepared
from vivero.config.schema import Config
from vivero.evaluation.protocol import protocol_hash
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config
from vivero.registry.versions import (
    CHAMPION,
    RECORDED_TAG,
    ModelVersion,
    find_alias,
    list_versions,
    report_folder,
)
from vivero.stages import (
    compute_reference,
    evaluate,
    judge,
    measure_champion,
    register,
    sample,
)
from vivero.tracking.store import open_client

CLASS_NAMES = ["top", "middle", "low"]
NO_LIMITS = {  # random weights make poor images
    "judge.max_frechet_over_floor": 1e9,
    "judge.min_label_agreement": 0.0,
    "judge.max_copied_share": 1.0,
    "judge.max_unusable_share": 1.0,
    "judge.max_near_equal_share": 1.0,
    "judge.min_recall_over_floor": 0.0,
    "judge.min_coverage_over_floor": 0.0,
}
Factory = Callable[..., Config]


@pytest.fixture
def config(config_factory: Factory) -> Config:
    return config_factory(NO_LIMITS)


def train(root: Path, config: Config, seed: int) -> None:
    """A bundle with random weights in place of a training."""
    values = {**bundle_config(config, CLASS_NAMES), "sampling": None}
    generator = torch.Generator().manual_seed(seed)
    state = build_network(BundleConfig.model_validate(values).network).state_dict()
    weights = {n: 0.1 * torch.randn(v.shape, generator=generator) for n, v in state.items()}
    lineage = {"data_digest": "d" * 32, "params_sha256": "e" * 64, "is_dirty": False, "seed": seed}
    contents = BundleContents(weights, values, lineage, "# A model\n")
    write_bundle(root / "artifacts/train/bundle", contents)


def judge_model(root: Path, config: Config) -> dict[str, Any]:
    sample.run(config, root)
    evaluate.run(config, root)
    judge.run(config, root)
    return read(root, "judge/verdict.json")


@pytest.fixture
def home(root: Path, config: Config) -> Path:
    """A repository with a champion."""
    make_artifacts(root, config)  # the record of a training, which register needs
    shutil.rmtree(root / "artifacts/prepare_data")
    write_prepared(root, CLASS_NAMES)
    compute_reference.run(config, root)
    curves_dir = root / "artifacts/train/curves"
    curves_dir.mkdir(parents=True)
    (curves_dir / "loss.csv").write_text("images_seen,loss\n8,1.0\n16,0.5\n")
    train(root, config, seed=0)
    judge_model(root, config)
    version = register.run(config, root)
    open_client(root).set_registered_model_alias("vivero", CHAMPION, version.version)
    return root


def gate_names(verdict: dict[str, Any]) -> set[str]:
    return {gate["name"] for gate in verdict["gates"]}


def champion_metrics(root: Path, name: str) -> Any:
    champion = find_alias(root, "vivero", CHAMPION)
    assert champion is not None
    folder = report_folder(root, champion, name)
    return folder and json.loads((folder / "metrics.json").read_text())["metrics"]


def test_a_champion_is_evaluated_again_when_the_protocol_changes(
    home: Path, config_factory: Factory, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    changed = config_factory(
        {**NO_LIMITS, "evaluate.num_noise_levels": 4, "sample.seed": 9, "sample.num_images": 24}
    )
    sample.run(changed, home)
    evaluate.run(changed, home)  # of the champion itself: what a new evaluation must find
    expected = read(home, "evaluate/metrics.json")
    shutil.rmtree(home / "artifacts/evaluate")

    train(home, changed, seed=1)
    verdict = judge_model(home, changed)
    name = expected["protocol"]["hash"]
    assert "it is evaluated again, once" in caplog.text
    assert "evaluating version 1: 24 images in 3 steps" in caplog.text
    assert "protocol" not in gate_names(verdict)
    assert verdict["champion"] == "1"
    (folder,) = (home / "work/evaluations").iterdir()
    kept = json.loads((folder / "metrics.json").read_text())
    assert kept["metrics"] == expected["metrics"]
    assert kept["protocol"] == expected["protocol"]

    caplog.clear()
    judge.run(changed, home)
    assert "evaluated again" not in caplog.text

    (folder / "metrics.json").write_text("{}")
    judge.run(changed, home)
    assert "is damaged and is made again" in caplog.text
    assert json.loads((folder / "metrics.json").read_text()) == kept

    assert champion_metrics(home, name) is None
    register.run(changed, home)
    shutil.rmtree(home / "work")
    assert champion_metrics(home, name) == expected["metrics"]
    caplog.clear()
    judge.run(changed, home)
    assert "evaluated again" not in caplog.text


def test_the_same_weights_with_another_sampler_are_judged_and_registered(
    home: Path, config_factory: Factory, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    before = read(home, "evaluate/metrics.json")["protocol"]
    faster = config_factory({**NO_LIMITS, "sampling.num_steps": 2, "sampling.guidance": 1.0})
    verdict = judge_model(home, faster)
    after = read(home, "evaluate/metrics.json")["protocol"]
    assert after["ruler_hash"] == before["ruler_hash"]
    assert after["hash"] != before["hash"]
    assert after["hash"] == protocol_hash(after["ruler_hash"], after["sampling"])
    assert verdict["is_champion_itself"] is False
    assert {"latency", "fd.efficientnet_lite0.20"} <= gate_names(verdict)
    assert "protocol" not in gate_names(verdict)
    assert "evaluated again" not in caplog.text
    version = register.run(faster, home)
    assert version.version == "2"
    assert len({v.weights_sha256 for v in list_versions(home, "vivero")}) == 1


def test_a_champion_of_other_classes_is_held_with_the_reason(home: Path, config: Config):
    shutil.rmtree(home / "artifacts/prepare_data")
    write_prepared(home, ["top", "middle"])
    compute_reference.run(config, home)
    values = {**bundle_config(config, ["top", "middle"]), "sampling": None}
    network = build_network(BundleConfig.model_validate(values).network)
    lineage = {"data_digest": "d" * 32, "params_sha256": "e" * 64, "is_dirty": False}
    contents = BundleContents(network.state_dict(), values, lineage, "# A model\n")
    write_bundle(home / "artifacts/train/bundle", contents)
    verdict = judge_model(home, config)
    assert verdict["verdict"] == "hold"
    reason = verdict["gates"][-1]["reason"]
    assert "version 1 cannot be evaluated on the present data: it makes the classes" in reason


def present_champion(root: Path) -> ModelVersion:
    found = find_alias(root, "vivero", CHAMPION)
    assert found is not None
    return found


def test_the_champion_is_measured_on_images_that_no_judgement_used(
    home: Path, config: Config, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    recorded = measure_champion.run(config, home)
    (folder,) = (home / "work/evaluations").iterdir()
    report = json.loads((folder / "metrics.json").read_text())
    judged = json.loads((home / "artifacts/evaluate/metrics.json").read_text())
    fresh, used = report["protocol"], judged["protocol"]
    assert fresh["sample_seed"] not in (used["sample_seed"], config.sample.seed)
    same = ("n", "code_sha256", "reference_sha256", "sampling", "settings")
    assert {key: fresh[key] for key in same} == {key: used[key] for key in same}
    name = next(name for name in report["metrics"] if name.startswith("fd."))
    value = report["metrics"][name]["value"]
    assert value != judged["metrics"][name]["value"]
    assert recorded.startswith(f"{name} {value:.4g} [")
    assert present_champion(home).tags[RECORDED_TAG] == recorded
    assert champion_metrics(home, fresh["hash"]) == report["metrics"]  # signed, in the registry

    tags = present_champion(home).tags
    shutil.rmtree(home / "work/evaluations")
    caplog.clear()
    assert measure_champion.run(config, home) == recorded  # the registry has it
    assert "evaluating version" not in caplog.text
    assert present_champion(home).tags == tags
