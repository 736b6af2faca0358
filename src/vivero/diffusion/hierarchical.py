"""The hierarchical sampler: from noise to images down a Haar tree, coarse levels first.

At much noise only the root of the tree is sampled, at a fraction of the cost; when the noise falls
below a band's threshold (see NoiseScheduler) the state descends a level and the band joins it.
Level images are in orthonormal scale (see vivero.diffusion.haar): noisy_l = z_l + sigma * noise
with one sigma for all levels.

Letters: B images, C channels, H rows, W columns of the full image, h rows, w columns of a level
image, S steps + 1. Pure: no files, and all randomness comes from the caller.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from jaxtyping import Float, Int64
from torch import Tensor

from vivero.diffusion.haar import haar_join, haar_pyramid, haar_split, with_coarse
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.samplers import DrawNoise, checked


@dataclass(frozen=True)
class LevelEstimate:
    """What a tree sees in a noisy level image.

    Args:
        clean: The expected level image z_l, shape (B, C, h, w).
        details: The expected details between z_l and z_{l-1}, shape (B, 3C, h, w); None at level 0.
        details_std: Deviation of the details around that, broadcastable to details, of 4 axes; None
            at level 0.
    """

    clean: Float[Tensor, "B C h w"]
    details: Float[Tensor, "B 3*C h w"] | None
    details_std: Float[Tensor, "_ _ _ _"] | None


class TreeModel(Protocol):
    """A denoiser for every level of a Haar tree."""

    @property
    def scheduler(self) -> NoiseScheduler:
        """Its levels and their thresholds."""

    def at_level(self, noisy: Tensor, sigma: Tensor, labels: Tensor, level: int) -> LevelEstimate:
        """The expected level images behind noisy ones.

        Args:
            noisy: z_l + sigma * noise, shape (B, C, h, w).
            sigma: Noise level of each image, shape (B,), > 0.
            labels: Class of each image, shape (B,), int64.
            level: 0 .. scheduler.num_levels - 1.
        """


@dataclass(frozen=True)
class CountedTree:
    """A tree that keeps count of what it is asked: where in the tree sampling spends its time.

    Args:
        tree: The tree to ask.
        num_images: Images estimated so far at each level, finest first; grows.
    """

    tree: TreeModel
    num_images: list[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_images", [0] * self.scheduler.num_levels)

    @property
    def scheduler(self) -> NoiseScheduler:
        """The scheduler of the tree."""
        return self.tree.scheduler

    def at_level(
        self,
        noisy: Float[Tensor, "B C h w"],
        sigma: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"],
        level: int,
    ) -> LevelEstimate:
        """The estimate of the tree."""
        self.num_images[level] += len(noisy)
        return self.tree.at_level(noisy, sigma, labels, level)


def sample_hierarchical(
    tree: TreeModel,
    noise: Float[Tensor, "B C H W"],
    sigmas: Float[Tensor, " S"],
    labels: Int64[Tensor, " B"],
    draw_noise: DrawNoise,
    adaptive_threshold: float | None = None,
) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(2M) down the tree: a Sampler whose first argument is a TreeModel.

    The state begins as sigmas[0] times the coarse part of noise, at the level of sigmas[0]. When
    scheduler.level_of(sigma) names a finer level, the details join the state as

    details = expected + sqrt(sigma^2 + std^2) * (the same band of noise)

    with what the last estimate expected of them. Over the bands of noise that is one draw for the
    whole tree, so an image depends on nothing but its own noise. The solver's memory, the
    estimate of the step before, has no such details: it takes those of the current estimate, which
    leaves the new bands one step of first order.

    Args:
        tree: Denoises the level images.
        noise: Standard normal, shape (B, C, H, W); H and W divisible by 2^(num_levels - 1).
        sigmas: Noise levels, shape (S,), strictly falling, ending in 0.
        labels: Class of each image, shape (B,), int64.
        draw_noise: Not called.
        adaptive_threshold: Descend to the next level early, once the mean square of the expected
            details exceeds this times sigma^2: the band carries signal before its average over
            the data says so. The mean runs over the batch, so that all its images share a level;
            they then depend on their batch. None: by the scheduler alone.

    Returns:
        Images, shape (B, C, H, W), about [-1, 1]. Bands that the last step does not reach are those
        expected, with the Gaussian posterior of the noise that they would have.

    Raises:
        ValueError: If the size does not fit the tree.
        SamplingError: When the tree gives numbers that are not finite or beyond all bounds.

    Source:
        Lu et al. 2022, arXiv:2211.01095, algorithm 2; the levels after Jing et al. 2022,
        arXiv:2205.01490.
    """
    sigma_max = sigmas[0].item()
    level = tree.scheduler.level_of(sigma_max)
    descent = _Descent(tree.scheduler, haar_pyramid(noise, tree.scheduler.num_levels))
    noisy = sigma_max * descent.noises[level]
    before: Tensor | None = None
    log_step_before = math.nan
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        estimate = tree.at_level(noisy, noisy.new_full((len(noisy),), sigma), labels, level)
        checked(estimate.clean, noisy, step, sigma, sigma_max)
        if estimate.details is not None:
            checked(estimate.details, noisy, step, sigma, sigma_max)
        if next_sigma == 0:
            return descent.finished(estimate, level, sigma)
        denoised = estimate.clean
        log_step = math.log(sigma / next_sigma)
        target = denoised
        if before is not None:
            target = denoised + log_step / (2 * log_step_before) * (
                denoised - with_coarse(denoised, before)
            )
        noisy = target + next_sigma / sigma * (noisy - target)
        before, log_step_before = denoised, log_step
        wanted = min(level, tree.scheduler.level_of(next_sigma))
        if wanted == level and _has_signal(estimate, next_sigma, adaptive_threshold):
            wanted = level - 1
        noisy = descent.lifted(noisy, estimate, level, wanted, next_sigma)
        level = wanted
    raise ValueError(f"sigmas must end in 0; got {sigmas.tolist()}")


