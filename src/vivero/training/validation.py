"""Validation loss on a fixed bank: always the same images, noise levels and noise.

The levels are quantiles of those seen in training, each with as many images, so the figure moves
only when the model does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivero.diffusion.preconditioning import Denoise
from vivero.training.feed import Feed
from vivero.training.loss import Objective, denoising_loss, kept_labels
from vivero.training.randomness import Moment, NoiseDraw, draw_noise

NUM_LEVELS = 5
BATCH_IMAGES = 64


@dataclass(frozen=True)
class ValidationBank:
    """Fixed inputs of the validation loss.

    Attributes:
        clean: Images, shape (B, C, H, W), range [-1, 1].
        labels: Class or null label, shape (B,), int64.
        draw: Noise and noise level of each; no label is dropped.
        level: Index of the noise level of each, shape (B,), in [0, NUM_LEVELS).
        level_sigmas: Median sigma of each level, rising.
    """

    clean: Tensor
    labels: Tensor
    draw: NoiseDraw
    level: Tensor
    level_sigmas: tuple[float, ...]


@dataclass(frozen=True)
class ValidationLoss:
    """The mean over the bank, and over each noise level by its median sigma."""

    mean: float
    by_sigma: dict[float, float]

    def metrics(self) -> dict[str, float]:
        """The numbers under the names of the record."""
        levels = {f"validation/loss.sigma_{s:.2g}": value for s, value in self.by_sigma.items()}
        return {"validation/loss": self.mean, **levels}


def build_validation_bank(
    feed: Feed, num_images: int, objective: Objective, seed: int
) -> ValidationBank:
    """The bank of the first num_images of a split (or all), whose order is by hash: random."""
    num_images = min(num_images, len(feed))
    clean, labels = feed.at(np.arange(num_images))
    draw_sigma = objective.schedule.draw_sigma
    moment, rows = Moment(seed, "validation", 0), slice(0, num_images)
    draw = draw_noise(moment, tuple(clean.shape), rows, draw_sigma, 0.0)
    rank = draw.sigma.argsort().argsort()  # the levels are stratified, so ranks are quantiles
    middles = draw_sigma((torch.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS)
    draw = draw.to(feed.device)
    return ValidationBank(
        clean=clean,
        labels=kept_labels(labels, draw.is_unlabelled, objective.null_label),
        draw=draw,
        level=rank * NUM_LEVELS // num_images,
        level_sigmas=tuple(middles.tolist()),
    )


@torch.no_grad()
def validation_loss(
    denoise: Denoise, weight: Callable[[Tensor], Tensor], bank: ValidationBank
) -> ValidationLoss:
    """Loss of a denoiser on the bank."""
    parts = []
    for begin in range(0, len(bank.clean), BATCH_IMAGES):
        rows = slice(begin, begin + BATCH_IMAGES)
        inputs = (bank.clean[rows], bank.labels[rows], bank.draw[rows])
        parts.append(denoising_loss(denoise, weight, *inputs))
    losses = torch.cat(parts).double().cpu()
    by_sigma = {
        sigma: float(losses[bank.level == index].mean())
        for index, sigma in enumerate(bank.level_sigmas)
        if bool((bank.level == index).any())
    }
    return ValidationLoss(float(losses.mean()), by_sigma)
