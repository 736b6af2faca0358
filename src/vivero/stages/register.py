"""Command `register`: put the judged model into the registry, once for the same weights.

First MLflow is brought up to date with the files, so that a server that was away, or was emptied,
is filled again.
"""

import logging
import time
from pathlib import Path
from typing import Any

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir
from vivero.config.schema import Config
from vivero.errors import DataError, TrackingError
from vivero.files import read_json, write_json, write_text
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.bundle import load_bundle
from vivero.registry.card import CardFacts, model_card
from vivero.registry.registration import Candidate, register_version
from vivero.registry.versions import ModelVersion
from vivero.tracking.mirror import reconcile

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> ModelVersion:
    """Register artifacts/train/bundle; leave artifacts/register/registered.json."""
    started_at = time.monotonic()
    train_dir, evaluate_dir = artifacts_dir(root, "train"), artifacts_dir(root, "evaluate")
    metrics_path = _existing(root, evaluate_dir / "metrics.json", "dvc repro evaluate")
    verdict_path = _existing(root, artifacts_dir(root, "judge") / "verdict.json", "vivero judge")
    ids = reconcile(root, _existing(root, train_dir / "journal.jsonl", "dvc repro train"))
    name = config.registration.model_name
    bundle_dir = train_dir / "bundle"
    card_path = artifacts_dir(root, "register") / "MODEL_CARD.md"
    write_text(card_path, _card(root, name, bundle_dir, read_json(metrics_path)["metrics"]))
    if ids.run_id is None:
        raise TrackingError("MLflow took no run of this training; run `vivero register` again")
    reference_dir = artifacts_dir(root, "compute_reference") / "reference"
    candidate = Candidate(
        bundle_dir=bundle_dir,
        metrics_path=metrics_path,
        drift_reference_path=reference_dir / "drift.safetensors",
        verdict=read_json(verdict_path),
        card_path=card_path,
        run_id=ids.run_id,
        model_id=ids.model_id,
        per_image_path=evaluate_dir / "per_image.safetensors",
    )
    version, is_new = register_version(root, name, candidate)
    what = "registered as" if is_new else "is already"
    message = f"the model {what} version {version.version} of '{name}'"
    log.info("register: %s", message)
    folder = artifacts_dir(root, "register")
    registered = {
        "model": name,
        "version": version.version,
        "weights_sha256": version.weights_sha256,
        "run_id": ids.run_id,
    }
    write_json(folder / "registered.json", registered)
    summary = {
        "stage": "register",
        "seconds": round(time.monotonic() - started_at, 2),
        "made": message,
    }
    write_json(folder / "summary.json", summary)
    return version


def _card(root: Path, name: str, bundle_dir: Path, metrics: dict[str, Any]) -> str:
    bundle = load_bundle(bundle_dir)
    trained = read_json(artifacts_dir(root, "train") / "summary.json")
    data = read_json(artifacts_dir(root, "prepare_data") / "images" / "card.json")
    facts = CardFacts(
        name=name,
        num_parameters=trained["num_parameters"],
        image_size_px=bundle.image_size_px,
        num_channels=bundle.num_channels,
        class_names=list(bundle.class_names),
        data_name=data["name"],
        licence=data.get("licence") or "licence unknown",
        lineage=bundle.lineage,
        settings={"images seen": trained["total_images"]},
        metrics=metrics,
    )
    return model_card(facts)


def _existing(root: Path, path: Path, command: str) -> Path:
    if not path.exists():
        raise DataError(f"{path.relative_to(root)} is missing; run `{command}` first")
    return path


def main() -> None:
    """Run the command on this repository."""
    run_stage("register", verified("register", lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
