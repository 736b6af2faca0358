"""Command `judge`: hold the candidate's report against the limits and the champion's report.

Outside DVC, because who is champion is a state of the world: DVC would not see it change.
"""

import logging
import time
from pathlib import Path
from typing import Any

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir
from vivero.config.schema import Config
from vivero.errors import DataError
from vivero.files import read_json, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.gates import Verdict, judge
from vivero.registry.versions import CHAMPION, champion_report, find_alias

log = logging.getLogger(__name__)
MARKS = {True: "pass", False: "FAIL", None: "open"}


def run(config: Config, root: Path) -> Verdict:
    """Judge artifacts/evaluate/metrics.json; leave artifacts/judge/verdict.json."""
    started_at = time.monotonic()
    candidate = read_report(root)
    name = config.registration.model_name
    champion = find_alias(root, name, CHAMPION)
    is_champion_itself = champion is not None and champion.weights_sha256 == (
        candidate.get("lineage") or {}
    ).get("weights_sha256")
    report = champion_report(root, name, candidate["protocol"]["hash"])
    verdict = judge(candidate, report, config.judge)
    for gate in verdict.gates:
        log.info("judge: %s  %s", MARKS[gate.passed], gate.reason)
    log.info("judge: verdict %s", verdict.verdict)
    made = {
        **verdict.as_json(),
        "champion": None if champion is None else champion.version,
        "is_champion_itself": is_champion_itself,
        "weights_sha256": (candidate.get("lineage") or {}).get("weights_sha256"),
    }
    folder = artifacts_dir(root, "judge")
    write_json(folder / "verdict.json", made)
    passed = sum(gate.passed is True for gate in verdict.gates)
    summary = {
        "stage": "judge",
        "seconds": round(time.monotonic() - started_at, 2),
        "made": f"verdict '{verdict.verdict}', {passed} of {len(verdict.gates)} gates passed",
    }
    write_json(folder / "summary.json", summary)
    return verdict


def read_report(root: Path) -> dict[str, Any]:
    """What `evaluate` found.

    Raises:
        DataError: When it has not run.
    """
    path = artifacts_dir(root, "evaluate") / "metrics.json"
    if not path.exists():
        raise DataError(f"{path.relative_to(root)} is missing; run `dvc repro evaluate` first")
    report = dict(read_json(path))
    lineage_path = artifacts_dir(root, "train") / "bundle" / "lineage.json"
    if "lineage" not in report and lineage_path.exists():
        report["lineage"] = read_json(lineage_path)
    return report


def main() -> None:
    """Run the command on this repository."""
    run_stage("judge", verified("judge", lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
