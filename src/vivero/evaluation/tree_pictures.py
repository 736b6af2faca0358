"""The pictures that explain a trained tree: its bands, branches and fusion, and two ways through.

What they show is measured by vivero.evaluation.tree_anatomy. Images are tensors (C, h, w), C 1 or
3, in [-1, 1] and in units of the mean pixel. Sheets of images keep whole factors of enlargement, so
that a pixel of a coarse image is seen as one.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter
from torch import Tensor

from vivero.diffusion.haar import haar_pyramid, haar_split
from vivero.evaluation.plots import new_figure, save_figure
from vivero.evaluation.tree_anatomy import (
    BandFigures,
    BranchFigures,
    Descent,
    FusionFigures,
    Look,
    NoisyView,
    relative_sampling_cost,
)

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito; finest first
INK, FAINT, GREY, ASLEEP = "#222222", "#666666", "#8a8a8a", "#f2f2f2"
DOTS_PER_IN = 130  # of save_figure
WIDTH_PX = 1050
EDGE_PX, GAP_PX, LINE_PX = 12, 6, 21
TEXT, SMALL, TITLE = 10.0, 9.0, 11.0  # sizes of letters, pt
DETAIL_REACH = 3.0  # standard deviations of a band from grey to black or white
LEAST_COLUMNS, MOST_COLUMNS = 9, 10  # of a descent
NUM_BINS = 80
EDGE_SIGMA = 1.15  # room beside the outermost noise levels, as a factor
UP, DOWN = 1.6, 0.6  # room above and below the steps' dots, in rows of the chart
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
TIMES, SIGMA = "\N{MULTIPLICATION SIGN}", "\N{GREEK SMALL LETTER SIGMA}"


def draw_bands(images: Tensor, bands: Sequence[BandFigures], path: Path) -> None:
    """Draw images taken apart, one level in a row, with each band's standard deviation.

    Args:
        images: Shape (N, C, H, W), [-1, 1]; side by side, so few.
        bands: Of the data, finest first; one for each split.
        path: PNG to write.
    """
    text_px = 195
    side_px = images.shape[-1]
    tile_px = _tile_px(side_px, (WIDTH_PX - text_px) // (4 * len(images)) - GAP_PX - 3)
    step_y = max(tile_px + GAP_PX, 4 * LINE_PX)
    group_px = 4 * (tile_px + GAP_PX) + 3 * GAP_PX
    head_px = EDGE_PX + 2 * LINE_PX + 8
    width_px = text_px + len(images) * group_px
    sheet = _Sheet(width_px, head_px + EDGE_PX + step_y * (len(bands) + 1))
    sheet.text(EDGE_PX, EDGE_PX, "Real images, taken apart by the Haar tree", TITLE)
    pyramid = haar_pyramid(images, len(bands) + 1)
    for column in range(len(images)):
        left = text_px + column * group_px
        for place, name in enumerate(("image", "horizontal", "vertical", "diagonal")):
            x = left + place * (tile_px + GAP_PX) + tile_px / 2
            sheet.text(x, head_px - LINE_PX, name, SMALL, FAINT, ha="center")
    for level, level_images in enumerate(pyramid):
        top = head_px + level * step_y
        _band_words(sheet, top, bands, level)
        for column, image in enumerate(level_images):
            left = text_px + column * group_px
            sheet.tile(image / 2**level, left, top, tile_px)
            if level == len(bands):
                continue
            _, details = haar_split(image[None])
            reach = DETAIL_REACH * max(bands[level].details_std, 1e-9)
            for place, band in enumerate(details[0].chunk(3), start=1):
                sheet.tile(band / reach, left + place * (tile_px + GAP_PX), top, tile_px)
    sheet.save(path)


def _band_words(sheet: "_Sheet", top: float, bands: Sequence[BandFigures], level: int) -> None:
    number = str(level).translate(SUBSCRIPTS)
    if level == len(bands):
        side_px, std = bands[-1].side_px // 2, bands[-1].coarse_std
    else:
        side_px, std = bands[level].side_px, bands[level].image_std
    sheet.text(EDGE_PX, top, f"z{number}: {side_px} {TIMES} {side_px} px", TEXT, weight="bold")
    sheet.text(EDGE_PX, top + LINE_PX, f"deviation {std:.3f}", SMALL, FAINT)
    if level < len(bands):
        band = bands[level]
        sheet.text(EDGE_PX, top + 2 * LINE_PX, f"details {band.details_std:.3f}", SMALL, FAINT)
        each = (band.horizontal_std, band.vertical_std, band.diagonal_std)
        words = "  ".join(f"{value:.2f}" for value in each)
        sheet.text(EDGE_PX, top + 3 * LINE_PX, f"h v d  {words}", SMALL, FAINT)


def draw_branches(
    branches: Sequence[BranchFigures], training: Tensor, sigmas: Tensor, path: Path
) -> None:
    """Draw which branch is awake at which noise, and what that costs.

    Args:
        branches: Finest first.
        training: Noise levels as training draws them, shape (S,).
        sigmas: Noise levels that the sampler visits, shape (S + 1,), the last one 0.
        path: PNG to write.
    """
    steps = sigmas[:-1].numpy()
    figure = new_figure(WIDTH_PX / DOTS_PER_IN, 4.4 + 0.6 * len(branches))
    above, density, below = figure.subplots(
        3, 1, height_ratios=(1.0 + 0.4 * len(branches), 1.6, 0.3 + 0.3 * len(branches))
    )
    low = min(float(training.quantile(0.002)), float(steps.min())) / EDGE_SIGMA
    high = max(float(training.quantile(0.998)), float(steps.max())) * EDGE_SIGMA
    _awake(above, branches, steps, (low, high))
    _density(density, branches, training, (low, high))
    _shares(below, branches)
    figure.suptitle(
        f"The sampler's {len(steps)} steps cost {relative_sampling_cost(branches):.0%} of as many "
        f"on the finest branch",
        fontsize=TITLE,
        x=0.01,
        ha="left",
    )
    save_figure(figure, path)


def _awake(
    axes: Axes, branches: Sequence[BranchFigures], steps: np.ndarray, ends: tuple[float, float]
) -> None:
    """Bars of the noise at which each branch computes; the sampler's steps above them."""
    low, high = ends
    last = len(branches) - 1
    for branch, colour in zip(branches, COLOURS, strict=False):
        row, top = last - branch.level, min(branch.up_to_sigma, high)
        axes.fill_betweenx((row - 0.36, row + 0.36), low, top, color=colour, alpha=0.85, lw=0)
        words = f"branch {branch.level}: {branch.side_px} {TIMES} {branch.side_px} px"
        axes.text(
            low * EDGE_SIGMA, row, words, color="white", fontsize=TEXT, va="center", weight="bold"
        )
        axes.plot(
            steps[(steps > branch.above_sigma) & (steps <= branch.up_to_sigma)],
            np.full(branch.num_steps, last + 0.85),
            "o",
            color=colour,
            markersize=5,
        )
    _threshold_lines(axes, branches)
    axes.text(low * EDGE_SIGMA, last + 1.1, "the sampler's steps", color=FAINT, fontsize=SMALL)
    axes.set_ylim(-DOWN, last + UP)
    axes.set_yticks([])
    axes.set_title("Which branches compute", loc="left", fontsize=TEXT)
    _sigma_axis(axes, ends)
    axes.tick_params(labelbottom=False)
    axes.spines[["left"]].set_visible(False)


