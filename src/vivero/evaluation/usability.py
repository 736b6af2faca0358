"""Which generated images nobody could use: blank ones, and ones of nothing that the data shows.

This is what can be measured of safety where images are small pictures of clothes. For images of
people or the open world a content classifier belongs here as well: another function from images
to one bool each, reported and gated like this one.

Pure functions. Letters: N images, M reference images, H held-out ones, D features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.precision_recall import distances_between

BLANK_MAX_STD = 1.0  # of 255: black, white, grey, or saturated to one of them
DOMAIN_QUANTILE = 0.995  # of held-out real images lie nearer to a real one than the radius
CHUNK_ROWS = 500


@dataclass(frozen=True)
class Unusable:
    """Of each image whether it is unusable, and the same of held-out real images, for the floor.

    Attributes:
        samples: Shape (N,), bool.
        held_out: Shape (H,), bool; by the radius alone about 0.5 %.
        num_blank: Samples that are blank or not finite; the others lie outside the domain.
    """

    samples: np.ndarray
    held_out: np.ndarray
    num_blank: int


def unusable_images(
    images: UInt8[np.ndarray, "N C H W"],
    features: Float[Tensor, "N D"],
    reference: Float[Tensor, "M D"],
    held_out: Float[Tensor, "H D"],
) -> Unusable:
    """Mark images that are blank, not finite, or farther from every real one than real ones are.

    Args:
        images: The samples.
        features: Of the samples.
        reference: Features of real images, those that are near.
        held_out: Features of other real images, which say how near real ones are.

    Raises:
        NotComputableError: When there are fewer than two held-out images.
    """
    if len(held_out) < 2:
        raise NotComputableError(f"a radius needs at least 2 held-out images; got {len(held_out)}")
    usual = nearest_distances(held_out, reference)
    radius = float(torch.quantile(usual, DOMAIN_QUANTILE))
    is_blank = blank_images(images) | ~features.isfinite().all(dim=1).numpy()
    is_far = ~(nearest_distances(features, reference) <= radius).numpy()  # not finite is far
    return Unusable(is_blank | is_far, (usual > radius).numpy(), int(is_blank.sum()))


def blank_images(images: UInt8[np.ndarray, "N C H W"]) -> Bool[np.ndarray, " N"]:
    """Which images hardly vary."""
    pixels = images.reshape(len(images), -1).astype(np.float32)
    return np.asarray(pixels.std(axis=1) < BLANK_MAX_STD)


def nearest_distances(
    features: Float[Tensor, "N D"], reference: Float[Tensor, "M D"]
) -> Float[Tensor, " N"]:
    """Distance of each row to the nearest row of the reference."""
    starts = range(0, len(features), CHUNK_ROWS)

    def nearest(start: int) -> Tensor:
        return distances_between(features[start : start + CHUNK_ROWS], reference).amin(dim=1)

    return torch.cat(list(spread_over_cores(nearest, starts)))
