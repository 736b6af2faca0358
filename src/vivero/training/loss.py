"""The training loss: how far a denoised image is from the clean one, weighted by noise level.

The same for every parameterisation and every weight, since both arrive as callables.
Letters: B images, C channels, H and W the size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vivero.config.schema import DiffusionConfig, LossConfig, ModelConfig, TrainConfig
from vivero.diffusion.preconditioning import Denoise
from vivero.diffusion.schedules import NoiseSchedule, build_schedule
from vivero.diffusion.tree_denoiser import TreeDenoiser
from vivero.diffusion.weights import loss_weight
from vivero.models.denoisers import AnyDenoiser, build_denoiser
from vivero.models.tree import tree_config
from vivero.training.randomness import NoiseDraw
from vivero.training.routing import Router, Routing
from vivero.training.tree_loss import Losses, Perceptual, TreeObjective, tree_terms


@dataclass(frozen=True)
class Objective:
    """What the network learns.

    Attributes:
        diffusion: Parameterisation and loss weight.
        model: The network, whose name says how its output is read.
        loss: Weights of what a tree learns beside.
        schedule: Noise levels to learn from.
        null_label: The label that stands for "no label": the number of classes.
        label_dropout: Share of images trained without their label.
        perceptual: Distance of two lots of images as a network sees them; None without.
    """

    diffusion: DiffusionConfig
    model: ModelConfig
    loss: LossConfig
    schedule: NoiseSchedule
    null_label: int
    label_dropout: float
    perceptual: Perceptual | None = None

    def denoiser(self, network: nn.Module, call: Callable[..., Any] | None = None) -> AnyDenoiser:
        """The network, called by `call`, read as this objective's parameterisation."""
        return build_denoiser(network, self.model, self.diffusion, self.null_label, call)

    def router(self, denoise: AnyDenoiser, image_size_px: int) -> Router | None:
        """What sends images to the branches of a tree; None for other networks."""
        if not isinstance(denoise, TreeDenoiser):
            return None
        return Router(
            denoise.scheduler, image_size_px // 4, tree_config(self.model).fine_crop_share
        )

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight of each noise level, (B,) to (B,)."""
        return loss_weight(self.diffusion.loss_weight, sigma, self.diffusion.sigma_data)

    def losses(
        self,
        denoise: AnyDenoiser,
        clean: Tensor,
        labels: Tensor,
        draw: NoiseDraw,
        routing: Routing | None,
    ) -> Losses:
        """The loss of a batch; arguments as of denoising_loss, and where images enter a tree."""
        if isinstance(denoise, TreeDenoiser) and routing is not None:
            tree = TreeObjective(self.weight, self.loss, self.perceptual)
            return tree.losses(denoise, clean, labels, draw, routing)
        return Losses(denoising_loss(denoise, self.weight, clean, labels, draw), {})


def build_objective(
    config: TrainConfig, num_classes: int, perceptual: Perceptual | None = None
) -> Objective:
    """What `config` asks a network for `num_classes` classes to learn."""
    return Objective(
        diffusion=config.diffusion,
        model=config.model,
        loss=config.loss,
        schedule=build_schedule(config.diffusion),
        null_label=num_classes,
        label_dropout=config.label_dropout,
        perceptual=perceptual if config.loss.perceptual_weight else None,
    )


def loss_terms(config: TrainConfig) -> tuple[str, ...]:
    """The names of the parts of the loss; none where it is the denoising loss alone."""
    return tree_terms(config.loss) if config.model.name == "tree" else ()


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
