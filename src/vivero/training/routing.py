"""Which branch of a tree each image of a batch is for, decided on the CPU by its noise.

A threshold is soft in training: an image near it goes to either side at random, so that both
branches know the noise at which a sampler hands over. The share of the images at each noise level
stays what the schedule draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.models.tree import Window
from vivero.training.randomness import Moment, generator_at

OVERLAP = 2**0.5  # noise within this factor of a threshold may go to either side


@dataclass(frozen=True)
class Routing:
    """Where the images of a batch enter the tree.

    Attributes:
        levels: Shape (B,), int64, on the CPU.
        is_near: Whether the noise is near the threshold to the next coarser level, shape (B,).
        sigma: Noise levels, on the CPU, shape (B,).
        window: The part of the finest branch that is trained on; None for all of it.
    """

    levels: Tensor
    is_near: Tensor
    sigma: Tensor
    window: Window | None

    def __getitem__(self, images: slice) -> "Routing":
        """The routing of some of the images."""
        return Routing(self.levels[images], self.is_near[images], self.sigma[images], self.window)

    def rows(self, level: int) -> Tensor:
        """The images that enter at a level, int64."""
        return torch.nonzero(self.levels == level)[:, 0]

    def rows_alone(self, level: int) -> Tensor:
        """Images of the next finer level that a level could as well be asked about alone, int64."""
        return torch.nonzero((self.levels == level - 1) & self.is_near)[:, 0]


@dataclass(frozen=True)
class Router:
    """Routes the images of every batch, as a function of the clock.

    Attributes:
        scheduler: The thresholds between levels.
        num_cells: Side of the finest branch's child, in cells.
        crop_share: Share of the finest branch's side that is trained on; 1 for all.
    """

    scheduler: NoiseScheduler
    num_cells: int
    crop_share: float

    def at(self, moment: Moment, sigma: Tensor, images: slice, batch_images: int) -> Routing:
        """The routing of some images of a joint batch.

        Args:
            moment: Names the joint batch.
            sigma: Noise levels of these images, shape (b,), on the CPU.
            images: Which of the joint batch they are.
            batch_images: Images of the joint batch.
        """
        generator = generator_at(Moment(moment.seed, f"{moment.purpose}/route", moment.begin))
        jitter = OVERLAP ** (2 * torch.rand(batch_images, generator=generator)[images] - 1)
        corner = torch.rand(2, generator=generator).tolist()
        levels = self.scheduler.levels_of(sigma * jitter)
        is_near = self.scheduler.levels_of(sigma * OVERLAP) > levels
        return Routing(levels, is_near, sigma, self._window(corner))

    def _window(self, corner: Sequence[float]) -> Window | None:
        side = round(self.crop_share * self.num_cells)
        if side >= self.num_cells:
            return None
        top, left = (int(share * (self.num_cells - side + 1)) for share in corner)
        return Window(top, left, max(side, 1))
