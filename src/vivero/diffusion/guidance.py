"""Classifier-free guidance: away from what no class explains, within an interval of noise levels.

Pure: no files, no randomness. Letters: B images, C channels, H rows, W columns (h, w of a level
image), G guided images.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vivero.diffusion.hierarchical import LevelEstimate, TreeModel
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.preconditioning import Denoise


@dataclass(frozen=True)
class Guided:
    """A denoiser with guidance, called like one.

    denoised = D(no class) + guidance * (D(class) - D(no class))    for low <= sigma <= high

    Elsewhere, where guidance is 1, and where the label is null_label already, it is D(class) alone
    and costs one pass; the guided images of a batch are passed twice, in one joint batch.

    Args:
        denoiser: The denoiser to guide.
        guidance: Scale; 1 = none, 0 = without class; at least 0.
        interval: (low, high) in sigma.
        null_label: The label that stands for "no class".

    Source:
        Ho and Salimans 2022, arXiv:2207.12598, equation 6 (their w is guidance - 1);
        Kynkäänniemi et al. 2024, arXiv:2404.07724 (the interval).
    """

    denoiser: Denoise
    guidance: float
    interval: tuple[float, float]
    null_label: int

    def __call__(
        self,
        noisy: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """The guided estimate of the clean images; arguments as of Denoiser."""
        rows = _guided_rows(sigma, labels, self.guidance, self.interval, self.null_label)
        if not len(rows):
            return self.denoiser(noisy, sigma, labels)
        both = self.denoiser(*_with_no_class(noisy, sigma, labels, rows, self.null_label))
        return _guide(both, rows, self.guidance)


@dataclass(frozen=True)
class GuidedTree:
    """A tree with guidance, asked like one: the rule of Guided at every level.

    It acts on the expected details as on the level image; their deviation stays that of the class.

    Args:
        tree: The tree to guide.
        guidance: As of Guided.
        interval: As of Guided.
        null_label: As of Guided.
    """

    tree: TreeModel
    guidance: float
    interval: tuple[float, float]
    null_label: int

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
        """The guided estimate of the level images; arguments as of TreeModel."""
        rows = _guided_rows(sigma, labels, self.guidance, self.interval, self.null_label)
        if not len(rows):
            return self.tree.at_level(noisy, sigma, labels, level)
        joint = _with_no_class(noisy, sigma, labels, rows, self.null_label)
        both = self.tree.at_level(*joint, level)
        return replace(
            both.of_rows(slice(len(noisy))),
            clean=_guide(both.clean, rows, self.guidance),
            details=None if both.details is None else _guide(both.details, rows, self.guidance),
        )


def _guided_rows(
    sigma: Tensor, labels: Tensor, guidance: float, interval: tuple[float, float], null_label: int
) -> Int64[Tensor, " G"]:
    """Which images of a batch guidance changes."""
    if guidance == 1:
        return labels.new_empty(0)
    low, high = interval
    is_guided = (sigma >= low) & (sigma <= high) & (labels != null_label)
    return is_guided.nonzero()[:, 0]


def _with_no_class(
    noisy: Tensor, sigma: Tensor, labels: Tensor, rows: Tensor, null_label: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch, and its rows once more without their class."""
    return (
        torch.cat([noisy, noisy[rows]]),
        torch.cat([sigma, sigma[rows]]),
        torch.cat([labels, torch.full_like(rows, null_label)]),
    )


def _guide(both: Tensor, rows: Tensor, guidance: float) -> Tensor:
    """What was estimated of the batch of _with_no_class, (B + G, ...), as one of (B, ...)."""
    num_images = len(both) - len(rows)
    with_class, without_class = both[:num_images], both[num_images:]
    guided = torch.lerp(without_class, with_class[rows], guidance)
    return with_class.index_copy(0, rows, guided)
