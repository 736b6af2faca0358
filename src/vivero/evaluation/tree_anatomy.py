"""What a trained tree is made of, in figures: its bands, its branches, and how they are mixed.

Letters: N images, C channels, H rows, W columns of the images, h rows and w columns of a level
image, S noise levels, L branches. Level images are in orthonormal scale (vivero.diffusion.haar)
unless a name says mean pixel, which is what is shown: 2^level times less. No files, no drawing.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vivero.diffusion.guidance import GuidedTree
from vivero.diffusion.haar import haar_pyramid, haar_split, with_coarse
from vivero.diffusion.hierarchical import LevelEstimate, TreeModel, sample_hierarchical
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.tree_denoiser import BranchPrediction, TreeDenoiser
from vivero.evaluation.denoising import NoiseBank

NUM_QUANTILES = 20_000  # of the noise that training draws
NUM_TIMED_PASSES = 7
TIMED_IMAGES = 50
BATCH_IMAGES = 100
LOW_SHARE, HIGH_SHARE = 0.1, 0.9  # of the pixels' weights, the ends of their range


@dataclass(frozen=True)
class BandFigures:
    """The bands that one split makes of the data, in orthonormal scale.

    Attributes:
        level: Of the image that is split; 0 is the image itself.
        side_px: Its side.
        image_std: Its standard deviation.
        horizontal_std: Of the horizontal differences.
        vertical_std: Of the vertical differences.
        diagonal_std: Of the diagonal differences.
        details_std: Of the three together; the threshold is a multiple of it.
        coarse_std: Of the coarse half.
    """

    level: int
    side_px: int
    image_std: float
    horizontal_std: float
    vertical_std: float
    diagonal_std: float
    details_std: float
    coarse_std: float


def band_figures(images: Float[Tensor, "N C H W"], num_splits: int) -> list[BandFigures]:
    """The standard deviation of every band of a data set, finest first.

    Args:
        images: Shape (N, C, H, W), [-1, 1]; H and W divisible by 2^num_splits.
        num_splits: At least 1.
    """
    figures = []
    for level in range(num_splits):
        coarse, details = haar_split(images)
        bands = [_std(band) for band in details.chunk(3, dim=1)]
        stds = (_std(images), *bands, _std(details), _std(coarse))
        figures.append(BandFigures(level, images.shape[-1], *stds))
        images = coarse
    return figures


def _std(values: Tensor) -> float:
    return float(values.double().std(correction=0))


@dataclass(frozen=True)
class Sampling:
    """How a tree is asked for images.

    Attributes:
        sigmas: Noise levels that are visited, shape (S + 1,), the last one 0.
        guidance: 1 = none.
        guidance_interval: (low, high) in sigma; a guided step passes each image twice.
        labels: Class of each image, shape (N,), int64.
        seed: Of the noise, of all images at once.
    """

    sigmas: Float[Tensor, " S"]
    guidance: float
    guidance_interval: tuple[float, float]
    labels: Int64[Tensor, " N"]
    seed: int

    def passes_at(self, sigma: float) -> int:
        """Passes of one labelled image in a step at noise sigma."""
        low, high = self.guidance_interval
        return 2 if self.guidance != 1 and low <= sigma <= high else 1


@dataclass(frozen=True)
class BranchFigures:
    """Where in the noise images enter at a level, and what that costs.

    Attributes:
        level: 0 is the finest.
        side_px: Of the level image.
        above_sigma: Least noise at which images enter here; 0 for the finest.
        up_to_sigma: Most noise; infinite for the root.
        share_of_training: Share of the noise levels drawn in training that lie there.
        num_steps: Steps of the sampler that lie there.
        num_passes: Passes of one labelled image in these steps; guided ones count twice.
        macs: Multiplications (with addition) of one pass of one image that enters here: this
            branch and all coarser ones.
        ms_per_image: Milliseconds of it in a batch on this machine, the least of a few.
    """

    level: int
    side_px: int
    above_sigma: float
    up_to_sigma: float
    share_of_training: float
    num_steps: int
    num_passes: int
    macs: int
    ms_per_image: float


def branch_figures(
    tree: TreeDenoiser, sampling: Sampling, image_shape: tuple[int, int, int]
) -> list[BranchFigures]:
    """The figures of every branch, finest first.

    Args:
        tree: The tree.
        sampling: How it is asked for images.
        image_shape: (C, H, W) of the full images.
    """
    scheduler = tree.scheduler
    bounds = (0.0, *scheduler.thresholds, math.inf)
    drawn = scheduler.levels_of(training_sigmas(scheduler))
    shares = drawn.bincount(minlength=scheduler.num_levels) / len(drawn)
    steps = sampling.sigmas[:-1].tolist()
    num_channels, side_px, _ = image_shape
    figures = []
    for level in range(scheduler.num_levels):
        level_shape = (num_channels, side_px >> level, side_px >> level)
        here = [sigma for sigma in steps if scheduler.level_of(sigma) == level]
        figures.append(
            BranchFigures(
                level=level,
                side_px=side_px >> level,
                above_sigma=bounds[level],
                up_to_sigma=bounds[level + 1],
                share_of_training=shares[level].item(),
                num_steps=len(here),
                num_passes=sum(sampling.passes_at(sigma) for sigma in here),
                macs=_macs(tree, level_shape, level),
                ms_per_image=_ms_per_image(tree, level_shape, level),
            )
        )
    return figures


def training_sigmas(scheduler: NoiseScheduler) -> Float[Tensor, " S"]:
    """Noise levels at equal steps of their distribution in training; NUM_QUANTILES, rising."""
    uniform = (torch.arange(NUM_QUANTILES, dtype=torch.float64) + 0.5) / NUM_QUANTILES
    return scheduler.schedule.draw_sigma(uniform)


def relative_sampling_cost(branches: Sequence[BranchFigures]) -> float:
    """Multiplications of a whole sampling, as a share of one whose every pass is the finest's."""
    spent = sum(branch.num_passes * branch.macs for branch in branches)
    return spent / (sum(branch.num_passes for branch in branches) * branches[0].macs)


