"""The gates that compare with the champion: better in one figure beyond chance, in no other worse.

The primary figure is the Frechet distance: superiority. Every other figure: non-inferiority, by a
margin. To promote, all must pass; that is an intersection-union test, whose level is that of its
single tests without a correction (Berger 1982, Technometrics 24). To reject, one that is worse
suffices; that is a union, so those p-values are raised by Holm's method. Models that were trained
apart also differ by their seed, so the error of a gain covers the variance between seeds; only a
model of the same weights is compared without it. Pure functions.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vivero.config.paths import SEED_VARIANCE
from vivero.config.schema import JudgeConfig
from vivero.evaluation.comparison import holm_adjusted
from vivero.evaluation.directions import better_of, is_share
from vivero.evaluation.paired import Gain, add_seed_variance, paired_error, unpaired_error
from vivero.evaluation.per_image import OF_REFERENCE
from vivero.evaluation.spread import SeedSpreads

DISTANCES = ("fid.", "fd.")  # the primary figure: FID where Inception was at hand
LATENCY = "latency"
GateKind = Literal["limit", "condition", "superiority", "non-inferiority"]
NOT_INFERIOR = {  # prefix of a figure, named as its margin, and the unit of that margin
    "label_agreement.": "share",
    "copied_share.": "share",
    "near_equal_share.": "share",
    "recall.": "share",
    "coverage.": "share",
    "unusable_share.": "share",
    "denoising_loss.": "of champion",
}
MEASURE_SEEDS = "`vivero seeds 1 2 3 4 5 6 --name default`"
POWER = 0.8


@dataclass(frozen=True)
class Gate:
    """One condition: the value found, the limit, and whether it passed.

    Attributes:
        name: What is looked at.
        passed: None when it is open: it could not be decided, or may be chance.
        value: What was found; of a difference how much better the candidate is (gain).
        limit: What was asked for; of a difference the least gain, below 0 for a margin.
        reason: A sentence for a person.
        kind: limit and condition stand alone; superiority and non-inferiority compare.
        low: Of a difference, lower end of its interval.
        high: The upper end.
        unit: What a difference of 1 is: the champion's value, for shown intervals.
        is_paired: Whether a difference was taken image by image.
    """

    name: str
    passed: bool | None
    value: float | None
    limit: float | None
    reason: str
    kind: GateKind = "limit"
    low: float | None = None
    high: float | None = None
    unit: str = ""
    is_paired: bool | None = None


@dataclass(frozen=True)
class Measurements:
    """What is known beside the two reports.

    Attributes:
        latency: How much less time the candidate takes, as a share of the champion's; None when it
            was not measured.
        spreads: How far each metric moves between seeds of one recipe; None when it is not known.
    """

    latency: Gain | None = None
    spreads: SeedSpreads | None = None


@dataclass(frozen=True)
class SeedTerm:
    """What is known of the variance between seeds in one difference.

    Attributes:
        is_known: Whether the error of the gain covers it, or need not.
        note: A sentence for the reason of the gate; may be empty.
    """

    is_known: bool
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """One figure of both models.

    Attributes:
        name: The figure.
        gain: How much better the candidate's is.
        margin: How much worse it may be, in the figure's unit; 0 for the primary.
        unit: Of gain and margin.
        said: Both values, in words.
        least: What the gain of the primary must be at least; None for all others.
        seeds: How the variance between seeds went into the error of the gain.
    """

    name: str
    gain: Gain
    margin: float
    unit: str
    said: str
    least: float | None = None
    seeds: SeedTerm = SeedTerm(is_known=True)

    @property
    def is_measured(self) -> bool:
        """Whether all its numbers are finite: NaN and infinity decide nothing."""
        bounds = (self.margin, 0.0 if self.least is None else self.least)
        return self.gain.is_measured and all(math.isfinite(bound) for bound in bounds)

    @property
    def has_error(self) -> bool:
        """Whether its error is known: 0 is, only where no image differs at all."""
        return bool(self.gain.std_error) or (self.gain.is_paired and not self.gain.value)

    @property
    def p_worse(self) -> float:
        """One-sided p-value of "worse by more than the margin"; 1 for what was not measured."""
        if not self.is_measured:
            return 1.0
        over = self.gain.value + self.margin
        if not self.seeds.is_known or not self.gain.std_error:
            return 1.0
        return self.gain.probability(over)


def difference_gates(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any],
    config: JudgeConfig,
    measured: Measurements,
) -> tuple[Gate, ...]:
    """One gate for each figure that both reports have, the primary first.

    With t the quantile of (1 + c) / 2 of Student's distribution with the degrees of freedom of the
    error, where c is superiority_confidence for the first line and confidence for the others:
        superior      gain - t error > 0 and gain >= min_relative_gain of the champion's value
        not inferior  gain - t error >= -margin
        worse         Holm-adjusted p-value of gain < -margin at most (1 - confidence) / 2

    The error covers the images and, for models of different weights, the seeds of both trainings.
    The least gain matters where only images count: with ever more of them significance alone would
    promote ever smaller gains.
    """
    found = list(differences(candidate, champion, config, measured))
    adjusted = holm_adjusted([difference.p_worse for difference in found])
    return tuple(
        _gate(difference, p_worse, config)
        for difference, p_worse in zip(found, adjusted, strict=True)
    )


def compared_names(report: Mapping[str, Any]) -> list[tuple[str, GateKind]]:
    """Name and kind of the gates that compare a report with a champion's."""
    primary: list[tuple[str, GateKind]] = [
        (name, "superiority") for name, _ in metrics_named(report, *DISTANCES)[:1]
    ]
    return [
        *primary,
        *((name, "non-inferiority") for name, _ in metrics_named(report, *NOT_INFERIOR)),
    ]