def _density(
    axes: Axes, branches: Sequence[BranchFigures], training: Tensor, ends: tuple[float, float]
) -> None:
    """How often training draws each noise level, in the colour of the level of entry."""
    counts, edges = np.histogram(training.log().numpy(), bins=NUM_BINS, density=True)
    middles, sigmas = np.exp((edges[1:] + edges[:-1]) / 2), np.exp(edges)
    for branch, colour in zip(branches, COLOURS, strict=False):
        here = (middles > branch.above_sigma) & (middles <= branch.up_to_sigma)
        axes.bar(
            sigmas[:-1][here],
            counts[here],
            width=np.diff(sigmas)[here],
            align="edge",
            color=colour,
            alpha=0.55,
        )
    _threshold_lines(axes, branches)
    axes.set_yticks([])
    axes.set_title("How often training draws this noise", loc="left", fontsize=TEXT)
    _sigma_axis(axes, ends)
    axes.set_xlabel("noise level sigma (pixels are in [-1, 1])", fontsize=TEXT)
    axes.spines[["left"]].set_visible(False)


def _threshold_lines(axes: Axes, branches: Sequence[BranchFigures]) -> None:
    for branch in branches[1:]:
        if np.isfinite(branch.above_sigma):
            axes.axvline(branch.above_sigma, color=INK, linestyle="--", linewidth=1, zorder=3)


