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
        details: The expected details between z_l and z_{l-1}, shape (B, 3C, h, w); None at level 0,
            and where a tree foresees none: they are then 0, give or take their band_std.
        details_std: Deviation of the details around that, broadcastable to details; None with them.
    """

    clean: Float[Tensor, "B C h w"]
    details: Float[Tensor, "B 3*C h w"] | None
    details_std: Float[Tensor, "..."] | None


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

    The state begins as sigmas[0] times the coarse part of noise, at the level of sigmas[0]. Where
    scheduler.level_of(sigma) names a finer level, the details join the state as

    details = expected + sqrt(sigma^2 + std^2) * (the same band of noise)

    The bands of noise together are one draw for the whole tree, so an image depends on nothing but
    its own noise. What to expect of the details was said by the estimate of the step before, at
    more noise; only where several levels are descended at once are those between looked at for it.
    On Gaussian images that pass halves the divergence from the data, at 5 % of the cost; a fresh
    look before every descent gains no more than as many passes spent on more steps.

    The solver's memory, the estimate of the step before, knows nothing of the new details: it takes
    those of the current estimate, which gives the new band one step of first order.

    Args:
        tree: Denoises the level images.
        noise: Standard normal, shape (B, C, H, W); H and W divisible by 2^(num_levels - 1).
        sigmas: Noise levels, shape (S,), strictly falling, ending in 0.
        labels: Class of each image, shape (B,), int64.
        draw_noise: Not called.
        adaptive_threshold: Descend one level early where the mean square of the expected details
            exceeds this times sigma^2: these images have more signal in the band than the data on
            average. The mean is that of the batch, which stays on one level, so an image then
            depends on its batch. None: by the scheduler alone.

    Returns:
        Images, shape (B, C, H, W), about [-1, 1]. Bands that the noise of the last step still hides
        are denoised as Gaussian ones.

    Raises:
        ValueError: If the size does not fit the tree.
        SamplingError: When the tree gives numbers that are not finite or beyond what an image and
            its noise can hold.

    Source:
        Lu et al. 2022, arXiv:2211.01095, algorithm 2; levels as in Jing et al. 2022,
        arXiv:2205.01490, section 3.
    """
    noises = haar_pyramid(noise, tree.scheduler.num_levels)
    descent = _Descent(tree, labels, noises, sigma_max=sigmas[0].item())
    level = tree.scheduler.level_of(descent.sigma_max)
    noisy = descent.sigma_max * descent.noises[level]
    estimate: LevelEstimate | None = None
    before: Tensor | None = None
    log_step_before = math.nan
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        wanted = descent.level_at(sigma, level, estimate, adaptive_threshold)
        while level > wanted:
            seen = estimate or descent.look(noisy, level, step, sigma)
            noisy = haar_join(noisy, descent.noisy_details(seen, level, sigma))
            level, estimate = level - 1, None
        estimate = descent.look(noisy, level, step, sigma)
        denoised = estimate.clean
        if next_sigma == 0:
            return descent.full_size(estimate, level, sigma)
        log_step = math.log(sigma / next_sigma)
        target = denoised
        if before is not None:
            change = denoised - with_coarse(denoised, before)
            target = denoised + log_step / (2 * log_step_before) * change
        noisy = target + next_sigma / sigma * (noisy - target)
        before, log_step_before = denoised, log_step
    raise ValueError(f"sigmas must end in 0, after another; got {sigmas.tolist()}")


@dataclass(frozen=True)
class _Descent:
    """One batch on its way down a tree.

    Args:
        tree: Denoises its level images.
        labels: Its classes, shape (B,).
        noises: The level images of its noise, finest first.
        sigma_max: Where it began.
    """

    tree: TreeModel
    labels: Tensor
    noises: list[Tensor]
    sigma_max: float

    def level_at(
        self,
        sigma: float,
        level: int,
        estimate: LevelEstimate | None,
        adaptive_threshold: float | None,
    ) -> int:
        """The level to look at next, coming from level with the estimate made there."""
        wanted = min(level, self.tree.scheduler.level_of(sigma))
        if adaptive_threshold is None or estimate is None or estimate.details is None:
            return wanted
        has_signal = estimate.details.square().mean().item() > adaptive_threshold * sigma**2
        return min(wanted, level - 1) if has_signal else wanted

    def look(self, noisy: Tensor, level: int, step: int, sigma: float) -> LevelEstimate:
        """The tree's estimate, once it is seen to be possible."""
        batch_sigma = noisy.new_full((len(noisy),), sigma)
        estimate = self.tree.at_level(noisy, batch_sigma, self.labels, level)
        checked(estimate.clean, noisy, step, sigma, self.sigma_max)
        if estimate.details is not None:
            checked(estimate.details, noisy, step, sigma, self.sigma_max)
        return estimate

    def noisy_details(self, estimate: LevelEstimate, level: int, sigma: float) -> Tensor:
        """The details that join a level image under noise sigma, by the estimate made of it."""
        expected, std = self._details(estimate, level)
        return expected + (std**2 + sigma**2) ** 0.5 * self._noise_of_details(level)

    def full_size(self, estimate: LevelEstimate, level: int, sigma: float) -> Tensor:
        """The clean full image: details that the estimate does not hold are their Gaussian mean.

        expected + std^2 / (std^2 + sigma^2) * (noisy_details - expected)
        """
        images = estimate.clean
        for coarse in range(level, 0, -1):
            expected, std = self._details(estimate if coarse == level else None, coarse)
            gain = std**2 / (std**2 + sigma**2) ** 0.5
            images = haar_join(images, expected + gain * self._noise_of_details(coarse))
        return images

    def _noise_of_details(self, level: int) -> Tensor:
        return haar_split(self.noises[level - 1])[1]

    def _details(
        self, estimate: LevelEstimate | None, level: int
    ) -> tuple[Tensor | float, Tensor | float]:
        """Expectation and deviation of the details that join a level image."""
        if estimate is None or estimate.details is None or estimate.details_std is None:
            return 0.0, self.tree.scheduler.band_std[level - 1]
        return estimate.details, estimate.details_std
