"""Held-out denoising loss by noise level: a figure with little noise of its own and no extractor.

The noise bank is fixed by a seed: two models that are compared see the same images, levels and
noise. Letters: N images, C channels, H rows, W columns, S levels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vivero.config.schema import EvaluateConfig
from vivero.data.prepared import NO_LABEL, PreparedSplit, to_model_range
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.intervals import Estimate, mean_estimate

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy, sigma, labels
Weight = Callable[[Tensor], Tensor]  # sigma to the weight of its squared error
BATCH_IMAGES = 100
LEAST_SIGMA, MOST_SIGMA = 0.02, 20.0  # what decides an image


@dataclass(frozen=True)
class NoiseBank:
    """Real images and the noise that is put on them; the same for every model.

    Attributes:
        clean: Shape (N, C, H, W), in [-1, 1].
        labels: Shape (N,), int64.
        sigmas: Shape (S,), rising.
        seed: Of the noise.
    """

    clean: Float[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"]
    sigmas: Float[Tensor, " S"]
    seed: int

    def noise(self, level: int) -> Float[Tensor, "N C H W"]:
        """The noise of one level, standard normal."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + level)
        return torch.randn(self.clean.shape, generator=generator)


@dataclass(frozen=True)
class LevelLoss:
    """The loss at one noise level."""

    sigma: float
    loss: Estimate

    def as_row(self) -> dict[str, float]:
        """Plain values: sigma, value, low, high and n."""
        loss = self.loss
        return {
            "sigma": self.sigma,
            "value": loss.value,
            "low": loss.low,
            "high": loss.high,
            "n": loss.n,
        }


def noise_levels(num_levels: int, least: float, most: float) -> Float[Tensor, " S"]:
    """Levels at equal steps of ln(sigma)."""
    ends = torch.tensor([least, most]).log()
    return torch.linspace(float(ends[0]), float(ends[1]), num_levels).exp()


def held_out_bank(held_out: PreparedSplit, settings: EvaluateConfig, null_label: int) -> NoiseBank:
    """The bank of an evaluation: the first images of a split, and the levels that decide an image.

    Args:
        held_out: Real images that no model was trained on.
        settings: How many images and levels, and the seed of the noise.
        null_label: The label of images that have none.
    """
    images = np.array(held_out.images[: settings.num_denoising_images])
    labels = torch.from_numpy(np.array(held_out.labels[: len(images)]))
    return NoiseBank(
        clean=to_model_range(torch.from_numpy(images)),
        labels=torch.where(labels == NO_LABEL, null_label, labels),
        sigmas=noise_levels(settings.num_noise_levels, LEAST_SIGMA, MOST_SIGMA),
        seed=settings.seed,
    )


def loss_by_noise_level(denoise: Denoise, weight: Weight, bank: NoiseBank) -> Iterator[LevelLoss]:
    """The mean of `errors_by_noise_level` at each level, with its interval over images."""
    errors = errors_by_noise_level(denoise, weight, bank)
    for sigma, errors_of_level in zip(bank.sigmas.tolist(), errors, strict=True):
        yield LevelLoss(sigma, mean_estimate(errors_of_level))


def errors_by_noise_level(
    denoise: Denoise, weight: Weight, bank: NoiseBank
) -> Iterator[Float[Tensor, " N"]]:
    """The weighted squared error of each image, one level at a time, least noise first.

    error(sigma) = weight(sigma) * mean((denoise(clean + sigma * noise) - clean)^2)

    Args:
        denoise: The model.
        weight: Weight of each level, (B,) to (B,).
        bank: Images, levels and noise.
    """
    starts = range(0, len(bank.clean), BATCH_IMAGES)
    for level, sigma in enumerate(bank.sigmas.tolist()):
        noisy = bank.clean + sigma * bank.noise(level)
        errors = partial(_weighted_errors, denoise, weight, noisy, bank, sigma)
        yield torch.cat(list(spread_over_cores(errors, starts)))


def _weighted_errors(
    denoise: Denoise,
    weight: Weight,
    noisy: Float[Tensor, "N C H W"],
    bank: NoiseBank,
    sigma: float,
    start: int,
) -> Float[Tensor, " B"]:
    """Weighted squared error of each image from row start on, one batch of them."""
    rows = slice(start, start + BATCH_IMAGES)
    levels = torch.full((len(noisy[rows]),), sigma)
    with torch.inference_mode():
        denoised = denoise(noisy[rows], levels, bank.labels[rows])
        error = (denoised - bank.clean[rows]).square().mean(dim=(1, 2, 3))
    return weight(levels) * error