def _shares(axes: Axes, branches: Sequence[BranchFigures]) -> None:
    """A table of what falls to each level of entry."""
    axes.set_axis_off()
    total_steps = sum(branch.num_steps for branch in branches)
    heads = ("images enter at", "sigma", "of training", "of the steps", "one pass", "its time")
    xs = (0.0, 0.22, 0.45, 0.6, 0.75, 0.89)
    num_rows = len(branches) + 1
    for x, head in zip(xs, heads, strict=True):
        axes.text(x, 1 - 0.4 / num_rows, head, fontsize=SMALL, color=FAINT, va="center")
    for branch, colour in zip(branches, COLOURS, strict=False):
        y = 1 - (branch.level + 1.4) / num_rows
        cells = (
            f"level {branch.level} ({branch.side_px} px)",
            _region(branch),
            f"{branch.share_of_training:.0%}",
            f"{branch.num_steps} of {total_steps}",
            f"{branch.macs / 1e6:.3g} M MAC",
            f"{branch.ms_per_image / branches[0].ms_per_image:.2f}",
        )
        for x, cell in zip(xs, cells, strict=True):
            axes.text(x, y, cell, fontsize=TEXT, color=colour if x == 0 else INK, va="center")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _region(branch: BranchFigures) -> str:
    if np.isinf(branch.above_sigma):
        return "never"
    if np.isinf(branch.up_to_sigma):
        return f"above {branch.above_sigma:.3g}" if branch.above_sigma else "all"
    return f"{branch.above_sigma:.3g} to {branch.up_to_sigma:.3g}"


def draw_fusion(figures: Sequence[FusionFigures], num_images: int, path: Path) -> None:
    """Draw the weights of the mixture against sigma, and what the mixture gains.

    Args:
        figures: Of all branches that mix; at least one.
        num_images: Held-out images that they are measured on.
        path: PNG to write.
    """
    figure = new_figure(WIDTH_PX / DOTS_PER_IN, 6.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
    for level in sorted({found.level for found in figures}):
        one = [found for found in figures if found.level == level]
        sigmas, colour = [found.sigma for found in one], COLOURS[level % len(COLOURS)]
        _weights(above, level, one, colour)
        styles = (
            ("own_error", colour, f"branch {level} alone"),
            ("coarser_error", COLOURS[(level + 1) % len(COLOURS)], f"branch {level + 1} alone"),
        )
        for name, shade, label in styles:
            excess = [getattr(found, name) / found.fused_error - 1 for found in one]
            below.plot(sigmas, excess, color=shade, marker="o", markersize=4, label=label)
    for share in (0, 1):
        above.axhline(share, color=GREY, linewidth=0.8, linestyle=":")
    above.set_ylim(-0.05, 1.3)
    above.set_ylabel("share of the finer branch", fontsize=TEXT)
    above.set_title(
        f"Who is believed about the coarse image ({num_images} held-out images)",
        loc="left",
        fontsize=TITLE,
    )
    below.axhline(0, color=INK, linewidth=1.2, label="the mixture")
    below.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_ylabel("error above the mixture's", fontsize=TEXT)
    below.set_title("What each would err alone", loc="left", fontsize=TITLE)
    seen = [found.sigma for found in figures]
    ends = (min(seen) / EDGE_SIGMA, max(seen) * EDGE_SIGMA)
    for axes in (above, below):
        _sigma_axis(axes, ends)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=SMALL)
        axes.legend(frameon=False, fontsize=SMALL, loc="best")
    above.tick_params(labelbottom=False)
    below.set_xlabel("noise level sigma (pixels are in [-1, 1])", fontsize=TEXT)
    figure.align_ylabels()
    save_figure(figure, path)


def _weights(axes: Axes, level: int, one: Sequence[FusionFigures], colour: str) -> None:
    sigmas = [found.sigma for found in one]
    axes.fill_between(
        sigmas,
        [found.low for found in one],
        [found.high for found in one],
        color=colour,
        alpha=0.18,
        linewidth=0,
        label="80 % of the pixels",
    )
    label = f"branch {level} against branch {level + 1}, mean"
    axes.plot(sigmas, [found.weight for found in one], color=colour, marker="o", label=label)
    known = [(found.sigma, found.best) for found in one if found.best is not None]
    if known:
        x, y = zip(*known, strict=True)
        axes.plot(x, y, color=INK, linestyle="--", linewidth=1, label="best single weight")


