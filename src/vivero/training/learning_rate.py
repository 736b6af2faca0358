"""The learning rate as a pure function of images seen."""

import math


def cosine_with_warmup(
    images_seen: int, *, peak: float, warmup_images: int, total_images: int
) -> float:
    """The learning rate of the batch that begins after images_seen images.

    rate = peak * min(1, images_seen / warmup_images) * (1 + cos(pi * share)) / 2
    share = images_seen / total_images

    Args:
        images_seen: Images trained on so far, in [0, total_images].
        peak: What the cosine starts from, before warm-up.
        warmup_images: Images over which the rate rises from 0; 0 means no warm-up.
        total_images: Where the rate reaches 0.
    """
    warmup = min(1.0, images_seen / warmup_images) if warmup_images else 1.0
    return peak * warmup * (1 + math.cos(math.pi * images_seen / total_images)) / 2
