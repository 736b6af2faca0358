"""The picture of a verdict: every difference to the champion with its interval and its margin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from vivero.evaluation.plots import new_figure, save_figure
from vivero.registry.verdict_page import MARKS, found, headline

COLOURS = {True: "#009E73", False: "#D55E00", None: "#999999"}  # for the colour-blind too
ROW_HEIGHT_IN = 0.62


def plot_verdict(verdict: Mapping[str, Any], path: Path) -> bool:
    """Draw a forest plot of the gates that compare, each on its own scale.

    Args:
        verdict: As in verdict.json.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    gates = [gate for gate in verdict["gates"] if gate.get("low") is not None]
    if not gates:
        return False
    figure = new_figure(9.0, ROW_HEIGHT_IN * len(gates) + 1.2)
    panels = figure.subplots(len(gates), 1, squeeze=False).flat
    for axes, gate in zip(panels, gates, strict=True):
        _row(axes, gate)
    figure.suptitle(headline(verdict), fontsize=10)
    figure.supxlabel(
        "worse than the champion  <  0  >  better, with its interval; the blue bar is asked for",
        fontsize=9,
    )
    save_figure(figure, path)
    return True


def _row(axes: Axes, gate: Mapping[str, Any]) -> None:
    colour = COLOURS[gate["passed"]]
    error = [[gate["value"] - gate["low"]], [gate["high"] - gate["value"]]]
    axes.errorbar([gate["value"]], [0], xerr=error, fmt="o", color=colour, capsize=4, markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.plot([gate["limit"]], [0], "|", color="#0072B2", markersize=22, markeredgewidth=2.5)
    widest = 1.25 * max(abs(gate[key]) for key in ("low", "high", "limit")) or 1.0
    axes.set_xlim(-widest, widest)
    axes.set_ylim(-1, 1)
    axes.set_yticks([0], [f"{gate['name']}\n{found(gate)} {gate['unit']}"], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.text(1.01, 0.5, MARKS[gate["passed"]], transform=axes.transAxes, color=colour, va="center")
    axes.spines[["top", "right", "left"]].set_visible(False)