def _macs(tree: TreeDenoiser, level_shape: tuple[int, int, int], level: int) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        _pass(tree, torch.zeros(1, *level_shape), level)
    return int(counter.get_total_flops()) // 2


def _ms_per_image(tree: TreeDenoiser, level_shape: tuple[int, int, int], level: int) -> float:
    noisy, seconds = torch.zeros(TIMED_IMAGES, *level_shape), []
    for _ in range(1 + NUM_TIMED_PASSES):  # the first one warms up
        begin = time.perf_counter()
        _pass(tree, noisy, level)
        seconds.append(time.perf_counter() - begin)
    return 1e3 * min(seconds[1:]) / len(noisy)


def _pass(tree: TreeDenoiser, noisy: Tensor, level: int) -> None:
    labels = torch.full((len(noisy),), tree.null_label)
    with torch.no_grad():
        tree.at_level(noisy, noisy.new_ones(len(noisy)), labels, level)


@dataclass(frozen=True)
class FusionFigures:
    """How a branch and the next coarser one are mixed at a noise level, on held-out images.

    Errors are root mean squares in units of the mean pixel, images in [-1, 1].

    Attributes:
        sigma: Noise level.
        level: Of the branch whose coarse half is mixed.
        weight: Mean over pixels of the branch's own share; the coarser one has the rest.
        low: Below it lies LOW_SHARE of the pixels' weights.
        high: Below it lies HIGH_SHARE of them.
        best: The one weight for all pixels that would err least; None where both say the same.
        own_error: Of the branch alone.
        coarser_error: Of the coarser branch, in the same pass.
        fused_error: Of the mixture.
    """

    sigma: float
    level: int
    weight: float
    low: float
    high: float
    best: float | None
    own_error: float
    coarser_error: float
    fused_error: float


def fusion_figures(
    tree: TreeDenoiser, bank: NoiseBank, advance: Callable[[], object]
) -> list[FusionFigures]:
    """The mixture at every noise level of the bank, by every branch that is awake there.

    Args:
        tree: The tree.
        bank: Held-out images, noise levels and noise.
        advance: Is called after each noise level.

    Returns:
        By noise level, then by branch, finest first; none where branches are not mixed.
    """
    figures = []
    for index, sigma in enumerate(bank.sigmas.tolist()):
        entry = tree.scheduler.level_of(sigma)
        cleans = haar_pyramid(bank.clean, tree.scheduler.num_levels)
        noisy = cleans[entry] + sigma * haar_pyramid(bank.noise(index), entry + 1)[entry]
        branches = _predictions(tree, noisy, sigma, bank.labels, entry)
        for level in range(entry, tree.scheduler.num_levels - 1):
            mixed = _mixed(branches, level)
            if mixed is not None:
                figures.append(_fusion(sigma, level, *mixed, cleans[level + 1]))
        advance()
    return figures


