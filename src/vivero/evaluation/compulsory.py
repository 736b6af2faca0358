"""The metrics that a verdict needs: one list, which is part of the protocol of every evaluation.

A compulsory metric that is missing, or is not a finite number, leaves a verdict open: it never
counts as passed. A new metric of the gate is one line here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vivero.errors import NotComputableError
from vivero.evaluation.directions import is_share


@dataclass(frozen=True)
class Compulsory:
    """A metric that a report must have.

    Attributes:
        name: How the protocol calls it.
        prefixes: How its full name begins; the first of them that is found counts.
        group: The key in `not_computed` of a report where the reason is given.
        needs_classes: Whether data without classes is exempt.
    """

    name: str
    prefixes: tuple[str, ...]
    group: str
    needs_classes: bool = False


COMPULSORY = (
    Compulsory("frechet_distance", ("fid.", "fd."), "distances"),
    Compulsory("label_agreement", ("label_agreement.",), "label agreement", needs_classes=True),
    Compulsory("copied_share.pixels", ("copied_share.pixels.",), "copies of training images"),
    Compulsory("copied_share.features", ("copied_share.features.",), "copies of training images"),
    Compulsory("near_equal_share", ("near_equal_share.",), "near-equal samples"),
    Compulsory("recall", ("recall.",), "precision and recall"),
    Compulsory("coverage", ("coverage.",), "precision and recall"),
    Compulsory("unusable_share", ("unusable_share.",), "unusable images"),
    Compulsory("denoising_loss.mean", ("denoising_loss.mean.",), "denoising loss"),
)
NUMBERS = ("value", "std_error", "low", "high")  # of a metric; each must be there and finite


def compulsory_names(has_classes: bool) -> list[str]:
    """What the protocol of an evaluation lists for its data."""
    return [item.name for item in COMPULSORY if has_classes or not item.needs_classes]


def missing_metrics(report: Mapping[str, Any]) -> dict[str, str]:
    """Compulsory metrics that a report lacks, with the reason.

    The list of a protocol can add metrics, never remove one: only data without classes is exempt
    from what needs classes. A report whose protocol has no list must have all of them.
    """
    known = {item.name: item for item in COMPULSORY}
    protocol = report["protocol"]
    listed = protocol.get("compulsory") or list(known)
    own = compulsory_names(has_classes=protocol.get("classifier_sha256") is not None)
    missing = {}
    for name in dict.fromkeys([*own, *listed]):
        item = known.get(name)
        if item is None:
            missing[name] = "this version of vivero does not know it"
        elif not _found(report, item.prefixes):
            not_computed = report.get("not_computed") or {}
            missing[name] = str(not_computed.get(item.group, "the report does not have it"))
    return missing


def problem_of(name: str, metric: object) -> str | None:
    """Why the numbers of a metric cannot be used; None when they can."""
    if not isinstance(metric, Mapping):
        return "it is no record of numbers"
    n = metric.get("n")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        return "its n is no whole number of at least 1"
    for key in NUMBERS:
        number = metric.get(key)
        if isinstance(number, bool) or not isinstance(number, int | float):
            return f"its {key} is no number"
        if not math.isfinite(number):
            return f"its {key} is {number}"
        if key == "std_error" and number < 0:
            return f"its {key} is {number}, less than 0"
        if key != "std_error" and is_share(name) and not 0 <= number <= 1:
            return f"its {key} is {number}, which is no share"
    return None


def require_numbers(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse metrics whose numbers are not finite.

    Raises:
        NotComputableError: Names the first of them.
    """
    for name, metric in metrics.items():
        problem = problem_of(name, metric)
        if problem is not None:
            raise NotComputableError(f"{name} cannot be used: {problem}")


def without_unusable(report: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a report whose metrics are finite numbers; the others are `not_computed`."""
    problems = {name: problem_of(name, metric) for name, metric in report["metrics"].items()}
    reasons = {
        _group_of(name): f"{name} cannot be used: {problem}"
        for name, problem in problems.items()
        if problem is not None
    }
    metrics = {name: metric for name, metric in report["metrics"].items() if problems[name] is None}
    not_computed = {**(report.get("not_computed") or {}), **reasons}
    return {**report, "metrics": metrics, "not_computed": not_computed}


def metrics_without_partner(
    candidate: Mapping[str, Any], champion: Mapping[str, Any]
) -> dict[str, str]:
    """Full names of gated metrics that only the first report has, with the reason."""
    not_computed = champion.get("not_computed") or {}
    prefixes = tuple(prefix for item in COMPULSORY for prefix in item.prefixes)
    return {
        name: str(not_computed.get(_group_of(name), "the report does not have it"))
        for name in candidate["metrics"]
        if name.startswith(prefixes) and name not in champion["metrics"]
    }


def _found(report: Mapping[str, Any], prefixes: Sequence[str]) -> bool:
    return any(name.startswith(prefix) for prefix in prefixes for name in report["metrics"])


def _group_of(metric_name: str) -> str:
    groups = (item.group for item in COMPULSORY if metric_name.startswith(item.prefixes))
    return next(groups, metric_name)
