"""Command `promote`: move the alias `champion` to the registered candidate, if the gate allows it.

A refusal is a result, not a failure: it says which gate, by how much, and leaves the champion.
"""

import logging
import time
from pathlib import Path
from typing import Any

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir
from vivero.config.schema import Config
from vivero.errors import DataError
from vivero.files import read_json, sha256_of_json, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.promotion import Request, promote, withdrawal
from vivero.registry.verdict_page import LETS_PASS

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> bool:
    """Act on artifacts/judge/verdict.json; leave artifacts/promote/promotion.json.

    Returns:
        Whether the candidate is champion now.
    """
    started_at = time.monotonic()
    verdict = _read(root, "judge", "verdict.json")
    registered = _read(root, "register", "registered.json")
    if verdict["weights_sha256"] != registered["weights_sha256"]:
        raise DataError(
            "the verdict in artifacts/judge is about other weights than those registered; "
            "run `vivero judge`, `vivero register`, then promote again"
        )
    is_promoted, message = _outcome(config, root, verdict, registered)
    log.info("promote: %s", message)
    folder = artifacts_dir(root, "promote")
    write_json(
        folder / "promotion.json",
        {"promoted": is_promoted, "version": registered["version"], "message": message},
    )
    summary = {
        "stage": "promote",
        "seconds": round(time.monotonic() - started_at, 2),
        "made": message,
    }
    write_json(folder / "summary.json", summary)
    return is_promoted


def _outcome(
    config: Config, root: Path, verdict: dict[str, Any], registered: dict[str, Any]
) -> tuple[bool, str]:
    name, number = config.registration.model_name, str(registered["version"])
    if verdict["is_champion_itself"]:
        return True, f"version {number} of '{name}' is the champion already"
    open_gates = [gate["reason"] for gate in verdict["gates"] if gate["passed"] is not True]
    if verdict["verdict"] not in LETS_PASS:
        return False, (
            f"version {number} of '{name}' was not promoted ({verdict['verdict']}): "
            f"{'; '.join(open_gates)}. The champion is unchanged"
        )
    withdrawn = withdrawal(root, name, number)
    if withdrawn is not None:
        return False, (
            f"version {number} of '{name}' was not promoted: {withdrawn.by} rolled it back at "
            f"{withdrawn.at} ({withdrawn.why}). The champion is unchanged; "
            f"`vivero promote {number}` brings it back by hand"
        )
    why = "; ".join(gate["reason"] for gate in verdict["gates"])
    request = Request(name, number, verdict["champion"], why, sha256_of_json(verdict))
    event = promote(root, request, config.promote)
    if event is None:
        return True, f"version {number} of '{name}' is the champion already"
    former = "" if event.former is None else f"; version {event.former} is kept as previous"
    return True, f"version {number} of '{name}' is champion now{former}"


def _read(root: Path, stage: str, name: str) -> dict[str, Any]:
    path = artifacts_dir(root, stage) / name
    if not path.exists():
        raise DataError(f"{path.relative_to(root)} is missing; run `vivero {stage}` first")
    return dict(read_json(path))


def main() -> None:
    """Run the command on this repository."""
    run_stage("promote", verified("promote", lambda root: run(load_config(root / PARAMS), root)))


if __name__ == "__main__":
    main()