def _predictions(
    tree: TreeDenoiser, noisy: Tensor, sigma: float, labels: Tensor, entry: int
) -> list[list[BranchPrediction | None]]:
    """What all branches say of level images that enter at a level, a batch at a time."""
    found = []
    for begin in range(0, len(noisy), BATCH_IMAGES):
        rows = slice(begin, begin + BATCH_IMAGES)
        part, none = noisy[rows], noisy[:0]
        states = [part if level == entry else none for level in range(tree.scheduler.num_levels)]
        with torch.inference_mode():
            found.append(tree.predict(states, part.new_full((len(part),), sigma), labels[rows]))
    return found


def _mixed(
    batches: Sequence[Sequence[BranchPrediction | None]], level: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """A branch's weights, its own coarse half and what the coarser branch says, of all batches."""
    weights, own, coarser = [], [], []
    for branches in batches:
        branch, child = branches[level], branches[level + 1]
        if branch is not None and branch.fusion_weight is not None and child is not None:
            weights.append(branch.fusion_weight)
            own.append(branch.own_coarse)
            coarser.append(child.clean)
    if not weights:
        return None
    return torch.cat(weights), torch.cat(own), torch.cat(coarser)


def _fusion(
    sigma: float, level: int, weights: Tensor, own: Tensor, coarser: Tensor, clean: Tensor
) -> FusionFigures:
    gap, missing = own - coarser, clean - coarser
    size = float(gap.double().square().sum())
    ends = torch.tensor([LOW_SHARE, HIGH_SHARE])
    low, high = weights.flatten().quantile(ends).tolist()
    fused = torch.lerp(coarser, own, weights)
    own_error, coarser_error, fused_error = (
        _rms(estimate - clean) / 2 ** (level + 1) for estimate in (own, coarser, fused)
    )
    return FusionFigures(
        sigma=sigma,
        level=level,
        weight=weights.mean().item(),
        low=low,
        high=high,
        best=float((gap.double() * missing.double()).sum()) / size if size else None,
        own_error=own_error,
        coarser_error=coarser_error,
        fused_error=fused_error,
    )


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


@dataclass(frozen=True)
class HandoverFigures:
    """What a branch foresees of the finer level's details at the noise where it hands over.

    Attributes:
        level: Of the branch that hands over.
        sigma: The threshold.
        unforeseen_share: Share of the details' variance that stays unforeseen, held-out images.
        expected_share: The same as the model believes it; it sets the noise of the hand-over.
    """

    level: int
    sigma: float
    unforeseen_share: float
    expected_share: float


def handover_figures(tree: TreeDenoiser, bank: NoiseBank) -> list[HandoverFigures]:
    """The hand-over of every branch that has one, the finest of them first."""
    figures = []
    for level in range(1, tree.scheduler.num_levels):
        sigma = tree.scheduler.thresholds[level - 1]
        if math.isinf(sigma):
            continue
        finer = haar_pyramid(bank.clean, level)[-1]
        coarse, details = haar_split(finer)
        noisy = coarse + sigma * haar_pyramid(bank.noise(0), level + 1)[-1]
        gaps, std = [], noisy.new_zeros(1)
        for begin in range(0, len(noisy), BATCH_IMAGES):
            rows = slice(begin, begin + BATCH_IMAGES)
            part = noisy[rows]
            with torch.inference_mode():
                estimate = tree.at_level(
                    part, part.new_full((len(part),), sigma), bank.labels[rows], level
                )
            if estimate.details is not None and estimate.details_std is not None:
                gaps.append(details[rows] - estimate.details)
                std = estimate.details_std
        believed = tree.scheduler.band_std[level - 1]
        figures.append(
            HandoverFigures(
                level=level,
                sigma=sigma,
                unforeseen_share=(_rms(torch.cat(gaps)) / _std(details)) ** 2,
                expected_share=float((std.double() / believed).square().mean()),
            )
        )
    return figures


@dataclass(frozen=True)
class BranchView:
    """What one branch sees and says of a noisy image, both (C, h, w) in units of the mean pixel."""

    seen: Tensor
    said: Tensor


@dataclass(frozen=True)
class NoisyView:
    """One image under one amount of noise, through a tree.

    Attributes:
        sigma: Noise level.
        level: Where the image enters.
        noisy: The noisy image, shape (C, H, W).
        branches: Of each branch, finest first; None for those that sleep. What a branch says is
            its own estimate, before it is mixed with the coarser ones.
        answer: The tree's estimate of the full image, shape (C, H, W).
        error: Its root mean square error.
    """

    sigma: float
    level: int
    noisy: Tensor
    branches: tuple[BranchView | None, ...]
    answer: Tensor
    error: float


def noisy_view(tree: TreeDenoiser, bank: NoiseBank, index: int, level_of_bank: int) -> NoisyView:
    """Image number index of the bank under one of its noise levels, as the tree sees it."""
    rows, sigma = slice(index, index + 1), bank.sigmas[level_of_bank].item()
    clean, labels = bank.clean[rows], bank.labels[rows]
    noisy = clean + sigma * bank.noise(level_of_bank)[rows]
    entry = tree.scheduler.level_of(sigma)
    pyramid = haar_pyramid(noisy, tree.scheduler.num_levels)
    (branches,) = _predictions(tree, pyramid[entry], sigma, labels, entry)
    views: list[BranchView | None] = []
    for level, branch in enumerate(branches):
        if branch is None:
            views.append(None)
            continue
        said = with_coarse(branch.clean, branch.own_coarse)
        views.append(BranchView(pyramid[level][0] / 2**level, said[0] / 2**level))
    with torch.inference_mode():
        answer = tree(noisy, noisy.new_full((1,), sigma), labels)
    return NoisyView(
        sigma=sigma,
        level=entry,
        noisy=noisy[0],
        branches=tuple(views),
        answer=answer[0],
        error=_rms(answer - clean),
    )


@dataclass(frozen=True)
class Look:
    """One question to a tree while it makes images.

    Attributes:
        sigma: Noise level.
        level: That was asked.
        state: The noisy level images, shape (N, C, h, w), in units of the mean pixel.
        estimate: The clean level images that the tree expects, likewise.
    """

    sigma: float
    level: int
    state: Tensor
    estimate: Tensor


@dataclass(frozen=True)
class RecordedTree:
    """A tree that keeps what it was asked and what it said.

    Args:
        tree: The tree to ask.
        looks: What was asked so far; grows.
    """

    tree: TreeModel
    looks: list[Look] = field(default_factory=list)

    @property
    def scheduler(self) -> NoiseScheduler:
        """The scheduler of the tree."""
        return self.tree.scheduler

    def at_level(self, noisy: Tensor, sigma: Tensor, labels: Tensor, level: int) -> LevelEstimate:
        """The estimate of the tree; arguments as of TreeModel."""
        estimate = self.tree.at_level(noisy, sigma, labels, level)
        in_pixels = (noisy / 2**level, estimate.clean / 2**level)
        self.looks.append(Look(sigma[0].item(), level, *in_pixels))
        return estimate


@dataclass(frozen=True)
class Descent:
    """Images on their way down a tree.

    Attributes:
        looks: What the sampler asked, in order.
        images: What it made, shape (N, C, H, W).
    """

    looks: list[Look]
    images: Tensor


def descent(tree: TreeDenoiser, sampling: Sampling, image_shape: tuple[int, int, int]) -> Descent:
    """Make an image for each label of sampling with the hierarchical sampler, and keep the way."""
    guiding = (sampling.guidance, sampling.guidance_interval, tree.null_label)
    recorded = RecordedTree(GuidedTree(tree, *guiding))
    generator = torch.Generator().manual_seed(sampling.seed)
    noise = torch.randn((len(sampling.labels), *image_shape), generator=generator)
    with torch.inference_mode():
        images = sample_hierarchical(recorded, noise, sampling.sigmas, sampling.labels, _no_noise)
    return Descent(recorded.looks, images)


def _no_noise() -> Tensor:
    raise AssertionError("the hierarchical sampler drew noise")
