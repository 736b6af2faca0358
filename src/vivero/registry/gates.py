"""The gate: may a candidate take the champion's place? A pure rule over two reports.

Three kinds of gates, told apart in docs/guides/promotion.md: limits hold for every model,
conditions are facts about how it was made (clean tree, export), differences compare it with the
champion, image by image where both reports have such values. A gate that fails rejects, one that is
open holds; the rest is `first` without a champion, `promote` with one, and `champion` when the
candidate is that itself. "Not worse than" would promote an equal model half of the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vivero.config.schema import JudgeConfig
from vivero.registry.differences import (
    DISTANCES,
    Gate,
    Measurements,
    difference_gates,
    metrics_named,
)

VerdictName = Literal["first", "promote", "champion", "hold", "reject"]
NOTHING_MEASURED = Measurements()
LIMITS = {  # by the beginning of a figure's name: its group, which a report may say is missing
    "label_agreement.": "label agreement",
    "copied_share.": "copies of training images",
    "unusable_share.": "unusable images",
}


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
        return {"verdict": self.verdict, "gates": [asdict(gate) for gate in self.gates]}


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
        measured: Latency and the spread between seeds, where they are known.
        is_champion: The candidate is the champion itself, so there is nothing to compare.

    Returns:
        `reject` when a gate fails: a limit is broken, or the candidate is worse beyond chance and
        margin. `hold` when a gate is open: the reports cannot be compared, or a difference may be
        chance. Else `champion` for the champion itself, `first` without one, `promote` with one.
    """
    gates = (*limit_gates(candidate, config), *conditions)
    if is_champion:
        itself = Gate("champion", True, None, None, "it is the champion: nothing to compare with")
        return Verdict(_verdict(gates, "champion"), (*gates, itself))
    if champion is None:
        none_yet = Gate("champion", True, None, None, "there is no champion to compare with")
        return Verdict(_verdict(gates, "first"), (*gates, none_yet))
    if any(gate.passed is False for gate in gates):
        return Verdict("reject", gates)
    protocols = candidate["protocol"]["hash"], champion["protocol"]["hash"]
    if protocols[0] != protocols[1]:
        gates = (*gates, _other_protocol(*protocols))
    else:
        gates = (*gates, *difference_gates(candidate, champion, config, measured))
    return Verdict(_verdict(gates, "promote"), gates)


def _verdict(gates: Sequence[Gate], otherwise: VerdictName) -> VerdictName:
    if any(gate.passed is False for gate in gates):
        return "reject"
    return "hold" if any(gate.passed is None for gate in gates) else otherwise


def limit_gates(report: Mapping[str, Any], config: JudgeConfig) -> tuple[Gate, ...]:
    """The limits that hold for every model, first or not; they never move with the champion."""
    gates = [_distance_gate(report, config), _lineage_gate(report)]
    for name, metric in metrics_named(report, "label_agreement."):
        gates.append(_at_least(name, metric["value"], config.min_label_agreement))
    for name, metric in metrics_named(report, "copied_share."):
        gates.append(_at_most(name, metric["value"], config.max_copied_share))
    for name, metric in metrics_named(report, "unusable_share."):
        gates.append(_at_most(name, metric["value"], config.max_unusable_share))
    return (*gates, *_gates_of_what_is_missing(report))


def _gates_of_what_is_missing(report: Mapping[str, Any]) -> list[Gate]:
    """A figure that a limit needs and that was not computed is a failed gate, with its reason.

    Data without classes has no labels to agree with, which is no failure.
    """
    missing = report.get("not_computed") or {}
    needed = {group: prefix.rstrip(".") for prefix, group in LIMITS.items()}
    if not report.get("has_classes", True):
        del needed["label agreement"]
    return [
        Gate(metric, False, None, None, f"{metric} was not computed: {missing[group]}")
        for group, metric in needed.items()
        if group in missing
    ]


def _other_protocol(ours: str, theirs: str) -> Gate:
    reason = (
        f"the champion was judged under another protocol ({theirs[:12]}, not {ours[:12]}): "
        f"check out the champion's commit and data, run `dvc repro evaluate` with the new "
        f"settings of evaluate, then `vivero judge` and `vivero register`, and judge again"
    )
    return Gate("protocol", None, None, None, reason)


def _distance_gate(report: Mapping[str, Any], config: JudgeConfig) -> Gate:
    found = metrics_named(report, *DISTANCES)
    if not found:
        why = (report.get("not_computed") or {}).get("distances", "the report has none")
        reason = f"there is no Fréchet distance to judge by: {why}"
        return Gate("Fréchet distance", False, None, None, reason)
    name, metric = found[0]
    if metric["floor"] is None or metric["floor"] <= 0:
        return Gate(f"{name} over floor", None, None, None, f"{name} has no floor to compare with")
    ratio = metric["value"] / metric["floor"]
    return _at_most(f"{name} over floor", ratio, config.max_frechet_over_floor)


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