def draw_denoising(clean: Tensor, views: Sequence[NoisyView], path: Path) -> None:
    """Draw one image under rising noise: what each branch sees and says, and the answer.

    Args:
        clean: The image, shape (C, H, W).
        views: One for each column.
        path: PNG to write.
    """
    text_px = 178
    tile_px = _tile_px(clean.shape[-1], (WIDTH_PX - text_px) // len(views) - GAP_PX)
    rows = ["the noisy image"]
    for level in range(len(views[0].branches)):
        side_px = clean.shape[-1] >> level
        rows += [f"branch {level} sees\n{side_px} {TIMES} {side_px} px", f"branch {level} says"]
    rows += ["the answer, with\nforeseen details"]
    step_px, head_px = tile_px + GAP_PX, EDGE_PX + 3 * LINE_PX + 8
    width_px = text_px + step_px * len(views) + GAP_PX
    sheet = _Sheet(width_px, head_px + step_px * len(rows) + LINE_PX + GAP_PX)
    sheet.text(EDGE_PX, EDGE_PX, "One held-out image under rising noise", TITLE)
    for row, words in enumerate(rows):
        is_branch = 0 < row < len(rows) - 1
        colour = COLOURS[(row - 1) // 2 % len(COLOURS)] if is_branch else INK
        sheet.text(EDGE_PX, head_px + row * step_px + tile_px / 2, words, TEXT, colour, va="center")
    for column, view in enumerate(views):
        _draw_view(sheet, view, text_px + column * step_px, head_px, tile_px)
    sheet.save(path)


def _draw_view(sheet: "_Sheet", view: NoisyView, left: float, top: float, tile_px: int) -> None:
    """One column of draw_denoising, its first tile at top, two lines of words above it."""
    middle, step_px = left + tile_px / 2, tile_px + GAP_PX
    words = (f"{SIGMA} {view.sigma:.2g}", f"enters at {view.level}")
    _column_head(sheet, middle, top, words, COLOURS[view.level % len(COLOURS)])
    sheet.tile(_toned(view.noisy, view.sigma), left, top, tile_px)
    for level, branch in enumerate(view.branches):
        seen = top + (1 + 2 * level) * step_px
        if branch is None:
            sheet.asleep(left, seen, tile_px)
            sheet.asleep(left, seen + step_px, tile_px)
        else:
            sheet.tile(_toned(branch.seen, view.sigma / 2**level), left, seen, tile_px)
            sheet.tile(branch.said, left, seen + step_px, tile_px)
    last = top + (1 + 2 * len(view.branches)) * step_px
    sheet.tile(view.answer, left, last, tile_px)
    error = f"error {view.error:.2g}"
    sheet.text(middle, last + tile_px + 2, error, SMALL, FAINT, ha="center")


def draw_descent(found: Descent, names: Sequence[str], path: Path) -> None:
    """Draw images on their way from noise: states and estimates, at the size of their level.

    Args:
        found: The way.
        names: One for each image.
        path: PNG to write.
    """
    text_px, side_px = 100, found.images.shape[-1]
    tiles_px = {
        count: _tile_px(side_px, (WIDTH_PX - text_px) // count - GAP_PX)
        for count in range(LEAST_COLUMNS, MOST_COLUMNS + 1)
    }
    num_columns = max(tiles_px, key=lambda count: (count * tiles_px[count], count))
    tile_px, looks = tiles_px[num_columns], chosen_looks(found.looks, num_columns - 1)
    step_px, head_px = tile_px + GAP_PX, EDGE_PX + 3 * LINE_PX + 8
    group_px = 2 * step_px + 2 * GAP_PX
    width_px = text_px + (len(looks) + 1) * step_px + GAP_PX
    sheet = _Sheet(width_px, head_px + group_px * len(names))
    sheet.text(EDGE_PX, EDGE_PX, "From noise to image, down the tree", TITLE)
    for row, name in enumerate(names):
        top = head_px + row * group_px
        sheet.text(EDGE_PX, top, _cut(name), TEXT, weight="bold")
        sheet.text(EDGE_PX, top + LINE_PX, "state", SMALL, FAINT)
        sheet.text(EDGE_PX, top + step_px + LINE_PX, "estimate", SMALL, FAINT)
    for column, look in enumerate(looks):
        begin = text_px + column * step_px
        words = (f"{SIGMA} {look.sigma:.2g}", f"{side_px >> look.level} px")
        _column_head(sheet, begin + tile_px / 2, head_px, words, COLOURS[look.level % len(COLOURS)])
        size = tile_px >> look.level
        middle = (tile_px - size) / 2
        for row in range(len(names)):
            corner = (begin + middle, head_px + row * group_px + middle)
            sheet.tile(_toned(look.state[row], look.sigma / 2**look.level), *corner, size)
            sheet.tile(look.estimate[row], corner[0], corner[1] + step_px, size)
    end = text_px + len(looks) * step_px
    _column_head(sheet, end + tile_px / 2, head_px, ("image", f"{side_px} px"), INK)
    for row, image in enumerate(found.images):
        sheet.tile(image, end, head_px + row * group_px + step_px / 2, tile_px)
    sheet.save(path)


def _column_head(
    sheet: "_Sheet", middle: float, bottom: float, words: tuple[str, str], colour: str
) -> None:
    """Two lines above a column: what it is, and at which level in that level's colour."""
    sheet.text(middle, bottom - 2 * LINE_PX - 3, words[0], TEXT, weight="bold", ha="center")
    sheet.text(middle, bottom - LINE_PX - 2, words[1], SMALL, colour, ha="center")


def chosen_looks(looks: Sequence[Look], at_most: int) -> list[Look]:
    """Some of the looks: the first, the last, both sides of every descent, the rest evenly.

    Args:
        looks: In order; at least one.
        at_most: How many, where there are not more descents than fit; at least 2.
    """
    last = len(looks) - 1
    chosen = {0, last}
    for index in range(last):
        if looks[index].level != looks[index + 1].level:
            chosen |= {index, index + 1}
    while len(chosen) < min(at_most, len(looks)):  # halve the widest gap
        places = sorted(chosen)
        gap, begin = max((end - begin, begin) for begin, end in pairwise(places))
        chosen.add(begin + gap // 2)
    return [looks[index] for index in sorted(chosen)]


def _toned(noisy: Tensor, sigma: float) -> Tensor:
    """A noisy image at about the contrast of a clean one, in place of one cut off at [-1, 1]."""
    return noisy * float((1 + sigma**2) ** -0.5)


def _cut(name: str, num_letters: int = 10) -> str:
    return name if len(name) <= num_letters else f"{name[: num_letters - 1]}…"


def _tile_px(side_px: int, room_px: int) -> int:
    """The largest whole multiple of an image's side that fits, at least one."""
    return side_px * max(1, room_px // side_px)


def _sigma_axis(axes: Axes, ends: tuple[float, float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*ends)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


class _Sheet:
    """A white page in pixels, y downwards, that tiles and words are put on."""

    def __init__(self, width_px: float, height_px: float) -> None:
        self.figure = new_figure(width_px / DOTS_PER_IN, height_px / DOTS_PER_IN)
        self.figure.set_layout_engine("none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.ends: Mapping[str, Any] = {"xlim": (0, width_px), "ylim": (height_px, 0)}
        self.axes.set(**self.ends)

    def tile(self, image: Tensor, left: float, top: float, size_px: float) -> None:
        """An image (C, h, w), [-1, 1], as a square; what lies outside is cut off."""
        pixels = ((image.detach().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).numpy()
        shown = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        left, top = round(left), round(top)
        self.axes.imshow(
            shown,
            extent=(left, left + size_px, top + size_px, top),
            interpolation="nearest",
            aspect="auto",
            zorder=2,
        )

    def asleep(self, left: float, top: float, size_px: float) -> None:
        """An empty square for a branch that does not compute."""
        corners_x = [left, left + size_px, left + size_px, left]
        corners_y = [top, top, top + size_px, top + size_px]
        self.axes.fill(corners_x, corners_y, color=ASLEEP, linewidth=0)
        self.text(
            left + size_px / 2, top + size_px / 2, "asleep", SMALL, GREY, ha="center", va="center"
        )

    def text(  # noqa: PLR0913 - where, what, and how it looks
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        colour: str = INK,
        ha: str = "left",
        va: str = "top",
        weight: str = "normal",
    ) -> None:
        """Words at a place."""
        self.axes.text(x, y, words, fontsize=size, color=colour, ha=ha, va=va, weight=weight)

    def save(self, path: Path) -> None:
        """Write the page."""
        self.axes.set(**self.ends)  # images change them
        save_figure(self.figure, path)
