"""The pictures of an evaluation, as PNG files, the same whatever a person set in matplotlib."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from vivero.evaluation.drawn_text import draw_as_text
from vivero.files import write_whole

WIDTH_IN, HEIGHT_IN = 7.0, 3.8


def new_figure(width_in: float = WIDTH_IN, height_in: float = HEIGHT_IN) -> Figure:
    """An empty figure; not registered with pyplot, so that nothing keeps it alive.

    Settings of a person's matplotlibrc, such as text.usetex, are replaced by the defaults: they
    act when a figure is filled and when it is drawn.
    """
    mpl.rcdefaults()
    return Figure(figsize=(width_in, height_in), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG atomically, with every text drawn as it is written."""
    draw_as_text(figure)
    with write_whole(path) as part_path:
        figure.savefig(part_path, format="png", dpi=130)


def plot_loss_by_noise(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Held-out denoising loss at each noise level, with 95 % intervals.

    Args:
        rows: sigma, value, low and high of each level.
        path: PNG to write.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    sigmas = [row["sigma"] for row in rows]
    values = [row["value"] for row in rows]
    errors = [
        [row["value"] - row["low"] for row in rows],
        [row["high"] - row["value"] for row in rows],
    ]
    axes.errorbar(sigmas, values, yerr=errors, marker="o", capsize=3)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("noise level sigma (pixels are in [-1, 1])")
    axes.set_ylabel("weighted squared error")
    axes.set_title("Denoising loss on held-out real images, by noise level")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


def plot_metrics(metrics: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Every metric that has a floor: its interval beside that of the floor, each on its scale."""
    shown = {name: metric for name, metric in metrics.items() if metric.get("floor") is not None}
    if not shown:
        return
    figure = new_figure(WIDTH_IN, 0.75 * len(shown) + 0.8)
    for row, (name, metric) in enumerate(shown.items()):
        axes = figure.add_subplot(len(shown), 1, row + 1)
        error = [[metric["value"] - metric["low"]], [metric["high"] - metric["value"]]]
        axes.errorbar([metric["value"]], [0], xerr=error, fmt="o", capsize=3, label="samples")
        axes.axvspan(metric["floor_low"], metric["floor_high"], color="0.88", zorder=0)
        axes.axvline(metric["floor"], color="0.4", linestyle="--", label="real against real")
        axes.margins(x=0.25)
        axes.set_yticks([0], [f"{name}\n({metric['better']} is better)"], fontsize=8)
        axes.set_ylim(-1, 1)
        axes.tick_params(axis="x", labelsize=8)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        if row == 0:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8)
    save_figure(figure, path)


def plot_per_class(
    names: Sequence[str], values: Sequence[float], floors: Sequence[float], path: Path
) -> None:
    """Accuracy on each class of real images, of a classifier that saw samples, or real images.

    Args:
        names: Class names.
        values: Accuracy after training on samples, [0, 1].
        floors: Accuracy after training on as many real images, [0, 1].
        path: PNG to write.
    """
    figure = new_figure(WIDTH_IN, max(2.5, 0.35 * len(names) + 1.2))
    axes = figure.add_subplot()
    rows = range(len(names))
    axes.barh([row - 0.2 for row in rows], floors, 0.38, color="0.75", label="real images")
    axes.barh([row + 0.2 for row in rows], values, 0.38, label="samples")
    axes.set_yticks(list(rows), list(names), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy on real test images")
    axes.set_title("What a classifier learns from samples, by class")
    axes.legend(fontsize=8)
    save_figure(figure, path)


def plot_curves(curves_dir: Path, path: Path) -> bool:
    """Training and validation loss over images seen, from the CSV files of `train`.

    Returns:
        Whether there was anything to draw.
    """
    series = {name: _column(curves_dir / f"{name}.csv") for name in ("loss", "validation")}
    if not any(series.values()):
        return False
    figure = new_figure()
    axes = figure.add_subplot()
    for name, label in (("loss", "training"), ("validation", "validation, averaged weights")):
        points = series[name]
        marker = "o" if name == "validation" else None
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, marker=marker)
    axes.set_xlabel("images seen")
    axes.set_ylabel("loss")
    axes.set_yscale("log")
    axes.set_title("Training")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    save_figure(figure, path)
    return True


def _column(path: Path) -> list[tuple[float, float]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(float(row["images_seen"]), float(row["loss"])) for row in rows if row.get("loss")]
