"""Loss weights: how much the squared error of denoised counts at each noise level.

The loss is weight(sigma) * mean((denoised - clean)^2). Pure functions of sigma, shape (B,).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

LossWeightName = Literal["edm", "min_snr", "uniform"]

MAX_SNR = 5.0  # gamma of the min-SNR paper


def edm_weight(sigma: Float[Tensor, " B"], sigma_data: float) -> Float[Tensor, " B"]:
    """(sigma^2 + sigma_data^2) / (sigma * sigma_data)^2: equal weight on the network's own output.

    Source:
        Karras et al. 2022, arXiv:2206.00364, table 1.
    """
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def min_snr_weight(sigma: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """min(1 / sigma^2, MAX_SNR): the error of the noise, capped where there is little noise.

    Source:
        Hang et al. 2023, arXiv:2303.09556, section 3.4 (for a loss on clean).
    """
    return (1 / sigma**2).clamp(max=MAX_SNR)


def loss_weight(
    name: LossWeightName, sigma: Float[Tensor, " B"], sigma_data: float
) -> Float[Tensor, " B"]:
    """The weight by its name in params.yaml.

    Args:
        name: train.diffusion.loss_weight.
        sigma: Noise level of each image, shape (B,), > 0.
        sigma_data: Standard deviation of clean; used by "edm" only.

    Returns:
        Weight of each image, shape (B,), > 0.
    """
    match name:
        case "edm":
            return edm_weight(sigma, sigma_data)
        case "min_snr":
            return min_snr_weight(sigma)
        case "uniform":
            return torch.ones_like(sigma)
