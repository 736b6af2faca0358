"""Command `promote`: move the alias `champion` to the registered candidate, if the gate allows it.

A refusal is a result, not a failure: it says which gate, by how much, and leaves the champion.
"""

import logging
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir
from vivero.config.schema import Config
from vivero.errors import DataError, PromotionError
from vivero.files import read_json, sha256_of_json, write_json
from vivero.integrity.entry import verified
from vivero.processes import run_stage
from vivero.registry.promotion import Request, promote, withdrawal
from vivero.registry.verdict_page import LETS_PASS
from vivero.registry.versions import CHAMPION, find_alias, find_number
from vivero.stages.measure_champion import measure_after_promotion

JUDGE_AGAIN = "run `vivero judge`, `vivero register`, then `vivero promote` again"

IDENTITY = ("weights_sha256", "sampling_sha256")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedVerdict:
    """What artifacts/judge/verdict.json says.

    Attributes:
        verdict: The verdict's name.
        gates: The gates, as JSON values.
        weights_sha256: Of the weights that were judged.
        sampling_sha256: Of the settings of sampling that they were judged with.
        champion: Version that was champion then; None = there was none.
        champion_weights_sha256: Of that version; None likewise.
        is_champion_itself: Whether the judged model was the champion itself.
        sha256: Of the whole file's content, for the record.
    """

    verdict: str
    gates: list[dict[str, Any]]
    weights_sha256: str
    sampling_sha256: str
    champion: str | None
    champion_weights_sha256: str | None
    is_champion_itself: bool
    sha256: str

    @property
    def open_reasons(self) -> list[str]:
        """Reasons of the gates that did not pass."""
        return [gate["reason"] for gate in self.gates if gate["passed"] is not True]


def run(config: Config, root: Path) -> bool:
    """Act on artifacts/judge/verdict.json; leave artifacts/promote/promotion.json.

    Returns:
        Whether the candidate is champion now.

    Raises:
        DataError: When the verdict and the registered version are of different weights.
        PromotionError: When the registry contradicts the verdict.
    """
    started_at = time.monotonic()
    verdict = _read_verdict(root)
    registered = _read(root, "register", "registered.json")
    if (verdict.weights_sha256, verdict.sampling_sha256) != tuple(map(registered.get, IDENTITY)):
        raise DataError(
            "the verdict in artifacts/judge is about other weights or settings of sampling than "
            "those registered; "
            "run `vivero judge`, `vivero register`, then promote again"
        )
    is_promoted, message = _outcome(config, root, verdict, str(registered["version"]))
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


def _outcome(config: Config, root: Path, verdict: RecordedVerdict, number: str) -> tuple[bool, str]:
    name = config.registration.model_name
    if _is_champion(root, name, verdict, number):
        return True, f"version {number} of '{name}' is the champion already"
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
            f"`vivero promote {number}` brings it back by hand"
        )
    why = "; ".join(gate["reason"] for gate in verdict.gates)
    request = Request(name, number, verdict.champion, why, verdict.sha256)
    event = promote(root, request, config.promote)
    if event is None:
        return True, f"version {number} of '{name}' is the champion already"
    former = "" if event.former is None else f"; version {event.former} is kept as previous"
    return True, f"version {number} of '{name}' is champion now{former}"


def _is_champion(root: Path, name: str, verdict: RecordedVerdict, number: str) -> bool:
    """Whether the registry says that the judged version is the champion now.

    Raises:
        PromotionError: When the version has other weights than those judged, or when it is not the
            champion and the verdict was made against another champion than the registry names now.
    """
    judged = find_number(root, name, number)
    if judged.weights_sha256 != verdict.weights_sha256:
        raise PromotionError(
            f"version {number} of '{name}' has weights {judged.weights_sha256[:12]} in the "
            f"registry, and the verdict is about {verdict.weights_sha256[:12]}. The champion is "
            f"unchanged; {JUDGE_AGAIN}"
        )
    if CHAMPION in judged.aliases:
        return True
    champion = find_alias(root, name, CHAMPION)
    now = (None, None) if champion is None else (champion.version, champion.weights_sha256)
    then = (verdict.champion, verdict.champion_weights_sha256)
    if verdict.is_champion_itself or now != then:
        raise PromotionError(
            f"the verdict in artifacts/judge is out of date: expected {_described(*then)} to be "
            f"champion of '{name}', found {_described(*now)}. The champion is unchanged; "
            f"{JUDGE_AGAIN}"
        )
    return False


def _described(version: str | None, weights_sha256: str | None) -> str:
    if version is None:
        return "nobody"
    return f"version {version} (weights {(weights_sha256 or 'unknown')[:12]})"


def _read_verdict(root: Path) -> RecordedVerdict:
    """The verdict of `judge`.

    Raises:
        DataError: When it is missing, incomplete or contradicts its own gates.
    """
    values = _read(root, "judge", "verdict.json")
    try:
        verdict = RecordedVerdict(
            sha256=sha256_of_json(values),
            **{field.name: values[field.name] for field in fields(RecordedVerdict)[:-1]},
        )
        is_consistent = verdict.verdict not in LETS_PASS or not verdict.open_reasons
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"artifacts/judge/verdict.json cannot be used ({error!r}); run `vivero judge` again"
        ) from error
    if not is_consistent:
        raise DataError(
            f"artifacts/judge/verdict.json contradicts itself: its verdict is "
            f"'{verdict.verdict}', and these gates did not pass: "
            f"{'; '.join(verdict.open_reasons)}. Run `vivero judge` again"
        )
    return verdict


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
