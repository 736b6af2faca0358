"""The learning rate as a pure function of images seen: never of steps, processes or restarts."""

import math

from vivero.config.schema import LearningRateScheduleName, TrainConfig

ONE_CYCLE_START, ONE_CYCLE_END = 25.0, 1e4  # torch's OneCycleLR: peak / 25 at first, then / 1e4


def rate_at(images_seen: int, config: TrainConfig) -> float:
    """The learning rate of the batch that begins after images_seen images."""
    return learning_rate(
        config.learning_rate_schedule,
        images_seen,
        peak=config.learning_rate,
        warmup_images=config.warmup_images,
        total_images=config.total_images,
    )


def learning_rate(
    schedule: LearningRateScheduleName,
    images_seen: int,
    *,
    peak: float,
    warmup_images: int,
    total_images: int,
) -> float:
    """The learning rate of a schedule after images_seen images.

    constant             peak * warmup
    cosine               peak * warmup * (1 + cos(pi * images_seen / total_images)) / 2
    inverse_square_root  peak * warmup / sqrt(max(1, images_seen / warmup_images))
    one_cycle            half a cosine from peak / 25 to peak while warming up, then another one
                         down to peak / 25 / 1e4 at total_images
    warmup               min(1, images_seen / warmup_images)

    Args:
        schedule: Which of them.
        images_seen: Images trained on so far, in [0, total_images].
        peak: The highest rate (of cosine: what the cosine starts from).
        warmup_images: Images over which the rate rises; 0 means no warm-up.
        total_images: Where training ends.

    Source:
        one_cycle: Smith and Topin 2019, arXiv:1708.07120, as torch's OneCycleLR anneals it.
        inverse_square_root: Karras et al. 2024, arXiv:2312.02696, with t_ref = warmup_images.
    """
    warmup = min(1.0, images_seen / warmup_images) if warmup_images else 1.0
    match schedule:
        case "constant":
            return peak * warmup
        case "cosine":
            return peak * warmup * (1 + math.cos(math.pi * images_seen / total_images)) / 2
        case "inverse_square_root":
            return peak * warmup / math.sqrt(max(1.0, images_seen / max(1, warmup_images)))
        case "one_cycle":
            least = peak / ONE_CYCLE_START
            if images_seen < warmup_images:
                return _half_cosine(least, peak, images_seen / warmup_images)
            share = (images_seen - warmup_images) / (total_images - warmup_images)
            return _half_cosine(peak, least / ONE_CYCLE_END, share)


def _half_cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
