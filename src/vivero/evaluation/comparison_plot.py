"""The picture of a comparison of two models: their losses above, the paired difference below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from vivero.evaluation.comparison import Comparison
from vivero.evaluation.intervals import Estimate
from vivero.evaluation.plots import WIDTH_IN, new_figure, save_figure

COLOURS = ("#0072B2", "#D55E00")  # also told apart by the colour-blind (Okabe and Ito)
INK, GREY = "#222222", "#8a8a8a"
SMALL: dict[str, Any] = {"fontsize": 8, "color": "#666666"}
MAX_NAME_LETTERS = 48
DECIDED, UNDECIDED = "beyond chance (Holm)", "not beyond chance"


def plot_comparison(
    sigmas: Sequence[float], comparison: Comparison, names: tuple[str, str], path: Path
) -> None:
    """Draw two models' loss by noise level and their paired relative difference.

    Args:
        sigmas: Noise level of each of the comparison's levels.
        comparison: Two models, compared.
        names: Of the first and the second model.
        path: PNG to write.
    """
    figure = new_figure(WIDTH_IN, 5.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    losses = (
        [level.first for level in comparison.levels],
        [level.second for level in comparison.levels],
    )
    styles = zip("AB", names, COLOURS, ("o", "s"), losses, strict=True)
    for letter, name, colour, marker, estimates in styles:
        _curve(above, sigmas, estimates, colour)
        values = [estimate.value for estimate in estimates]
        above.plot(
            sigmas, values, marker, color=colour, markersize=4.5, label=f"{letter}: {_short(name)}"
        )
    above.set_ylim(bottom=0)
    above.set_ylabel("weighted squared error")
    above.set_title("Denoising loss on the same held-out images and noise", loc="left", fontsize=11)
    above.text(0, 0.02, " bands: 95 % intervals", transform=above.transAxes, **SMALL)
    above.legend(frameon=False, fontsize=9)

    _difference(below, sigmas, comparison)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
    figure.align_ylabels()
    save_figure(figure, path)


def _difference(axes: Axes, sigmas: Sequence[float], comparison: Comparison) -> None:
    relative = [level.relative for level in comparison.levels]
    axes.axhline(0, color=GREY, linewidth=1)
    _curve(axes, sigmas, relative, INK)
    for is_decided, face, label in ((True, INK, DECIDED), (False, "white", UNDECIDED)):
        points = [
            (sigma, level.relative.value)
            for sigma, level in zip(sigmas, comparison.levels, strict=True)
            if (level.better is not None) == is_decided
        ]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, "o", color=INK, markerfacecolor=face, markersize=5, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("noise level sigma (pixels are in [-1, 1])")
    axes.set_ylabel("paired difference")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda sigma, _: f"{sigma:g}"))
    axes.margins(y=0.2)
    axes.text(0.995, 0.95, "A is better", transform=axes.transAxes, va="top", ha="right", **SMALL)
    axes.text(0.995, 0.04, "B is better", transform=axes.transAxes, ha="right", **SMALL)
    mean = comparison.mean.relative
    axes.set_title(
        f"Loss of B against A, image by image: {mean.value:+.2%} in the mean "
        f"({mean.low:+.2%} to {mean.high:+.2%})",
        loc="left",
        fontsize=11,
    )
    low, high = axes.get_ylim()  # zero is always in sight, with room on both sides for the words
    room = 0.15 * (high - low)
    axes.set_ylim(min(low, -room), max(high, room))
    axes.legend(frameon=False, fontsize=8, loc="lower left" if mean.value > 0 else "upper left")


def _short(name: str) -> str:
    """The end of a long name, which is what tells two paths apart."""
    return name if len(name) <= MAX_NAME_LETTERS else f"…{name[1 - MAX_NAME_LETTERS :]}"


def _curve(axes: Axes, sigmas: Sequence[float], estimates: Sequence[Estimate], colour: str) -> None:
    axes.plot(sigmas, [estimate.value for estimate in estimates], color=colour, linewidth=1.4)
    axes.fill_between(
        sigmas,
        [estimate.low for estimate in estimates],
        [estimate.high for estimate in estimates],
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
