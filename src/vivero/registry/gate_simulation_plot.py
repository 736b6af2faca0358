"""The picture of a simulated gate: its power, and what a row of equal retrains does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from vivero.evaluation.intervals import share_estimate
from vivero.evaluation.plots import new_figure, save_figure
from vivero.registry.gate_simulation import Row, Rows, Simulation, Trials, power

GATE, NAIVE = "#0072B2", "#D55E00"


def plot_outcome(simulation: Simulation, trials: Trials, rows: Rows, path: Path) -> None:
    """Draw promotions over the true gain, and the recorded distance over retrains.

    Args:
        simulation: What was tried.
        trials: Single comparisons.
        rows: Rows of equal retrains.
        path: PNG to write.
    """
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    _power(left, simulation, trials)
    _ratchet(right, rows)
    save_figure(figure, path)


def _power(axes: Axes, simulation: Simulation, trials: Trials) -> None:
    metric = simulation.reports[0]["metrics"][simulation.primary]
    image_error = 2**0.5 * metric["std_error"] / metric["value"]
    detectable = simulation.config.detectable_relative_gain
    spread = simulation.spreads[simulation.primary]
    gains = np.linspace(0, min(0.9, 2 * detectable), 121)
    curve = [power(gain, image_error, spread, simulation.config) for gain in gains]
    label = f"computed; {len(spread.values)} seeds, spread {spread.relative_std:.1%}"
    axes.plot(100 * gains, curve, "-", color=GATE, label=label)
    for gain, promoted in ((0.0, trials.equal), (detectable, trials.better)):
        share = share_estimate(sum(promoted), len(promoted))
        reach = [[share.value - share.low], [share.high - share.value]]
        axes.errorbar([100 * gain], [share.value], yerr=reach, fmt="o", color="black", capsize=4)
    axes.plot([0], [trials.naive / len(trials.equal)], "x", color=NAIVE, label="'not worse than'")
    axes.axhline(0.8, color="grey", linewidth=0.8, linestyle=":")
    axes.axhline(0.05, color="grey", linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("true gain of the recipe in Fréchet distance, % of the champion's")
    axes.set_ylabel("share of candidates that are promoted")
    axes.set_title(f"Promotions; dots: {len(trials.equal)} simulated comparisons", fontsize=10)
    axes.legend(fontsize=8, loc="center right")
    axes.grid(alpha=0.3)


def _ratchet(axes: Axes, rows: Rows) -> None:
    for label, some, colour in (
        ("recorded, this gate", rows.gate, GATE),
        ("recorded, 'not worse than'", rows.naive, NAIVE),
    ):
        course = mean_course(some)
        axes.plot(range(len(course)), 100 * course, color=colour, label=label)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("equal retrains")
    axes.set_ylabel("change of the champion's recorded distance, %")
    axes.set_title(f"A row of equal retrains, mean of {len(rows.gate)}", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)


def mean_course(rows: Sequence[Row]) -> np.ndarray:
    """The change after each retrain, mean over rows."""
    return np.asarray(np.mean([row.recorded for row in rows], axis=0))
