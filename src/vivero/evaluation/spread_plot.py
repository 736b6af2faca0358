"""The picture of figures over seeds: one small panel for each, a dot for each seed."""

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes

from vivero.evaluation.plots import new_figure, save_figure
from vivero.evaluation.spread import Spread

COLOUR = "#0072B2"
MAX_COLUMNS = 4
NO_SPREAD = 1e-9  # below it only rounding differs, which must not fill a panel
PANEL_WIDTH_IN, PANEL_HEIGHT_IN = 2.5, 1.9


def plot_spreads(found: Mapping[str, Spread], path: Path) -> None:
    """Draw the value of each seed, the mean over seeds and its 95 % interval.

    Args:
        found: The spread of each figure, by name.
        path: PNG to write.
    """
    num_columns = min(MAX_COLUMNS, len(found))
    num_rows = math.ceil(len(found) / num_columns)
    figure = new_figure(max(5.0, PANEL_WIDTH_IN * num_columns), PANEL_HEIGHT_IN * num_rows + 0.5)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for (name, spread), axes in zip(found.items(), panels, strict=False):
        _panel(axes, name, spread)
    for axes in panels:  # what the figures left over
        axes.set_axis_off()
    figure.suptitle("Each seed, the mean over seeds and its 95 % interval", fontsize=11)
    save_figure(figure, path)


def _panel(axes: Axes, name: str, spread: Spread) -> None:
    places = range(len(spread.values))
    axes.axhspan(spread.mean.low, spread.mean.high, color=COLOUR, alpha=0.15, linewidth=0)
    axes.axhline(spread.mean.value, color=COLOUR, linewidth=1.2)
    axes.plot(places, list(spread.values.values()), "o", color=COLOUR, markersize=5)
    axes.set_xticks(list(places), [str(seed) for seed in spread.values], fontsize=8)
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.margins(y=0.15)
    if spread.std < NO_SPREAD * max(1.0, abs(spread.mean.value)):
        axes.set_ylim(spread.mean.value - 1, spread.mean.value + 1)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(name, fontsize=8, loc="left")
    axes.set_xlabel("seed", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
