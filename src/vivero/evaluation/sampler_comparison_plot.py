"""The pictures of a comparison of samplers: the same images by each, and distance against time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image, ImageDraw

from vivero.config.schema import SamplerName
from vivero.evaluation.drawn_text import write_line
from vivero.evaluation.intervals import Estimate
from vivero.evaluation.plots import new_figure, save_figure
from vivero.evaluation.sampler_comparison import (
    BASELINE,
    MAX_EVALUATIONS,
    TITLES,
    TOLERANCE,
    CellFigures,
    pareto_front,
    place,
    same_n,
)
from vivero.files import write_whole

# Colours that the colour-blind tell apart too (Okabe and Ito), and a marker for those who see none.
STYLES: dict[SamplerName, tuple[str, str]] = {
    "ddpm": ("#222222", "D"),
    "ddim": ("#E69F00", "o"),
    "heun": ("#56B4E9", "s"),
    "dpm_solver_pp_2m": ("#0072B2", "^"),
    "sde_dpm_solver_pp_2m": ("#CC79A7", "^"),
    "uni_pc": ("#D55E00", "v"),
    "hierarchical": ("#009E73", "P"),
}
GREY = "#8a8a8a"
MIN_TILE_PX = 56
TITLE_PX = 232
GAP_PX = 2
BETWEEN_SAMPLERS_PX = 10
HEADER_PX = 20
LINE_PX = 17
TEXT_PX, TITLE_TEXT_PX = 11, 12  # heights of letters
INK, FAINT, WARNING = "#111111", "#666666", "#b00020"


@dataclass(frozen=True)
class GridRow:
    """One row of the picture of samples.

    Attributes:
        group: Rows of one group stand together.
        lines: Text at its left; the first is its title.
        images: uint8, (K, C, H, W); None where there are none, and the rest of lines says why.
    """

    group: str
    lines: Sequence[str]
    images: np.ndarray | None


def draw_sampler_grid(rows: Sequence[GridRow], columns: Sequence[str], path: Path) -> None:
    """Draw a row of images for each cell, the same seed in each column.

    Args:
        rows: From the top; at least one has images, all of one shape, one for each column.
        columns: What stands above each column, cut off at its width.
        path: PNG to write.
    """
    shape = next(row.images.shape for row in rows if row.images is not None)
    factor = max(1, -(-MIN_TILE_PX // min(shape[2:])))
    tile_px = (shape[3] * factor, shape[2] * factor)
    step_y = max(tile_px[1], 3 * LINE_PX + 4) + GAP_PX
    tops, top = [], HEADER_PX
    for row, above in zip(rows, (None, *rows), strict=False):
        top += BETWEEN_SAMPLERS_PX if above is not None and above.group != row.group else 0
        tops.append(top)
        top += step_y
    width = TITLE_PX + len(columns) * (tile_px[0] + GAP_PX)
    sheet = Image.new("RGB", (width, top), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        left = TITLE_PX + column * (tile_px[0] + GAP_PX)
        write_line(pen, (left, 3), name, TEXT_PX, FAINT, tile_px[0])
    for row, top in zip(rows, tops, strict=True):
        _draw_row(sheet, row, top, tile_px)
    with write_whole(path) as part_path:
        sheet.save(part_path, format="PNG")


def _draw_row(sheet: Image.Image, row: GridRow, top: int, tile_px: tuple[int, int]) -> None:
    pen = ImageDraw.Draw(sheet)
    write_line(pen, (6, top), row.lines[0], TITLE_TEXT_PX, INK)
    if row.images is None:
        for below, line in enumerate(row.lines[1:]):
            write_line(pen, (TITLE_PX, top + below * LINE_PX), line, TEXT_PX, WARNING)
        return
    for below, line in enumerate(row.lines[1:], start=1):
        write_line(pen, (6, top + below * LINE_PX), line, TEXT_PX, FAINT)
    for column, image in enumerate(row.images):
        pixels = np.broadcast_to(image.transpose(1, 2, 0), (*image.shape[1:], 3))
        tile = Image.fromarray(np.ascontiguousarray(pixels))
        left = TITLE_PX + column * (tile_px[0] + GAP_PX)
        sheet.paste(tile.resize(tile_px, Image.Resampling.NEAREST), (left, top))


def plot_pareto(
    figures: Sequence[CellFigures],
    floor: Estimate,
    others: Mapping[str, str],
    name: str,
    path: Path,
) -> None:
    """Draw distance against time, the front that no cell beats, the floor and the target's band.

    Args:
        figures: All cells; those at the largest n are drawn.
        floor: Of real images against the reference, at the largest n.
        others: Of cells that are not drawn, the title and why.
        name: Of the model.
        path: PNG to write.
    """
    drawn = same_n(figures)
    figure = new_figure(9.0, 5.8)
    axes = figure.add_subplot()
    for sampler, (colour, marker) in STYLES.items():
        _curve(axes, [f for f in drawn if f.cell.sampler == sampler], colour, marker)
    front = pareto_front(figures)
    if front:
        x, y = zip(*(place(found) for found in front), strict=True)
        axes.plot(
            x,
            y,
            color=GREY,
            linewidth=6,
            alpha=0.35,
            solid_capstyle="round",
            zorder=1,
            label="Pareto front: no other is both quicker and nearer",
        )
    _levels(axes, drawn, floor)
    _scales(axes)
    count = max((found.n for found in drawn), default=0)
    axes.set_title(
        f"{name}: {count} images for each point, 95 % intervals", loc="left", fontsize=11
    )
    if others:
        note = "not drawn: " + "; ".join(f"{title} ({why})" for title, why in others.items())
        figure.supxlabel(note, fontsize=7.5, color=FAINT, x=0.01, ha="left", wrap=True)
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    save_figure(figure, path)


def _curve(axes: Axes, found: Sequence[CellFigures], colour: str, marker: str) -> None:
    if not found:
        return
    ordered = sorted(found, key=lambda one: one.cell.num_steps)
    x, y = zip(*(place(one) for one in ordered), strict=True)
    axes.plot(x, y, color=colour, linewidth=0.9, alpha=0.6)
    for one, ms, distance in zip(ordered, x, y, strict=True):
        face = colour if _is_few(one) else "white"
        axes.plot(ms, distance, marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)
        if one.frechet is not None:
            ends = [one.frechet.low, one.frechet.high]
            axes.plot([ms, ms], ends, color=colour, linewidth=0.8, alpha=0.6)
        axes.annotate(
            str(one.cell.num_steps),
            (ms, distance),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=7.5,
            color=colour,
        )
    title = TITLES[ordered[0].cell.sampler]
    axes.plot([], [], marker=marker, color=colour, linewidth=0.9, label=title)


def _is_few(found: CellFigures) -> bool:
    return found.evaluations is not None and found.evaluations <= MAX_EVALUATIONS


def _levels(axes: Axes, drawn: Sequence[CellFigures], floor: Estimate) -> None:
    axes.axhline(
        floor.value,
        color=GREY,
        linestyle="--",
        linewidth=1,
        label="floor: real images against the reference",
    )
    for found in drawn:
        if found.cell == BASELINE and found.frechet is not None:
            value = found.frechet.value
            axes.axhspan(
                (1 - TOLERANCE) * value,
                (1 + TOLERANCE) * value,
                color="#CC79A7",
                alpha=0.18,
                linewidth=0,
                label=f"{BASELINE.title} ± {TOLERANCE:.0%}",
            )
    axes.plot([], [], "o", color=GREY, label=f"filled: at most {MAX_EVALUATIONS} evaluations")


def _scales(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
        axis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel("milliseconds for one image (numbers beside the points: steps)")
    axes.set_ylabel("Fréchet distance (FD), lower is better")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6, which="both")
