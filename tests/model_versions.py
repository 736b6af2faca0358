"""Everything that register, judge and promote need, made in a second instead of by a training."""

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from tests.conftest import REPOSITORY, tiny
from vivero.config.schema import Config
from vivero.evaluation.frechet import moments
from vivero.evaluation.paired import Gain
from vivero.evaluation.protocol import protocol_of
from vivero.evaluation.reference import Reference, ReferenceFacts, save_reference
from vivero.files import sha256_of_file, write_json
from vivero.models.load import build_network
from vivero.registry.bundle import BundleContents, read_identity, write_bundle
from vivero.registry.bundle_config import BundleConfig, bundle_config
from vivero.registry.conditions import NO_TREE_GATE, export_gate
from vivero.registry.differences import Measurements
from vivero.registry.gates import judge
from vivero.registry.seed_variance import (
    MetricValues,
    SeedVariance,
    read_seed_variance,
    recipe_of,
    spreads_for,
    write_seed_variance,
)
from vivero.registry.versions import ModelVersion, identity_of
from vivero.stages.evaluate import ruler_of
from vivero.tracking.journal import Entry, Journal
from vivero.tracking.tracker import RunSpec

FD = "fd.efficientnet_lite0.5k"


FEATURES = torch.linspace(-1, 1, 24).reshape(6, 4)
FACTS = ReferenceFacts(
    extractor="efficientnet_lite0", extractor_sha256="a" * 64, classifier=None, size_px=32,
    resize="none", num_reference=6, num_held_out=6, data_digest="d" * 32, splits_sha256="b" * 64,
    seed=0, real_accuracy=0.9, classifier_sha256="c" * 64, class_names=["shirt", "shoe", "bag"],
    image_std=0.7,
)  # fmt: skip


@functools.cache
def tiny_settings() -> Config:
    """The tests' settings."""
    return tiny(YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text()))


@functools.cache
def reference() -> Reference:
    """What compute_reference left."""
    return Reference(FACTS, FEATURES, FEATURES, None, moments(FEATURES), 0.5)


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

    config = config or tiny_settings()
    ruler = ruler_of(config, reference(), config.sample.num_images, config.sample.seed)
    other = {} if protocol == "a" else {"name": protocol}
    return {
        "protocol": protocol_of({**ruler, **other}, json.loads(config.sampling.model_dump_json())),
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
            ruler_sha256="a" * 64,
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
    save_reference(reference_dir, FACTS, FEATURES, (FEATURES.clone(), None), 0.5)
    write_json(artifacts / "evaluate" / "metrics.json", report(distance, config=config))
    write_spread_between_seeds(root, config)
    return weights_sha256


def write_verdict(root: Path, config: Config, champion: ModelVersion | None = None) -> None:
    """artifacts/judge/verdict.json on the present bundle and report, by the product's own gate.

    Args:
        root: Top of the repository.
        config: All settings.
        champion: What it is compared with, by a report of distance 5; None = a first model.
    """
    bundle_dir = root / "artifacts" / "sample" / "bundle"
    metrics_path = root / "artifacts" / "evaluate" / "metrics.json"
    identity = read_identity(bundle_dir)
    lineage = json.loads((bundle_dir / "lineage.json").read_text())
    candidate = {"lineage": lineage, **json.loads(metrics_path.read_text())}
    latency = Gain(0.0, 0.01, 20, is_paired=True)
    made = judge(
        candidate,
        None if champion is None else report(5.0, config=config),
        config.judge,
        (NO_TREE_GATE, export_gate(root, identity.weights_sha256)),
        Measurements(
            latency, spreads_for(read_seed_variance(root), recipe_of(config), "d.dir", "a" * 64)
        ),
    )
    present = None if champion is None else identity_of(root, champion)
    values = {
        **made.as_json(),
        **asdict(identity),
        "report_sha256": sha256_of_file(metrics_path),
        "settings": config.judge.model_dump(mode="json"),
        "champion": None if champion is None else champion.version,
        "champion_weights_sha256": None if present is None else present.weights_sha256,
        "champion_sampling_sha256": None if present is None else present.sampling_sha256,
        "is_champion_itself": False,
    }
    write_json(root / "artifacts" / "judge" / "verdict.json", values)


def read(root: Path, name: str) -> dict[str, Any]:
    """A JSON file below artifacts/."""
    return dict(json.loads((root / "artifacts" / name).read_text()))
