"""A recorded verdict: read from its file, and compared with what it must be about.

A verdict is evidence about one model, one report and one champion. A promotion believes it only
when all of them are the present ones, and when its name follows from its gates.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StringConstraints, ValidationError

from vivero.config.schema import JudgeConfig
from vivero.errors import DataError, PromotionError
from vivero.evaluation.compulsory import without_unusable
from vivero.files import read_bounded_json, read_json, sha256_of_file, sha256_of_json
from vivero.integrity.records import (
    MAX_FIELDS,
    MAX_RECORD_BYTES,
    VERSION_NUMBER,
    Line,
    LongLine,
    Record,
    Sha256,
    read_record,
)
from vivero.registry.bundle import Identity
from vivero.registry.conditions import EXPORT, TREE
from vivero.registry.differences import LATENCY, compared_names
from vivero.registry.gates import VerdictName, limit_gates, verdict_name
from vivero.registry.report_record import Finite, read_report_record
from vivero.registry.versions import (
    CHAMPION,
    ModelVersion,
    bring_here,
    find_alias,
    identity_of,
    report_folder,
    report_tag,
)

NOBODY = (None, None, None)
VERDICT_NAME = "verdict.json"
METRICS_NAME = "metrics.json"  # the report beside a registered verdict
VERDICT_KEY = sha256_of_json("verdict")  # under which a later verdict is stored, like a report
MAX_GATES = 256

VersionNumber = Annotated[str, StringConstraints(pattern=rf"^{VERSION_NUMBER}$")]


class GateRecord(Record):
    """One gate of a verdict, by the names of `registry.differences.Gate`."""

    name: Line
    passed: StrictBool | None
    value: Finite | None
    limit: Finite | None
    reason: LongLine
    kind: Literal["limit", "condition", "superiority", "non-inferiority"]
    low: Finite | None = None
    high: Finite | None = None


class VerdictRecord(Record):
    """verdict.json: what was decided, about which model and report, against which champion."""

    verdict: Literal["first", "promote", "champion", "hold", "reject"]
    gates: Annotated[tuple[GateRecord, ...], Field(min_length=1, max_length=MAX_GATES)]
    weights_sha256: Sha256
    sampling_sha256: Sha256
    report_sha256: Sha256
    settings: Annotated[dict[str, Any], Field(max_length=MAX_FIELDS)]
    champion: VersionNumber | None
    champion_weights_sha256: Sha256 | None
    champion_sampling_sha256: Sha256 | None
    is_champion_itself: StrictBool

    @property
    def identity(self) -> tuple[str, str]:
        """Weights and sampling of the model that was judged."""
        return self.weights_sha256, self.sampling_sha256

    @property
    def judged_against(self) -> tuple[str | None, str | None, str | None]:
        """Number, weights and sampling of the champion at that time; None where there was none."""
        return self.champion, self.champion_weights_sha256, self.champion_sampling_sha256

    @property
    def open_reasons(self) -> list[str]:
        """Reasons of the gates that did not pass."""
        return [gate.reason for gate in self.gates if gate.passed is not True]


def read_verdict(path: Path) -> VerdictRecord:
    """The verdict in a file.

    Raises:
        DataError: When it is not what this version of `vivero judge` writes.
    """
    try:
        return read_record(VerdictRecord, read_bounded_json(path, MAX_RECORD_BYTES))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be used ({error}); run `vivero judge` again") from error


def require_verdict_on(verdict: VerdictRecord, identity: Identity, metrics_path: Path) -> None:
    """Refuse a verdict on another model, or on another report, than these.

    Raises:
        DataError: It names what differs.
    """
    expected = {
        "weights": (identity.weights_sha256, verdict.weights_sha256),
        "settings of sampling": (identity.sampling_sha256, verdict.sampling_sha256),
        "report": (sha256_of_file(metrics_path), verdict.report_sha256),
    }
    for what, (ours, judged) in expected.items():
        if ours != judged:
            raise DataError(
                f"the verdict is about other {what} (sha256 {judged[:12]}) than the model to be "
                f"registered or promoted ({ours[:12]}); run `vivero judge` again"
            )


def require_verdict_follows(
    verdict: VerdictRecord, report: Mapping[str, Any], config: JudgeConfig
) -> None:
    """Refuse a verdict whose name does not follow from its gates, or that lacks gates.

    Args:
        verdict: As it was recorded.
        report: What it is about, with its lineage.
        config: The settings that it was made with.

    Raises:
        DataError: When its name, its settings or its gates contradict each other.
    """
    problem = _problem_of(verdict, report, config)
    if problem is not None:
        raise DataError(f"the verdict contradicts itself: {problem}. Run `vivero judge` again")


def _problem_of(
    verdict: VerdictRecord, report: Mapping[str, Any], config: JudgeConfig
) -> str | None:
    if verdict.settings != config.model_dump(mode="json"):
        return "it was made with other settings (`judge` in params.yaml) than the present ones"
    otherwise: VerdictName = "champion" if verdict.is_champion_itself else "promote"
    if verdict.champion is None:
        otherwise = "first"
    name = verdict_name([gate.passed for gate in verdict.gates], otherwise)
    if name != verdict.verdict:
        why = f"; these gates did not pass: {'; '.join(verdict.open_reasons)}"
        return f"it is '{verdict.verdict}', and its gates give '{name}'" + (
            why if verdict.open_reasons else ""
        )
    if name in ("hold", "reject"):
        return None
    report = without_unusable(report)
    limits = limit_gates(report, config)
    failed = [gate.reason for gate in limits if gate.passed is not True]
    if failed:
        return f"its report does not pass: {'; '.join(failed)}"
    expected = {(gate.name, "limit") for gate in limits}
    expected |= {(condition, "condition") for condition in (TREE, EXPORT)}
    if name == "promote":
        expected |= set(compared_names(report))
        expected |= {(LATENCY, "non-inferiority")} if config.latency_budget_s else set()
    else:
        expected.add(("champion", "limit"))
    lacking = sorted(expected - {(gate.name, gate.kind) for gate in verdict.gates})
    if lacking:
        return f"these gates are missing: {', '.join(f'{gate} ({kind})' for gate, kind in lacking)}"
    return None


def require_present_champion(root: Path, name: str, verdict: VerdictRecord, again: str) -> None:
    """Refuse a verdict that was made against another champion than the registry names now.

    Args:
        root: Top of the repository.
        name: Registered model.
        verdict: As it was recorded.
        again: What to do about it.

    Raises:
        PromotionError: It names both champions.
    """
    champion = find_alias(root, name, CHAMPION)
    now: tuple[str | None, str | None, str | None] = NOBODY
    if champion is not None:
        identity = identity_of(root, champion)
        now = champion.version, identity.weights_sha256, identity.sampling_sha256
    if verdict.is_champion_itself or now != verdict.judged_against:
        raise PromotionError(
            f"the verdict is out of date: expected {_described(*verdict.judged_against)} to be "
            f"champion of '{name}', found {_described(*now)}. The champion is unchanged; {again}"
        )


def _described(version: str | None, weights: str | None, sampling: str | None) -> str:
    if version is None:
        return "nobody"
    hashes = f"weights {(weights or 'unknown')[:12]}, sampling {(sampling or 'unknown')[:12]}"
    return f"version {version} ({hashes})"


def verdict_folder(root: Path, version: ModelVersion) -> Path | None:
    """The verified folder with a version's last verdict.json and the metrics.json it is about.

    Returns:
        None where no verdict was signed with the version.

    Raises:
        BundleError: When the verdict is not the one that was registered.
    """
    is_later = report_tag(VERDICT_KEY) in version.tags
    folder = report_folder(root, version, VERDICT_KEY if is_later else None)
    return folder if folder is not None and (folder / VERDICT_NAME).is_file() else None


def registered_verdict(root: Path, version: ModelVersion) -> VerdictRecord | None:
    """The last verdict on a version, from its signed files; None where there is none.

    Raises:
        BundleError: When the files are not those that were signed.
        DataError: When the verdict is not about this version, or contradicts itself.
    """
    folder = verdict_folder(root, version)
    if folder is None:
        return None
    verdict = read_verdict(folder / VERDICT_NAME)
    require_verdict_on(verdict, identity_of(root, version), folder / METRICS_NAME)
    try:
        config = JudgeConfig.model_validate(verdict.settings)
    except ValidationError as error:
        raise DataError(
            f"the verdict on version {version.version} was made with settings that this version "
            f"of vivero does not have; run `vivero judge` and `vivero register` again"
        ) from error
    advice = "run `vivero judge` and `vivero register` where its artifacts/ are"
    report = read_report_record(folder / METRICS_NAME, advice).values()
    report.setdefault("lineage", version_lineage(root, version))
    require_verdict_follows(verdict, report, config)
    return verdict


def version_lineage(root: Path, version: ModelVersion) -> dict[str, Any]:
    """What the weights of a version were made from, from its verified bundle."""
    return dict(read_json(bring_here(root, version) / "bundle" / "lineage.json"))
