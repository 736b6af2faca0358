"""The gate: may a candidate take the champion's place? A pure rule over two reports.

Absolute limits first; then the same protocol, or no comparison; then the difference to the champion
beyond its own uncertainty. "Not worse than" would promote an equal model half of the time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

from vivero.config.schema import JudgeConfig

VerdictName = Literal["first", "promote", "hold", "reject"]
DISTANCES = ("fid.", "fd.")  # the primary figure: FID where Inception was at hand


@dataclass(frozen=True)
class Gate:
    """One condition: the value found, the limit, and whether it passed.

    Attributes:
        name: What is looked at.
        passed: None when it could not be decided from this report.
        value: What was found.
        limit: What was asked for.
        reason: A sentence for a person.
    """

    name: str
    passed: bool | None
    value: float | None
    limit: float | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What is to be done with the candidate, and why."""

    verdict: VerdictName
    gates: tuple[Gate, ...]

    @property
    def reasons(self) -> list[str]:
        """The sentences of all gates."""
        return [gate.reason for gate in self.gates]

    @property
    def may_promote(self) -> bool:
        """Whether the candidate may become champion."""
        return self.verdict in ("first", "promote")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"verdict": self.verdict, "gates": [asdict(gate) for gate in self.gates]}


def judge(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, config: JudgeConfig
) -> Verdict:
    """Hold a candidate's report (evaluate's metrics.json) against limits and the champion's.

    Args:
        candidate: Report with `metrics`, `protocol` and `lineage`.
        champion: The champion's report; None when there is no champion.
        config: The limits.

    Returns:
        `reject` when a limit is broken or the candidate is worse beyond chance; `first` without a
        champion; `hold` when the reports cannot be compared or the difference may be chance;
        `promote` when it is better beyond chance and by the least gain that was asked for.
    """
    gates = absolute_gates(candidate, config)
    if any(gate.passed is False for gate in gates):
        return Verdict("reject", gates)
    if champion is None:
        none_yet = Gate("champion", True, None, None, "there is no champion to compare with")
        return Verdict("first", (*gates, none_yet))
    comparison, verdict = compare(candidate, champion, config)
    return Verdict(verdict, (*gates, comparison))


def absolute_gates(report: Mapping[str, Any], config: JudgeConfig) -> tuple[Gate, ...]:
    """The limits that hold for every model, first or not."""
    gates = [_distance_gate(report, config), _lineage_gate(report)]
    for name, metric in _metrics(report, "label_agreement."):
        gates.append(_at_least(name, metric["value"], config.min_label_agreement))
    for name, metric in _metrics(report, "copied_share."):
        gates.append(_at_most(name, metric["value"], config.max_copied_share))
    return (*gates, *_gates_of_what_is_missing(report))


def _gates_of_what_is_missing(report: Mapping[str, Any]) -> list[Gate]:
    """A figure that a limit needs and that was not computed is a failed gate, with its reason.

    Data without classes has no labels to agree with, which is no failure.
    """
    missing = report.get("not_computed") or {}
    needed = {"copies of training images": "copied_share"}
    if report.get("has_classes", True):
        needed["label agreement"] = "label_agreement"
    return [
        Gate(metric, False, None, None, f"{metric} was not computed: {missing[group]}")
        for group, metric in needed.items()
        if group in missing
    ]


def compare(
    candidate: Mapping[str, Any], champion: Mapping[str, Any], config: JudgeConfig
) -> tuple[Gate, VerdictName]:
    """The difference of the primary distance, as a two-sided normal test.

    z = (champion - candidate) / sqrt(std_error_champion^2 + std_error_candidate^2)

    The gain is what the candidate's distance is lower; better needs both z beyond the quantile of
    the confidence and a gain of at least min_relative_gain of the champion's distance.
    """
    ours, theirs = candidate["protocol"]["hash"], champion["protocol"]["hash"]
    if ours != theirs:
        reason = (
            f"the champion was judged under another protocol ({theirs[:12]}, not {ours[:12]}): "
            f"check out the champion's commit and data, run `dvc repro evaluate` with the new "
            f"settings of evaluate, then `vivero judge` and `vivero register`, and judge again"
        )
        return Gate("protocol", None, None, None, reason), "hold"
    name, metric = _metrics(candidate, *DISTANCES)[0]
    other = champion["metrics"][name]
    gain = other["value"] - metric["value"]
    spread = (metric["std_error"] ** 2 + other["std_error"] ** 2) ** 0.5
    needed = NormalDist().inv_cdf((1 + config.confidence) / 2) * spread
    found = (
        f"{name} is {metric['value']:.4g}, the champion's {other['value']:.4g}: "
        f"a gain of {gain:.3g}, where chance alone gives up to {needed:.3g}"
    )
    if gain < -needed:
        return Gate(name, False, gain, -needed, f"worse beyond chance: {found}"), "reject"
    least = max(needed, config.min_relative_gain * other["value"])
    if gain > least:
        return Gate(name, True, gain, least, f"better beyond chance: {found}"), "promote"
    return Gate(name, None, gain, least, f"not better beyond chance: {found}"), "hold"


def _distance_gate(report: Mapping[str, Any], config: JudgeConfig) -> Gate:
    found = _metrics(report, *DISTANCES)
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


def _metrics(report: Mapping[str, Any], *prefixes: str) -> list[tuple[str, Mapping[str, Any]]]:
    """All metrics with one of the prefixes, those of the first prefix first."""
    names = [
        name for prefix in prefixes for name in sorted(report["metrics"]) if name.startswith(prefix)
    ]
    return [(name, report["metrics"][name]) for name in names]


def _at_least(name: str, value: float, limit: float) -> Gate:
    passed = value >= limit
    short = "" if passed else f", short by {limit - value:.3g}"
    return Gate(name, passed, value, limit, f"{name} is {value:.4g}, at least {limit:.4g}{short}")


def _at_most(name: str, value: float, limit: float) -> Gate:
    passed = value <= limit
    over = "" if passed else f", over by {value - limit:.3g}"
    return Gate(name, passed, value, limit, f"{name} is {value:.4g}, at most {limit:.4g}{over}")
