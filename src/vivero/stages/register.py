"""Command `register`: put the judged model into the registry, once for equal weights and sampling.

First MLflow is brought up to date with the files, so that a server that was away, or was emptied,
is filled again.
"""

import logging
import time
from pathlib import Path
from typing import Any

from vivero.config.environment import tracking_uri
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, data_dir, served_bundle_dir
from vivero.config.schema import Config
from vivero.errors import DataError, SignatureNeededError, TrackingError
from vivero.evaluation.per_image import PER_IMAGE_NAME
from vivero.evaluation.protocol import protocol_hash
from vivero.files import read_json, write_json, write_text
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.bundle import load_bundle, read_identity
from vivero.registry.gates import ruler_hash
from vivero.registry.lineage_tags import tag_everywhere
from vivero.registry.registration import Candidate, register_version
from vivero.registry.signed_uploads import add_signed_report
from vivero.registry.verdict_record import (
    read_verdict,
    require_verdict_follows,
    require_verdict_on,
)
from vivero.registry.version_card import version_card
from vivero.registry.versions import CHAMPION, ModelVersion, bring_here, find_alias
from vivero.stages.champion_report import kept_evaluation
from vivero.stages.evaluate import METRICS_NAME
from vivero.stages.judge import read_report
from vivero.tracking.journal import read_journal
from vivero.tracking.mirror import reconcile
from vivero.tracking.store import open_client, refusals, store_lock

RECORDS = (  # below artifacts/: what the card is made of
    "validate_data/summary.json",
    "prepare_data/images/card.json",
    "train/summary.json",
    "sample/bundle/config.json",
    "sample/bundle/lineage.json",
    "evaluate/metrics.json",
)

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> ModelVersion:
    """Register artifacts/sample/bundle; leave artifacts/register/registered.json.

    Raises:
        DataError: When a file is missing, or the verdict is about another model or report, was
            made with other settings, or does not follow from its gates.
    """
    started_at = time.monotonic()
    train_dir, evaluate_dir = artifacts_dir(root, "train"), artifacts_dir(root, "evaluate")
    metrics_path = _existing(root, evaluate_dir / "metrics.json", "dvc repro evaluate")
    verdict_path = _existing(root, artifacts_dir(root, "judge") / "verdict.json", "vivero judge")
    _require_verdict(config, root, verdict_path, metrics_path)
    ids = reconcile(root, _existing(root, train_dir / "journal.jsonl", "dvc repro train"))
    name = config.registration.model_name
    bundle_dir = served_bundle_dir(root)
    card_path = artifacts_dir(root, "register") / "MODEL_CARD.md"
    records = _records(root, config)
    write_text(card_path, version_card(records))
    if ids.run_id is None:
        raise TrackingError("MLflow took no run of this training; run `vivero register` again")
    reference_dir = artifacts_dir(root, "compute_reference") / "reference"
    candidate = Candidate(
        bundle_dir=bundle_dir,
        metrics_path=metrics_path,
        drift_reference_path=reference_dir / "drift.safetensors",
        verdict_path=verdict_path,
        card_path=card_path,
        run_id=ids.run_id,
        model_id=ids.model_id,
        per_image_path=evaluate_dir / "per_image.safetensors",
    )
    version, is_new = register_version(root, name, candidate)
    attach_champion_report(config, root, records["evaluate/metrics.json"])
    data_name = records["prepare_data/images/card.json"]["name"]
    lineage = records["sample/bundle/lineage.json"]
    tag_everywhere(root, version, ids.run_id, lineage, data_name)
    what = "registered as" if is_new else "is already"
    message = f"the model {what} version {version.version} of '{name}'"
    log.info("register: %s", message)
    folder = artifacts_dir(root, "register")
    registered = {
        "model": name,
        "version": version.version,
        "weights_sha256": version.weights_sha256,
        "sampling_sha256": version.sampling_sha256,
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


def register(config: Config, root: Path) -> None:
    """Register; a version that another process must sign waits, and the next call completes it."""
    try:
        run(config, root)
    except SignatureNeededError as error:
        log.info("register: %s", error)


def attach_champion_report(config: Config, root: Path, report: dict[str, Any]) -> None:
    """Store the new evaluation of the champion, if `judge` had to make one, with its version."""
    champion = find_alias(root, config.registration.model_name, CHAMPION)
    if champion is None:
        return
    sampling = load_bundle(bring_here(root, champion) / "bundle").sampling_defaults
    name = protocol_hash(ruler_hash(report), sampling)
    folder = kept_evaluation(root, champion, name)
    if folder is None:
        return
    client = open_client(root)
    files = [folder / METRICS_NAME, folder / PER_IMAGE_NAME]
    try:
        with refusals(tracking_uri(root)), store_lock(root):
            add_signed_report(root, client, champion, files)
    except SignatureNeededError as error:
        log.info("register: the new report of the champion is stored later: %s", error)


def _require_verdict(config: Config, root: Path, verdict_path: Path, metrics_path: Path) -> None:
    verdict, report = read_verdict(verdict_path), read_report(root)
    require_verdict_on(verdict, read_identity(served_bundle_dir(root)), metrics_path)
    require_verdict_follows(verdict, report, config.judge)


def _records(root: Path, config: Config) -> dict[str, Any]:
    """What the card is made of, by path; a record that is not there is left out."""
    places = {name: root / "artifacts" / name for name in RECORDS}
    places["data/card.json"] = data_dir(root) / "card.json"
    records = {name: read_json(path) for name, path in places.items() if path.is_file()}
    journal = read_journal(artifacts_dir(root, "train") / "journal.jsonl")
    runs = [entry.values for entry in journal if entry.kind == "run"]
    register = config.registration.model_dump()
    return {
        **records,
        "train/journal.jsonl": runs[-1] if runs else {},
        "params.yaml": {"register": register},
    }


def _existing(root: Path, path: Path, command: str) -> Path:
    if not path.exists():
        raise DataError(f"{path.relative_to(root)} is missing; run `{command}` first")
    return path


def main() -> None:
    """Run the command on this repository."""
    run_stage(
        "register", verified("register", lambda root: register(load_config(root / PARAMS), root))
    )


if __name__ == "__main__":
    main()