def differences(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any],
    config: JudgeConfig,
    measured: Measurements,
) -> Iterator[Difference]:
    """Every figure that is compared, with its margin in the figure's own unit."""
    for primary, _ in metrics_named(candidate, *DISTANCES)[:1]:
        if primary in champion["metrics"]:
            theirs = champion["metrics"][primary]["value"]
            least = config.min_relative_gain * abs(theirs)
            gain, seeds = gain_over_seeds(primary, candidate, champion, measured.spreads)
            said = _said(primary, candidate, champion)
            yield Difference(primary, gain, 0.0, "distance", said, least, seeds)
    margins = config.margins
    for prefix, unit in NOT_INFERIOR.items():
        margin = float(getattr(margins, prefix.rstrip(".")))
        for name, _ in metrics_named(candidate, prefix):
            if name in champion["metrics"]:
                scale = abs(champion["metrics"][name]["value"]) if unit == "of champion" else 1.0
                gain, seeds = gain_over_seeds(name, candidate, champion, measured.spreads)
                said = _said(name, candidate, champion)
                unit_of_gain = "loss" if scale != 1 else unit
                yield Difference(name, gain, margin * scale, unit_of_gain, said, seeds=seeds)
    latency = measured.latency
    if latency is not None:
        less = "less" if latency.value >= 0 else "more"
        said = f"the time per image is {abs(latency.value):.1%} {less} than the champion's"
        yield Difference(LATENCY, latency, margins.latency, "of champion", said)


def gain_over_seeds(
    name: str,
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any],
    spreads: SeedSpreads | None,
) -> tuple[Gain, SeedTerm]:
    """The gain with the error of images and seeds, and what is known of the seeds."""
    gain = gain_of(name, candidate, champion)
    if _weights(candidate) and _weights(candidate) == _weights(champion):
        return gain, SeedTerm(True, "the same weights, so no seeds are compared")
    if spreads is None:
        return gain, SeedTerm(False, f"{SEED_VARIANCE} is missing")
    spread = spreads.find(name)
    if spread is None:
        reason = spreads.why_not_known(name) or f"{SEED_VARIANCE} has no {name}"
        return gain, SeedTerm(False, reason)
    ours, theirs = (report["metrics"][name]["value"] for report in (candidate, champion))
    note = f"seeds differ by {spread.relative_std:.2g} ({len(spread.values)} trainings"
    note += f", {spreads.note})" if spreads.note else ")"
    return add_seed_variance(gain, ours, theirs, spread), SeedTerm(True, note)


def _weights(report: Mapping[str, Any]) -> str:
    return str((report.get("lineage") or {}).get("weights_sha256") or "")


