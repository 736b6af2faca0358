"""The noise scheduler of a Haar tree: which level of it an amount of noise leaves worth looking at.

Noise hides the finest band of an image first. Above threshold * (deviation of that band) a model
does not look at it at all, but at the level image below, which carries the same noise deviation in
orthonormal scale and half of it in units of the mean pixel (see vivero.diffusion.haar).

Letters: B images, C channels, H rows, W columns, N images, S steps + 1. Pure: no files, no
randomness; who wants noise brings it.
"""

import math
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from vivero.diffusion.haar import haar_split
from vivero.diffusion.schedules import NoiseSchedule

CHUNK_VALUES = 2**22  # of the pixels that fit turns into numbers at a time: 16 MB


@dataclass(frozen=True)
class NoiseScheduler:
    """A noise schedule on every level of a Haar tree.

    Level 0 is the image itself, level num_levels - 1 the root. The noisy level image is
    z_l + sigma * noise in orthonormal scale, with one sigma for all levels.

    Args:
        schedule: Noise levels of the full image; any NoiseSchedule.
        band_std: Standard deviation of the details between level l and l + 1 over the data, images
            in [-1, 1], finest first; each at least 0. What fit measures.
        threshold: A band is looked at while sigma <= threshold * band_std; > 0. None: always, so
            that every sigma belongs to level 0.

    Raises:
        ValueError: If band_std or threshold is out of range.
    """

    schedule: NoiseSchedule
    band_std: tuple[float, ...]
    threshold: float | None

    def __post_init__(self) -> None:
        if not all(math.isfinite(std) and std >= 0 for std in self.band_std):
            raise ValueError(f"band_std must be finite and at least 0; got {self.band_std}")
        if self.threshold is not None and not self.threshold > 0:
            raise ValueError(f"threshold must be above 0 or None; got {self.threshold}")

    @property
    def num_levels(self) -> int:
        """Levels of the tree: one more than there are bands."""
        return len(self.band_std) + 1

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The sigma above which level l is left for l + 1; never falling, infinite without one."""
        if self.threshold is None:
            return (math.inf,) * len(self.band_std)
        return tuple(accumulate((self.threshold * std for std in self.band_std), max))

    def fit(self, images: Shaped[Tensor, "N C H W"], num_levels: int) -> "NoiseScheduler":
        """This scheduler with the band deviations of a data set, in one pass over it.

        Args:
            images: Shape (N, C, H, W), uint8 in 0..255 or floating point in [-1, 1]; H and W
                divisible by 2^(num_levels - 1).
            num_levels: Levels of the tree; at least 1.

        Raises:
            ValueError: If there are no images, their size does not divide, num_levels is below 1
                or their numbers are not of those two kinds.
        """
        num_images, num_channels, height, width = images.shape
        divisor = 2 ** max(num_levels - 1, 0)
        if num_levels < 1 or num_images < 1 or height % divisor or width % divisor:
            raise ValueError(
                f"a tree of L >= 1 levels needs images of height and width divisible by "
                f"2^(L - 1); got {num_levels} levels for {num_images} images of {height} x {width}"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ValueError(f"images must be uint8 or floating point; got {images.dtype}")
        sums = torch.zeros(num_levels - 1, 2, dtype=torch.float64)
        chunk_images = max(1, CHUNK_VALUES // (num_channels * height * width))
        for begin in range(0, num_images, chunk_images):
            coarse = _in_units(images[begin : begin + chunk_images])
            for level in range(num_levels - 1):
                coarse, details = haar_split(coarse)
                wide = details.double()
                sums[level] += torch.stack([wide.sum(), (wide**2).sum()]).cpu()
        num_details = 3 * images.numel() / 4.0 ** torch.arange(1, num_levels, dtype=torch.float64)
        mean, mean_square = (sums / num_details[:, None]).unbind(dim=1)
        variance = (mean_square - mean**2).clamp(min=0)
        return replace(self, band_std=tuple(variance.sqrt().tolist()))

    def level_of(self, sigma: float) -> int:
        """The finest level worth looking at under noise sigma: 0 at little, the root at much."""
        return sum(sigma > bound for bound in self.thresholds)

    def levels_of(self, sigma: Float[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """level_of for many noise levels at once; shape (B,), int64."""
        bounds = torch.tensor(self.thresholds, dtype=torch.float64, device=sigma.device)
        levels: Tensor = torch.bucketize(sigma.double(), bounds)
        return levels

    def get_noise_level(self, time: Float[Tensor, " B"], level: int) -> Float[Tensor, " B"]:
        """Noise deviation of a level image in units of the mean pixel: sigma(time) / 2^level.

        The mean of 4^level pixels has that much less noise, so that a level's log-SNR is that of
        the full image plus 2 * level * ln(2).

        Args:
            time: Share of the process, shape (B,), in [0, 1]; 0 is the least noise.
            level: 0 .. num_levels - 1.

        Returns:
            Shape (B,), the dtype of time, > 0, strictly increasing in time.

        Raises:
            ValueError: If the tree has no such level.
        """
        if not 0 <= level < self.num_levels:
            raise ValueError(f"level must lie in 0..{self.num_levels - 1}; got {level}")
        return self.schedule.sigma(time) / 2.0**level

    def step_noise(
        self,
        noisy: Float[Tensor, "B C H W"],
        time_from: Float[Tensor, " B"],
        time_to: Float[Tensor, " B"],
        level: int,
        noise: Float[Tensor, "B C H W"],
    ) -> Float[Tensor, "B C H W"]:
        """The forward process of a level image, from a time to a later one.

        noisy + sqrt(to^2 - from^2) * noise, with to and from of get_noise_level: two steps with
        independent noise are one step of the same distribution.

        Args:
            noisy: Level image at time_from in units of the mean pixel, shape (B, C, H, W).
            time_from: Shape (B,), in [0, 1].
            time_to: Shape (B,), in [0, 1], nowhere below time_from.
            level: 0 .. num_levels - 1.
            noise: Standard normal, shape (B, C, H, W).

        Returns:
            Level image at time_to, shape (B, C, H, W), the dtype of noisy.

        Raises:
            ValueError: If time runs backwards or the tree has no such level.
        """
        if bool((time_to < time_from).any()):
            raise ValueError(
                f"noise is only ever added: time_to must not be below time_from; "
                f"got {time_from.tolist()} to {time_to.tolist()}"
            )
        before = self.get_noise_level(time_from.double(), level)
        after = self.get_noise_level(time_to.double(), level)
        added = ((after - before) * (after + before)).clamp(min=0).sqrt()
        return noisy + added.to(noisy.dtype)[:, None, None, None] * noise

    def sampling_sigmas(self, num_steps: int) -> Float[Tensor, " S"]:
        """The noise levels that a sampler visits; see NoiseSchedule.sampling_sigmas."""
        return self.schedule.sampling_sigmas(num_steps)


def _in_units(images: Tensor) -> Tensor:
    """Images as floating point in [-1, 1]."""
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()
