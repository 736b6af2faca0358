"""Classifier-free guidance: away from what no class explains, within an interval of noise levels.

Pure: no files, no randomness. Letters: B images, C channels, H rows, W columns.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

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
        low, high = self.interval
        is_guided = (sigma >= low) & (sigma <= high) & (labels != self.null_label)
        if self.guidance == 1 or not bool(is_guided.any()):
            return self.denoiser(noisy, sigma, labels)
        rows = is_guided.nonzero()[:, 0]
        both = self.denoiser(
            torch.cat([noisy, noisy[rows]]),
            torch.cat([sigma, sigma[rows]]),
            torch.cat([labels, torch.full_like(rows, self.null_label)]),
        )
        with_class, without_class = both[: len(noisy)], both[len(noisy) :]
        guided = torch.lerp(without_class, with_class[rows], self.guidance)
        return with_class.index_copy(0, rows, guided)