def gain_of(name: str, candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Gain:
    """How much better the candidate's figure is; its error by image where both reports allow."""
    ours, theirs = candidate["metrics"][name], champion["metrics"][name]
    value = theirs["value"] - ours["value"]
    if better_of(name) == "higher":
        value = -value
    rows = _pair(name, candidate, champion)
    if rows is None:
        errors, counts = (ours["std_error"], theirs["std_error"]), (ours["n"], theirs["n"])
        error = unpaired_error(*errors, *counts) if is_share(name) else math.hypot(*errors)
        return Gain(value, error, ours["n"], is_paired=False)
    error = paired_error(*rows)
    of_reference = _pair(name + OF_REFERENCE, candidate, champion)
    if of_reference is not None:
        error = (error**2 + paired_error(*of_reference) ** 2) ** 0.5
    return Gain(value, error, len(rows[0]), is_paired=True)


def metrics_named(report: Mapping[str, Any], *prefixes: str) -> list[tuple[str, Mapping[str, Any]]]:
    """All metrics with one of the prefixes, those of the first prefix first."""
    names = [
        name for prefix in prefixes for name in sorted(report["metrics"]) if name.startswith(prefix)
    ]
    return [(name, report["metrics"][name]) for name in names]


def _pair(name: str, candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> Any | None:
    """The values per image of both, when both have as many, and enough for an error."""
    ours, theirs = ((report.get("per_image") or {}).get(name) for report in (candidate, champion))
    if ours is None or theirs is None or ours.shape != theirs.shape or len(ours) < 2:
        return None
    return ours, theirs


def _gate(difference: Difference, p_worse: float, config: JudgeConfig) -> Gate:
    if not difference.is_measured:
        return _gate_without_numbers(difference)
    gain, is_primary = difference.gain, difference.least is not None
    confidence = config.superiority_confidence if is_primary else config.confidence
    level = (1 - confidence) / 2
    reach = gain.quantile(1 - level) * gain.std_error if gain.std_error else 0.0
    if difference.least is None:
        kind: GateKind = "non-inferiority"
        asked_for, said = -difference.margin, f"surely above -{difference.margin:.3g}"
        passed, found = _non_inferiority(difference, reach)
    else:
        kind = "superiority"
        asked_for, said = difference.least, f"surely above 0, and {difference.least:.3g}"
        passed, found = _superiority(gain, reach, difference.least)
    if p_worse <= (1 - config.confidence) / 2:
        passed = False
        found = "worse beyond chance" + (" and margin" if difference.least is None else "")
    if not difference.has_error:
        passed, found = None, "cannot be decided, because the standard error is 0"
    if not difference.seeds.is_known:
        passed, found = None, "the variance between seeds is not known"
    reason = (
        f"{found}: {difference.said}: a gain of {gain.value:.3g} ± {reach:.2g} "
        f"({confidence:.3g} confidence, {_how(difference)}); asked for: {said}"
    )
    if not difference.seeds.is_known:
        reason += f". {difference.seeds.note}: run {MEASURE_SEEDS}, commit the file, judge again"
    elif difference.least is not None and passed is None and gain.std_error:
        seen = (gain.quantile(1 - level) + gain.quantile(POWER)) * gain.std_error
        reason += f". A true gain of {seen:.3g} would be found in {POWER:.0%} of such comparisons"
    return Gate(
        name=difference.name,
        passed=passed,
        value=gain.value,
        limit=asked_for,
        reason=reason,
        kind=kind,
        low=gain.value - reach,
        high=gain.value + reach,
        unit=difference.unit,
        is_paired=gain.is_paired,
    )


def _gate_without_numbers(difference: Difference) -> Gate:
    """An open gate: the difference or its error is not a finite number."""
    return Gate(
        name=difference.name,
        passed=None,
        value=None,
        limit=None,
        reason=(
            f"cannot be decided: {difference.said}: the gain is {difference.gain.value:.3g} with a "
            f"standard error of {difference.gain.std_error:.3g}, and both must be finite numbers; "
            f"judge again, and if it stays so, run `dvc repro -f evaluate` for both models"
        ),
        kind="non-inferiority" if difference.least is None else "superiority",
        unit=difference.unit,
        is_paired=difference.gain.is_paired,
    )


def _superiority(gain: Gain, reach: float, least: float) -> tuple[bool | None, str]:
    if gain.value - reach <= 0:
        return None, "not better beyond chance"
    if gain.value < least:
        return None, "better, but by too little to be worth a change"
    return True, "better beyond chance"


def _non_inferiority(difference: Difference, reach: float) -> tuple[bool | None, str]:
    if difference.gain.value - reach >= -difference.margin:
        return True, "not worse"
    return None, "perhaps worse"


def _how(difference: Difference) -> str:
    if difference.name == LATENCY:
        return f"{difference.gain.n} rounds, in turn"
    how = "image by image" if difference.gain.is_paired else "unpaired: a report lacks the values"
    is_told = difference.seeds.is_known and difference.seeds.note
    return f"{how}; {difference.seeds.note}" if is_told else how


def _said(name: str, candidate: Mapping[str, Any], champion: Mapping[str, Any]) -> str:
    ours, theirs = candidate["metrics"][name]["value"], champion["metrics"][name]["value"]
    return f"{name} is {ours:.4g}, the champion's {theirs:.4g}"
