"""The training loss: how far a denoised image is from the clean one, weighted by noise level.

The same for every parameterisation and every weight, since both arrive as callables.
Letters: B images, C channels, H and W the size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vivero.config.schema import DiffusionConfig, TrainConfig
from vivero.diffusion.preconditioning import Denoise, Denoiser, Network
from vivero.diffusion.schedules import NoiseSchedule, build_schedule
from vivero.diffusion.weights import loss_weight
from vivero.training.randomness import NoiseDraw


@dataclass(frozen=True)
class Objective:
    """What the network learns.

    Attributes:
        diffusion: Parameterisation and loss weight.
        schedule: Noise levels to learn from.
        null_label: The label that stands for "no label": the number of classes.
        label_dropout: Share of images trained without their label.
    """

    diffusion: DiffusionConfig
    schedule: NoiseSchedule
    null_label: int
    label_dropout: float

    def denoiser(self, network: Network) -> Denoiser:
        """The network, read as this objective's parameterisation."""
        name, sigma_data = self.diffusion.parameterisation, self.diffusion.sigma_data
        return Denoiser(network, name, sigma_data, self.null_label)

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight of each noise level, (B,) to (B,)."""
        return loss_weight(self.diffusion.loss_weight, sigma, self.diffusion.sigma_data)


def build_objective(config: TrainConfig, num_classes: int) -> Objective:
    """What `config` asks a network for `num_classes` classes to learn."""
    schedule = build_schedule(config.diffusion)
    return Objective(config.diffusion, schedule, num_classes, config.label_dropout)


def denoising_loss(
    denoise: Denoise,
    weight: Callable[[Tensor], Tensor],
    clean: Tensor,
    labels: Tensor,
    draw: NoiseDraw,
) -> Tensor:
    """Weighted squared error of each image, averaged over its pixels.

    loss = weight(sigma) * mean((denoise(clean + sigma * noise) - clean) ** 2)

    Args:
        denoise: Maps (noisy, sigma, labels) to the denoised images.
        weight: Maps sigma (B,) to weights (B,).
        clean: Real images, shape (B, C, H, W), range [-1, 1].
        labels: Class or null label of each image, shape (B,), int64.
        draw: Noise and noise levels of these images.

    Returns:
        Loss of each image, shape (B,), float32.
    """
    noisy = clean + draw.sigma[:, None, None, None] * draw.noise
    denoised = denoise(noisy, draw.sigma, labels)
    return weight(draw.sigma) * (denoised - clean).square().mean(dim=(1, 2, 3))


def kept_labels(labels: Tensor, is_unlabelled: Tensor, null_label: int) -> Tensor:
    """The labels, with the null label where one is missing (-1) or is dropped; shape (B,)."""
    return torch.where(is_unlabelled | (labels < 0), null_label, labels)
