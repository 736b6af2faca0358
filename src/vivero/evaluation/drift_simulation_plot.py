"""The picture and the table of the drift simulation: alarms by size of the batch."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    MultipleLocator,
    NullLocator,
    PercentFormatter,
    ScalarFormatter,
)

from vivero.evaluation.drift_shifts import UNITS
from vivero.evaluation.drift_simulation import CellResult
from vivero.evaluation.plots import new_figure, save_figure

COLOURS = ("#56B4E9", "#0072B2", "#D55E00")  # Okabe and Ito
NUM_COLUMNS = 3


def plot_power(results: Sequence[CellResult], level: float, path: Path) -> None:
    """Draw the share of alarms over the size of the batch, one panel for each kind of change.

    Args:
        results: Cells; the family "none" is the first panel.
        level: The false-alarm rate that was asked for.
        path: PNG to write.
    """
    families = list(dict.fromkeys(result.family for result in results))
    num_rows = -(-len(families) // NUM_COLUMNS)
    figure = new_figure(9.6, 2.9 * num_rows)
    panels = figure.subplots(num_rows, NUM_COLUMNS, squeeze=False).flatten()
    for axes, family in zip(panels, families, strict=False):
        _panel(axes, family, [result for result in results if result.family == family], level)
    for axes in panels[len(families) :]:
        axes.set_visible(False)
    figure.suptitle("Drift: share of batches that alarm, with 95 % intervals", fontsize=12)
    save_figure(figure, path)


def _panel(axes: Axes, family: str, results: Sequence[CellResult], level: float) -> None:
    strengths = list(dict.fromkeys(result.strength for result in results))
    for strength, colour in zip(strengths, COLOURS, strict=False):
        line = [result for result in results if result.strength == strength]
        rates = [result.rate for result in line]
        errors = [
            [rate.value - rate.low for rate in rates],
            [rate.high - rate.value for rate in rates],
        ]
        label = f"{strength:g}" if family != "none" else "alarms"
        axes.errorbar(
            [result.batch_images for result in line],
            [rate.value for rate in rates],
            yerr=errors,
            color=colour,
            marker="o",
            markersize=4,
            linewidth=1.4,
            capsize=2,
            label=label,
        )
    axes.axhline(level, color="0.5", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    sizes = sorted({result.batch_images for result in results})
    axes.set_xlim(0.8 * sizes[0], 3.5 * sizes[-1])  # room for the legend
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("images in the batch")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    is_null = family == "none"
    axes.set_ylim((0, 0.15) if is_null else (-0.03, 1.03))
    axes.yaxis.set_major_locator(MultipleLocator(0.05 if is_null else 0.2))
    axes.set_title(
        f"no drift (dashed: the level, {level:.0%})" if is_null else f"{family}: {UNITS[family]}",
        loc="left",
        fontsize=9,
    )
    axes.grid(alpha=0.25)
    if not is_null:
        axes.legend(fontsize=7, loc="lower right")


def power_table(results: Sequence[CellResult]) -> str:
    """The same as a Markdown table: a row for each shift, a column for each size."""
    sizes = sorted({result.batch_images for result in results})
    names = list(dict.fromkeys(result.shift for result in results))
    lines = [
        "| change | " + " | ".join(str(size) for size in sizes) + " | trials |",
        "| --- |" + " --- |" * (len(sizes) + 1),
    ]
    for name in names:
        cells = {result.batch_images: result for result in results if result.shift == name}
        rates = [
            f"{cells[size].num_alarms / cells[size].num_trials:.3g}" if size in cells else ""
            for size in sizes
        ]
        trials = "/".join(str(n) for n in sorted({cell.num_trials for cell in cells.values()}))
        lines.append(f"| {name} | " + " | ".join(rates) + f" | {trials} |")
    return "\n".join(lines) + "\n"
