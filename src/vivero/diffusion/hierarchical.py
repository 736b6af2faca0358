"""The hierarchical sampler: from noise to images down a Haar tree, coarse levels first.

At much noise only the root of the tree is sampled, at a fraction of the cost; when the noise falls
below a band's threshold (see NoiseScheduler) the state descends a level and the band joins it.
Level images are in orthonormal scale (see vivero.diffusion.haar): noisy_l = z_l + sigma * noise
with one sigma for all levels.

Letters: B images, C channels, H rows, W columns of the full image, h rows, w columns of a level
image, S steps + 1. Pure: no files, and all randomness comes from the caller.
"""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise, repeat
from typing import Protocol

import torch
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
        details_std: Deviation of the details around that, broadcastable to details: of as many
            dimensions where each image has its own, of fewer where all share one; None with them.
    """

    clean: Float[Tensor, "B C h w"]
    details: Float[Tensor, "B 3*C h w"] | None
    details_std: Float[Tensor, "..."] | None

    def of_rows(self, rows: Int64[Tensor, " R"] | slice) -> "LevelEstimate":
        """The same of some of the images, in the order of rows."""
        std = self.details_std
        is_per_image = std is not None and std.ndim == self.clean.ndim and len(std) > 1
        return LevelEstimate(
            clean=self.clean[rows],
            details=None if self.details is None else self.details[rows],
            details_std=std[rows] if std is not None and is_per_image else std,
        )


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
        adaptive_threshold: An image descends one level early where the mean square of its expected
            details exceeds this times sigma^2: it has more signal in the band than the data on
            average. Each image goes its own way, whatever its batch; those of one level are looked
            at together, so that a step asks the tree once a level at most. None: by the scheduler
            alone.

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
    sigma_max = sigmas[0].item()
    level = tree.scheduler.level_of(sigma_max)
    rows = torch.arange(len(noise), device=noise.device)
    whole = _Party(tree, rows, labels, noises, sigma_max, level, sigma_max * noises[level])
    parties = [whole]
    log_step_before = math.nan
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        parties = _descended(parties, step, sigma, adaptive_threshold)
        estimates = [party.look(step, sigma) for party in parties]
        if next_sigma == 0:
            order = torch.cat([party.rows for party in parties]).argsort()
            images = map(_Party.full_size, parties, estimates, repeat(sigma))
            return torch.cat(list(images))[order]
        log_step = math.log(sigma / next_sigma)
        for party, estimate in zip(parties, estimates, strict=True):
            party.step(estimate, next_sigma / sigma, log_step / (2 * log_step_before))
        log_step_before = log_step
    raise ValueError(f"sigmas must end in 0, after another; got {sigmas.tolist()}")


@dataclass
class _Party:
    """Images of a batch that are at one level of a tree.

    Args:
        tree: Denoises level images.
        rows: Which of the batch, shape (b,).
        labels: Their classes, shape (b,).
        noises: The level images of the noise of the whole batch, finest first.
        sigma_max: Where they began.
        level: Where they are.
        noisy: Their level images.
        estimate: What was last said of them; None when they have descended or met others since.
        before: Their denoised level images of the step before, in lots, as those who meet may come
            from different levels; together b images, none before the first step.
    """

    tree: TreeModel
    rows: Tensor
    labels: Tensor
    noises: list[Tensor]
    sigma_max: float
    level: int
    noisy: Tensor
    estimate: LevelEstimate | None = None
    before: tuple[Tensor, ...] = ()

    def parted(self, sigma: float, adaptive_threshold: float | None) -> list["_Party"]:
        """Those that descend early, and those that do not; itself where all do the same."""
        is_early = self._is_early(sigma, adaptive_threshold)
        if self._by_schedule(sigma) < self.level or bool(is_early.all()) or not is_early.any():
            return [self]
        return [self._only(is_early.nonzero()[:, 0]), self._only((~is_early).nonzero()[:, 0])]

    def is_due(self, sigma: float, adaptive_threshold: float | None) -> bool:
        """Whether they leave their level, once those that do are on their own."""
        is_early = self._is_early(sigma, adaptive_threshold)
        return self._by_schedule(sigma) < self.level or bool(is_early.any())

    def descend(self, step: int, sigma: float) -> None:
        """Go down a level, by what was said of them there; they are looked at if nothing was."""
        seen = self.estimate or self.look(step, sigma)
        self.noisy = haar_join(self.noisy, self._noisy_details(seen, sigma))
        self.level, self.estimate = self.level - 1, None

    def look(self, step: int, sigma: float) -> LevelEstimate:
        """The tree's estimate, once it is seen to be possible."""
        batch_sigma = self.noisy.new_full((len(self.noisy),), sigma)
        estimate = self.tree.at_level(self.noisy, batch_sigma, self.labels, self.level)
        checked(estimate.clean, self.noisy, step, sigma, self.sigma_max)
        if estimate.details is not None:
            checked(estimate.details, self.noisy, step, sigma, self.sigma_max)
        self.estimate = estimate
        return estimate

    def step(self, estimate: LevelEstimate, noise_left: float, share_of_change: float) -> None:
        """One step of the solver, which leaves a share of the noise."""
        denoised = target = estimate.clean
        if self.before:
            lots = torch.split(denoised, [len(lot) for lot in self.before])
            before = torch.cat(list(map(with_coarse, lots, self.before)))
            target = denoised + share_of_change * (denoised - before)
        self.noisy = target + noise_left * (self.noisy - target)
        self.before = (denoised,)

    def full_size(self, estimate: LevelEstimate, sigma: float) -> Tensor:
        """The clean full images: details that the estimate does not hold are their Gaussian mean.

        expected + std^2 / (std^2 + sigma^2) * (noisy_details - expected)
        """
        images = estimate.clean
        for coarse in range(self.level, 0, -1):
            expected, std = self._details(estimate if coarse == self.level else None, coarse)
            gain = std**2 / (std**2 + sigma**2) ** 0.5
            images = haar_join(images, expected + gain * self._noise_of_details(coarse))
        return images

    def _by_schedule(self, sigma: float) -> int:
        return min(self.level, self.tree.scheduler.level_of(sigma))

    def _is_early(self, sigma: float, adaptive_threshold: float | None) -> Tensor:
        """Which images have details that stand out of the noise, shape (b,)."""
        if adaptive_threshold is None or self.estimate is None or self.estimate.details is None:
            return torch.zeros(len(self.rows), dtype=torch.bool, device=self.rows.device)
        signal = self.estimate.details.square().mean(dim=(1, 2, 3))
        return signal > adaptive_threshold * sigma**2

    def _only(self, chosen: Tensor) -> "_Party":
        """Some of the images, on their own; after a step, which leaves one lot of before."""
        return replace(
            self,
            rows=self.rows[chosen],
            labels=self.labels[chosen],
            noisy=self.noisy[chosen],
            estimate=None if self.estimate is None else self.estimate.of_rows(chosen),
            before=tuple(lot[chosen] for lot in self.before),
        )

    def _noisy_details(self, estimate: LevelEstimate, sigma: float) -> Tensor:
        """The details that join the level images under noise sigma, by the estimate of them."""
        expected, std = self._details(estimate, self.level)
        return expected + (std**2 + sigma**2) ** 0.5 * self._noise_of_details(self.level)

    def _noise_of_details(self, level: int) -> Tensor:
        return haar_split(self.noises[level - 1][self.rows])[1]

    def _details(
        self, estimate: LevelEstimate | None, level: int
    ) -> tuple[Tensor | float, Tensor | float]:
        """Expectation and deviation of the details that join a level image."""
        if estimate is None or estimate.details is None or estimate.details_std is None:
            return 0.0, self.tree.scheduler.band_std[level - 1]
        return estimate.details, estimate.details_std


