"""The gate: may a candidate take the champion's place? A pure rule over two reports.

Three kinds of gates, told apart in docs/guides/promotion.md: limits hold for every model,
conditions are facts about how it was made (clean tree, export), differences compare it with the
champion, image by image where both reports have such values. A gate that fails rejects, one that is
open holds; the rest is `first` without a champion, `promote` with one, and `champion` when the
candidate is that itself. "Not worse than" would promote an equal model half of the time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vivero.config.schema import JudgeConfig
from vivero.evaluation.compulsory import (
    metrics_without_partner,
    missing_metrics,
    without_unusable,
)
from vivero.integrity.records import shown
from vivero.registry.differences import (
    DISTANCES,
    LATENCY,
    Gate,
    Measurements,
    difference_gates,
    metrics_named,
)

VerdictName = Literal["first", "promote", "champion", "hold", "reject"]
NOTHING_MEASURED = Measurements()
MAX_REASON_CHARACTERS = 4000


@dataclass(frozen=True)
class Verdict:
    """What is to be done with the candidate, and why."""

    verdict: VerdictName
    gates: tuple[Gate, ...]

    @property
    def reasons(self) -> list[str]:
        """The sentences of all gates."""
        return [gate.reason for gate in self.gates]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        gates = [
            {**asdict(gate), "reason": shown(gate.reason, MAX_REASON_CHARACTERS)}
            for gate in self.gates
        ]
        return {"verdict": self.verdict, "gates": gates}


def judge(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    config: JudgeConfig,
    conditions: Sequence[Gate] = (),
    measured: Measurements = NOTHING_MEASURED,
    *,
    is_champion: bool = False,
) -> Verdict:
    """Hold a candidate's report (evaluate's metrics.json) against limits and the champion's.

    Args:
        candidate: Report with `metrics`, `protocol` and `lineage`; `per_image` where it is known.
        champion: The champion's report; None when there is no champion.
        config: Limits, margins and confidence.
        conditions: Gates about how the candidate was made, decided by what gathered the facts.
        measured: Latency and the spread between seeds, where they are known. A latency that is
            missing leaves the verdict open if config gives it a time budget.
        is_champion: The candidate is the champion itself, so there is nothing to compare.

    Returns:
        `reject` when a gate fails: a limit is broken, or the candidate is worse beyond chance and
        margin. `hold` when a gate is open: a compulsory metric is missing in either report, the
        reports cannot be compared, or a difference may be chance. Else `champion` for the champion
        itself, `first` without one, `promote` with one.
    """
    candidate = without_unusable(candidate)
    gates = (*limit_gates(candidate, config), *conditions)
    if is_champion:
        itself = Gate("champion", True, None, None, "it is the champion: nothing to compare with")
        return Verdict(_verdict(gates, "champion"), (*gates, itself))
    if champion is None:
        none_yet = Gate("champion", True, None, None, "there is no champion to compare with")
        return Verdict(_verdict(gates, "first"), (*gates, none_yet))
    if any(gate.passed is False for gate in gates):
        return Verdict("reject", gates)
    champion = without_unusable(champion)
    rulers = ruler_hash(candidate), ruler_hash(champion)
    if rulers[0] != rulers[1]:
        why = champion.get("not_evaluated_again", "evaluate it again (`vivero judge`)")
        return Verdict("hold", (*gates, _other_protocol(*rulers, str(why))))
    gates = (*gates, *_missing_gates("champion", metrics_without_partner(candidate, champion)))
    if measured.latency is None and config.latency_budget_s:
        gates = (*gates, _open(LATENCY, "the time per image was not measured"))
    gates = (*gates, *difference_gates(candidate, champion, config, measured))
    return Verdict(_verdict(gates, "promote"), gates)


def verdict_name(passed: Sequence[bool | None], otherwise: VerdictName) -> VerdictName:
    """What follows from the gates; otherwise: where all of them pass."""
    if any(found is False for found in passed):
        return "reject"
    return "hold" if any(found is None for found in passed) else otherwise


def _verdict(gates: Sequence[Gate], otherwise: VerdictName) -> VerdictName:
    return verdict_name([gate.passed for gate in gates], otherwise)


def limit_gates(report: Mapping[str, Any], config: JudgeConfig) -> tuple[Gate, ...]:
    """The limits that hold for every model, first or not; they never move with the champion."""
    gates = [*_distance_gates(report, config), _lineage_gate(report)]
    for name, metric in metrics_named(report, "label_agreement."):
        gates.append(_at_least(name, metric["value"], config.min_label_agreement))
    for name, metric in metrics_named(report, "copied_share."):
        gates.append(_at_most(name, metric["value"], config.max_copied_share))
    for name, metric in metrics_named(report, "near_equal_share."):
        gates.append(_at_most(name, metric["value"], config.max_near_equal_share))
    gates += _over_floor_gates(report, "recall.", config.min_recall_over_floor)
    gates += _over_floor_gates(report, "coverage.", config.min_coverage_over_floor)
    for name, metric in metrics_named(report, "unusable_share."):
        gates.append(_at_most(name, metric["value"], config.max_unusable_share))
    return (*gates, *_missing_gates("candidate", missing_metrics(report)))


def _missing_gates(whose: str, missing: Mapping[str, str]) -> list[Gate]:
    """An open gate for each compulsory metric that a report lacks."""
    return [
        _open(name, f"{name} of the {whose} is missing: {why}") for name, why in missing.items()
    ]


def _open(name: str, reason: str) -> Gate:
    return Gate(name, None, None, None, reason)


def ruler_hash(report: Mapping[str, Any]) -> str:
    """Hash of all that two reports must share to be compared: the protocol but the sampling."""
    protocol = report["protocol"]
    return str(protocol.get("ruler_hash", protocol["hash"]))


def _other_protocol(ours: str, theirs: str, why: str) -> Gate:
    reason = (
        f"the champion was evaluated under another protocol ({theirs[:12]}, not {ours[:12]}): {why}"
    )
    return _open("protocol", reason)


def _distance_gates(report: Mapping[str, Any], config: JudgeConfig) -> list[Gate]:
    """The limit of the Fréchet distance; none where the report lacks it (`_missing_gates`)."""
    gates = []
    for name, metric in metrics_named(report, *DISTANCES)[:1]:
        ratio = _ratio_to_floor(metric)
        if ratio is None:
            gates.append(_without_floor(name))
        else:
            gates.append(_at_most(f"{name} over floor", ratio, config.max_frechet_over_floor))
    return gates


def _over_floor_gates(report: Mapping[str, Any], prefix: str, least: float) -> list[Gate]:
    """The limit of a metric that is higher for better models, as a share of real images' own."""
    gates = []
    for name, metric in metrics_named(report, prefix):
        ratio = _ratio_to_floor(metric)
        if ratio is None:
            gates.append(_without_floor(name))
        else:
            gates.append(_at_least(f"{name} over floor", ratio, least))
    return gates


