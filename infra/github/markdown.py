"""The comment on a pull request, from a report that nobody trusts.

Standard library only. The report was written by the code of the pull request: every name, word and
number is held to its form before it is shown, and nothing else of it is.
"""

import re
from typing import Any

from infra.github.records import COMMIT, RecordError, is_number

MAX_METRICS = 60
NAME = re.compile(r"[a-z0-9_.-]{1,60}")
VERDICTS = ("promote", "champion", "hold", "reject", "first")
MARK = "<!-- vivero pull-request report -->"


ReportError = RecordError  # nothing of the report is shown


def render(report: dict[str, Any], picture_url: str | None, run_url: str) -> str:
    """The comment's text.

    Args:
        report: report.json as it came.
        picture_url: Where the sample grid can be seen; None = only in the run's artifacts.
        run_url: Page of the run that made it.

    Raises:
        ReportError: When anything in the report is not of its form.
    """
    head, base = _side(report.get("head")), _side(report.get("base"), may_be_missing=True)
    lines = [MARK, "### The small pipeline on this pull request", ""]
    if base is None:
        lines += ["The base branch did not run with this environment: nothing to compare.", ""]
    lines += _table(head["metrics"], base["metrics"] if base else {})
    lines += ["", _sentence(head, base), ""]
    if picture_url:
        lines += [f"![sample grids of the base branch and of this pull request]({picture_url})", ""]
    lines.append(f"[Run, report and sample grid]({run_url}#artifacts)")
    return "\n".join(lines) + "\n"


def _side(side: Any, *, may_be_missing: bool = False) -> Any:
    if side is None and may_be_missing:
        return None
    if not isinstance(side, dict) or not isinstance(side.get("metrics"), dict):
        raise ReportError("a side of the report has no figures")
    if not COMMIT.fullmatch(str(side.get("commit"))) or side.get("verdict") not in VERDICTS:
        raise ReportError("a side of the report names no commit or no verdict")
    if not 0 < len(side["metrics"]) <= MAX_METRICS:
        raise ReportError(f"a side of the report has {len(side['metrics'])} figures")
    for name, metric in side["metrics"].items():
        _hold_metric_to_its_form(name, metric)
    seconds = side.get("seconds")
    if not isinstance(seconds, dict) or not all(map(is_number, seconds.values())):
        raise ReportError("a side of the report has no times")
    return side


def _hold_metric_to_its_form(name: str, metric: Any) -> None:
    numbers = ("value", "low", "high")
    if (
        not NAME.fullmatch(name)
        or not isinstance(metric, dict)
        or not all(is_number(metric.get(field)) for field in numbers)
        or metric.get("better") not in ("lower", "higher")
    ):
        raise ReportError("a figure of the report is not of its form")


def _table(head: dict[str, Any], base: dict[str, Any]) -> list[str]:
    lines = ["| metric | better | base | this pull request | change |", "| --- " * 5 + "|"]
    for name, metric in head.items():
        before = base.get(name)
        old = _cell(before) if before else ""
        lines.append(
            f"| {name} | {metric['better']} | {old} | {_cell(metric)} | {_change(before, metric)} |"
        )
    return lines


def _cell(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.4g} ({metric['low']:.4g} to {metric['high']:.4g})"


def _change(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    """Called better or worse only where the two 95 % intervals do not touch."""
    if before is None:
        return "new"
    if before["value"] == after["value"]:
        return "none"
    difference = f"{after['value'] - before['value']:+.3g}"
    if before["low"] <= after["high"] and after["low"] <= before["high"]:
        return f"{difference}, within noise"
    is_better = (after["value"] > before["value"]) == (after["better"] == "higher")
    return f"**{difference}, {'better' if is_better else 'worse'}**"


def _sentence(head: dict[str, Any], base: dict[str, Any] | None) -> str:
    seconds = sum(head["seconds"].values())
    of_base = f"; base {base['commit'][:10]}" if base else ""
    return (
        f"Value with its 95 % interval, on the small profile: a poor model, for comparison only. "
        f"Commit {head['commit'][:10]}{of_base}; verdict '{head['verdict']}' after "
        f"{seconds:.0f} s."
    )
