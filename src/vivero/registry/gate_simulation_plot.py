"""The picture of a simulated gate: its power, and what a row of equal retrains does."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from vivero.config.schema import JudgeConfig
from vivero.evaluation.intervals import share_estimate
from vivero.evaluation.plots import new_figure, save_figure
from vivero.registry.gate_simulation import Outcome, power

GATE, NAIVE = "#0072B2", "#D55E00"
PAIRED_CORRELATION = 0.82  # of influences of two real models on the same noise: docs/experiments.md


def plot_outcome(outcome: Outcome, config: JudgeConfig, path: Path) -> None:
    """Draw promotions over the true gain, and the recorded figure over retrains.

    Args:
        outcome: What was simulated.
        config: The rule's settings.
        path: PNG to write.
    """
    figure = new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    _power(left, outcome, config)
    _ratchet(right, outcome)
    save_figure(figure, path)


def _power(axes: Axes, outcome: Outcome, config: JudgeConfig) -> None:
    error = float(np.std(outcome.gains[0], ddof=1))
    gains = np.linspace(0, 2 * outcome.true_gain, 121)
    paired = error * (1 - PAIRED_CORRELATION) ** 0.5
    for label, std_error, style in (
        ("computed, models share nothing", error, "-"),
        (f"computed, same noise (correlation {PAIRED_CORRELATION})", paired, "--"),
    ):
        curve = [power(gain, std_error, config) for gain in gains]
        axes.plot(100 * gains, curve, style, color=GATE, label=label)
    for gain, verdicts in ((0.0, outcome.equal), (outcome.true_gain, outcome.better)):
        share = share_estimate(verdicts.count("promote"), len(verdicts))
        reach = [[share.value - share.low], [share.high - share.value]]
        axes.errorbar([100 * gain], [share.value], yerr=reach, fmt="o", color="black", capsize=4)
    axes.plot([0], [outcome.naive / len(outcome.equal)], "x", color=NAIVE, label="'not worse than'")
    axes.axhline(0.8, color="grey", linewidth=0.8, linestyle=":")
    axes.axhline(0.05, color="grey", linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("true gain in Fréchet distance, % of the champion's")
    axes.set_ylabel("share of candidates that are promoted")
    axes.set_title(f"Promotions; dots: {len(outcome.equal)} simulated comparisons", fontsize=10)
    axes.legend(fontsize=8, loc="center right")
    axes.grid(alpha=0.3)


def _ratchet(axes: Axes, outcome: Outcome) -> None:
    for label, course, colour in (
        ("recorded, this gate", outcome.recorded[0], GATE),
        ("recorded, 'not worse than'", outcome.recorded[1], NAIVE),
    ):
        axes.plot(range(len(course)), 100 * np.asarray(course), color=colour, label=label)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("equal retrains")
    axes.set_ylabel("change of the champion's recorded figure, %")
    axes.set_title(f"A row of equal retrains, mean of {len(outcome.recorded_changes)}", fontsize=10)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)