def _has_signal(estimate: LevelEstimate, sigma: float, adaptive_threshold: float | None) -> bool:
    if adaptive_threshold is None or estimate.details is None:
        return False
    return estimate.details.square().mean().item() > adaptive_threshold * sigma**2


@dataclass(frozen=True)
class _Descent:
    """The way down a tree for one draw of noise, whose level images are noises."""

    scheduler: NoiseScheduler
    noises: list[Tensor]

    def lifted(
        self, noisy: Tensor, estimate: LevelEstimate, level: int, to_level: int, sigma: float
    ) -> Tensor:
        """The noisy level image at to_level <= level, from that at level and the estimate there."""
        for finer in reversed(range(to_level, level)):
            expected, std = self._details(estimate, finer, is_next=finer == level - 1)
            noise = haar_split(self.noises[finer])[1]
            noisy = haar_join(noisy, expected + (std**2 + sigma**2) ** 0.5 * noise)
        return noisy

    def finished(self, estimate: LevelEstimate, level: int, sigma: float) -> Tensor:
        """The full image from an estimate at level: finer bands are denoised as Gaussian ones.

        expected + std^2 / (std^2 + sigma^2) * (what lifted would add to expected)
        """
        images = estimate.clean
        for finer in reversed(range(level)):
            expected, std = self._details(estimate, finer, is_next=finer == level - 1)
            noise = haar_split(self.noises[finer])[1]
            images = haar_join(images, expected + std**2 / (std**2 + sigma**2) ** 0.5 * noise)
        return images

    def _details(
        self, estimate: LevelEstimate, finer: int, *, is_next: bool
    ) -> tuple[Tensor | float, Tensor | float]:
        """Expectation and deviation of the details between level finer and the one above it.

        Only those next to its own level does an estimate speak of; the others are what they are
        over the data.
        """
        if is_next and estimate.details is not None and estimate.details_std is not None:
            return estimate.details, estimate.details_std
        return 0.0, self.scheduler.band_std[finer]