def _ratio_to_floor(metric: Mapping[str, Any]) -> float | None:
    """The value over its floor; None without a floor that can be divided by."""
    floor = metric.get("floor")
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 < floor < math.inf:
        return None
    return float(metric["value"] / floor)


def _without_floor(name: str) -> Gate:
    return _open(f"{name} over floor", f"{name} has no floor to compare with")


def _lineage_gate(report: Mapping[str, Any]) -> Gate:
    lineage = report.get("lineage") or {}
    missing = [
        name for name in ("data_digest", "params_sha256", "weights_sha256") if not lineage.get(name)
    ]
    if missing:
        reason = f"the lineage does not say: {', '.join(missing)}"
        return Gate("lineage", False, None, None, reason)
    return Gate("lineage", True, None, None, "the lineage names data, settings and weights")


def _at_least(name: str, value: float, limit: float) -> Gate:
    passed = value >= limit
    short = "" if passed else f", short by {limit - value:.3g}"
    return Gate(name, passed, value, limit, f"{name} is {value:.4g}, at least {limit:.4g}{short}")


def _at_most(name: str, value: float, limit: float) -> Gate:
    passed = value <= limit
    over = "" if passed else f", over by {value - limit:.3g}"
    return Gate(name, passed, value, limit, f"{name} is {value:.4g}, at most {limit:.4g}{over}")
