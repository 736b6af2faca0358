"""The exponential moving average of the weights: what is sampled from, not what is trained.

The memory is a half-life in images, so it survives a change of batch size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

WARMUP_SHARE = 0.1  # early on the half-life is a tenth of the images seen: the start is forgotten


def ema_decay(images_seen: int, batch_images: int, halflife_images: int) -> float:
    """The share of the old average that one batch leaves, in [0, 1).

    decay = 0.5 ** (batch_images / min(halflife_images, WARMUP_SHARE * images_seen))

    Args:
        images_seen: Images trained on, this batch included; at least 1.
        batch_images: Images of this batch.
        halflife_images: Images after which a set of weights counts half.

    Source:
        Karras et al. 2022, arXiv:2206.00364, the warm-up of the half-life in its reference code.
    """
    halflife = max(1.0, min(float(halflife_images), WARMUP_SHARE * images_seen))
    return float(0.5 ** (batch_images / halflife))


@torch.no_grad()
def update_ema(average: Sequence[Tensor], weights: Sequence[Tensor], decay: float) -> None:
    """Set average = decay * average + (1 - decay) * weights, in place."""
    torch._foreach_lerp_(list(average), [weight.detach() for weight in weights], 1 - decay)
