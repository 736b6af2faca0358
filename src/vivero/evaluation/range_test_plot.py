"""The picture of a learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

from vivero.evaluation.plots import new_figure, save_figure

COLOUR, MARK, GREY = "#0072B2", "#D55E00", "#b0b0b0"
ROOM = 1.6  # times the range of the smoothed loss below its start


def plot_range_test(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
    path: Path,
) -> None:
    """Draw loss against learning rate, with the suggestion marked.

    Args:
        rates: Learning rate of each step, rising.
        losses: Loss of each step.
        smoothed: The same, smoothed.
        suggestion: Learning rate to mark.
        path: PNG to write.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot(rates, losses, ".", color=GREY, markersize=4, label="each batch")
    axes.plot(rates, smoothed, color=COLOUR, linewidth=1.8, label="smoothed")
    axes.axvline(suggestion, color=MARK, linestyle="--", label=f"suggested: {suggestion:.1e}")
    least, start = min(smoothed), smoothed[0]
    axes.plot(
        rates[smoothed.index(least)], least, "o", color=COLOUR, markersize=6, label="least loss"
    )
    span = max(start - least, 0.05 * abs(start))
    axes.set_ylim(least - 0.4 * span, least + ROOM * span)  # the explosion goes out of the picture
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.set_title("Learning-rate range test", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    save_figure(figure, path)
