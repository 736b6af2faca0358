"""Gradient clipping: by the norm over all weights, or row by row in proportion to the weights."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from vivero.config.schema import TrainConfig

LEAST_WEIGHT_NORM = 1e-3  # a row of zeros may still move


def clip_gradients(weights: Sequence[Tensor], config: TrainConfig) -> Tensor:
    """Clip the gradients in place as config says.

    Returns:
        The norm of all gradients together before clipping, a scalar.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    match config.gradient_clipping:
        case "global":
            torch.nn.utils.clip_grads_with_norm_(weights, config.max_gradient_norm, norm)
        case "adaptive":
            clip_adaptively(weights, config.max_gradient_ratio)
        case "none":
            pass
    return norm


@torch.no_grad()
def clip_adaptively(weights: Iterable[Tensor], max_ratio: float) -> None:
    """Shrink each row of a gradient whose norm exceeds max_ratio times that of its weights.

    gradient *= min(1, max_ratio * max(|weights|, 1e-3) / |gradient|), norms over a row: one output
    channel of a convolution or linear layer; a vector counts as one row.

    Source:
        Brock et al. 2021, arXiv:2102.06171, equation 3; vectors as in its reference code.
    """
    for weight in weights:
        if weight.grad is None:
            continue
        limit = row_norms(weight).clamp(min=LEAST_WEIGHT_NORM) * max_ratio
        norm = row_norms(weight.grad)
        weight.grad.mul_(torch.where(norm > limit, limit / norm.clamp(min=1e-6), 1.0))


def row_norms(values: Tensor) -> Tensor:
    """Norm of each row, shape (rows, 1, ...); of a vector, one norm."""
    over = tuple(range(1, values.ndim)) or None
    norms: Tensor = torch.linalg.vector_norm(values, dim=over, keepdim=True)
    return norms


def whole(value: Tensor) -> Tensor:
    """The value over all processes, where each holds a part of it."""
    return value.full_tensor() if isinstance(value, DTensor) else value
