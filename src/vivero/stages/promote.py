"""Command `promote`: move the alias `champion` to the registered candidate, if the gate allows it.

A refusal is a result, not a failure: it says which gate, by how much, and leaves the champion.
"""

import logging
import time
from pathlib import Path
from typing import Any

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, served_bundle_dir
from vivero.config.schema import Config
from vivero.errors import DataError, PromotionError
from vivero.files import read_json, sha256_of_json, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.bundle import read_identity
from vivero.registry.promotion import Request, promote, withdrawal
from vivero.registry.verdict_page import LETS_PASS
from vivero.registry.verdict_record import (
    METRICS_NAME,
    VERDICT_NAME,
    VerdictRecord,
    read_verdict,
    require_present_champion,
    require_verdict_follows,
    require_verdict_on,
)
from vivero.registry.versions import CHAMPION, find_number, identity_of
from vivero.stages.judge import read_report
from vivero.stages.measure_champion import measure_after_promotion

JUDGE_AGAIN = "run `vivero judge`, `vivero register`, then `vivero promote` again"

IDENTITY = ("weights_sha256", "sampling_sha256")

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> bool:
    """Act on artifacts/judge/verdict.json; leave artifacts/promote/promotion.json.

    Returns:
        Whether the candidate is champion now.

    Raises:
        DataError: When the verdict is of other weights than the registered version, of another
            report or other settings than the present ones, or contradicts itself.
        PromotionError: When the registry contradicts the verdict.
    """
    started_at = time.monotonic()
    sha256 = sha256_of_json(_read(root, "judge", VERDICT_NAME))
    verdict = read_verdict(artifacts_dir(root, "judge") / VERDICT_NAME)
    registered = _read(root, "register", "registered.json")
    if verdict.identity != tuple(map(registered.get, IDENTITY)):
        raise DataError(
            "the verdict in artifacts/judge is about other weights or settings of sampling than "
            "those registered; "
            "run `vivero judge`, `vivero register`, then promote again"
        )
    is_promoted, message = _outcome(config, root, verdict, sha256, str(registered["version"]))
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
    if is_promoted and config.promote.measure_champion:
        measure_after_promotion(config, root)
    return is_promoted


def _outcome(
    config: Config, root: Path, verdict: VerdictRecord, sha256: str, number: str
) -> tuple[bool, str]:
    name = config.registration.model_name
    if _is_champion(root, name, verdict, number):
        return True, f"version {number} of '{name}' is the champion already"
    require_verdict_on(
        verdict,
        read_identity(served_bundle_dir(root)),
        artifacts_dir(root, "evaluate") / METRICS_NAME,
    )
    require_verdict_follows(verdict, read_report(root), config.judge)
    if verdict.verdict not in LETS_PASS:
        return False, (
            f"version {number} of '{name}' was not promoted ({verdict.verdict}): "
            f"{'; '.join(verdict.open_reasons)}. The champion is unchanged"
        )
    withdrawn = withdrawal(root, name, number)
    if withdrawn is not None:
        return False, (
            f"version {number} of '{name}' was not promoted: {withdrawn.by} rolled it back at "
            f"{withdrawn.at} ({withdrawn.why}). The champion is unchanged; "
            f"`vivero promote {number}` restores it by hand"
        )
    why = "; ".join(gate.reason for gate in verdict.gates)
    request = Request(name, number, verdict.champion, why, sha256)
    event = promote(root, request, config.promote)
    if event is None:
        return True, f"version {number} of '{name}' is the champion already"
    former = "" if event.former is None else f"; version {event.former} is kept as previous"
    return True, f"version {number} of '{name}' is champion now{former}"


def _is_champion(root: Path, name: str, verdict: VerdictRecord, number: str) -> bool:
    """Whether the registry says that the judged version is the champion now.

    Raises:
        PromotionError: When the version has other weights or settings of sampling than those
            judged, or when it is not the champion and the verdict was made against another
            champion than the registry names now.
    """
    judged = find_number(root, name, number)
    identity = identity_of(root, judged)
    for what, ours, theirs in (
        ("weights", identity.weights_sha256, verdict.weights_sha256),
        ("settings of sampling", identity.sampling_sha256, verdict.sampling_sha256),
    ):
        if ours != theirs:
            raise PromotionError(
                f"version {number} of '{name}' has {what} {ours[:12]} in the registry, and the "
                f"verdict is about {theirs[:12]}. The champion is unchanged; {JUDGE_AGAIN}"
            )
    if CHAMPION in judged.aliases:
        return True
    require_present_champion(root, name, verdict, JUDGE_AGAIN)
    return False


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