def _descended(
    parties: list[_Party], step: int, sigma: float, adaptive_threshold: float | None
) -> list[_Party]:
    """The images at the levels where sigma is best looked at, one party a level, coarsest first."""
    parted = [part for party in parties for part in party.parted(sigma, adaptive_threshold)]
    for party in parted:
        if party.is_due(sigma, adaptive_threshold):
            party.descend(step, sigma)
    together = _joined(parted)
    # who is above the level of sigma still has just come there: one look is for all of them
    while together[0].level > together[0].tree.scheduler.level_of(sigma):
        together[0].descend(step, sigma)
        together = _joined(together)
    return together


def _joined(parties: list[_Party]) -> list[_Party]:
    """Those of one level as one, coarsest first."""
    by_level: dict[int, list[_Party]] = {}
    for party in parties:
        by_level.setdefault(party.level, []).append(party)
    return [_as_one(by_level[level]) for level in sorted(by_level, reverse=True)]


def _as_one(parties: list[_Party]) -> _Party:
    first, *others = parties
    if not others:
        return first
    return replace(
        first,
        rows=torch.cat([party.rows for party in parties]),
        labels=torch.cat([party.labels for party in parties]),
        noisy=torch.cat([party.noisy for party in parties]),
        estimate=None,
        before=tuple(lot for party in parties for lot in party.before),
    )
