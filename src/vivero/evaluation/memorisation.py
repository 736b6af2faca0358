"""Does the model copy? The nearest training images of each sample, and of real images as well.

A sample is called copied when one training image is far nearer to it than all others: at less than
COPIED_RATIO of the distance of the second nearest. Held-out real images give the floor. Distances
are Euclidean, in pixels or in features. Pure functions.

Letters: K images that are looked at, N training images, H held-out ones, D dimensions.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.intervals import Estimate, bootstrap_estimate, share_estimate
from vivero.evaluation.precision_recall import distances_between

COPIED_RATIO = 1 / 3  # Yoon et al. 2023, "Diffusion probabilistic models generalize when they
# fail to memorize", section 3
CHUNK_ROWS = 256


@dataclass(frozen=True)
class Nearest:
    """For each image the nearest training image: its row, how far it is, how far the next one is.

    Attributes:
        rows: Shape (K,), int64.
        distances: Shape (K,), >= 0.
        next_distances: Shape (K,), >= distances.
    """

    rows: Int64[Tensor, " K"]
    distances: Float[Tensor, " K"]
    next_distances: Float[Tensor, " K"]

    @property
    def is_copied(self) -> Bool[Tensor, " K"]:
        """Of each image whether one training image is far nearer to it than all others."""
        return self.distances < COPIED_RATIO * self.next_distances

    @property
    def num_copied(self) -> int:
        """Images that one training image is far nearer to than all others."""
        return int(self.is_copied.sum())


@dataclass(frozen=True)
class Copying:
    """How near samples are to training images, beside how near real images are.

    Attributes:
        copied_share: Share of copied samples.
        floor_share: The same share of held-out real images.
        distance_ratio: Median distance of samples over that of held-out images; well below 1 means
            that samples crowd around training images.
    """

    copied_share: Estimate
    floor_share: Estimate
    distance_ratio: Estimate


def nearest_training_images(
    images: Float[Tensor, "K D"], training: Float[Tensor, "N D"]
) -> Nearest:
    """The nearest row of training for each row of images.

    Raises:
        NotComputableError: When there are fewer than two training images.
    """
    if len(training) < 2:
        raise NotComputableError(
            f"nearest images need at least 2 training images; got {len(training)}"
        )
    chunks = [
        distances_between(images[start : start + CHUNK_ROWS], training).topk(2, largest=False)
        for start in range(0, len(images), CHUNK_ROWS)
    ]
    distances = torch.cat([chunk.values for chunk in chunks])
    rows = torch.cat([chunk.indices for chunk in chunks])
    return Nearest(rows[:, 0], distances[:, 0], distances[:, 1])


def copying(
    samples: Nearest, held_out: Nearest, num_bootstrap: int, generator: torch.Generator
) -> Copying:
    """Compare the nearest training images of samples with those of held-out real images.

    Args:
        samples: Of the samples; at least two.
        held_out: Of real images that nothing was trained on; at least two.
        num_bootstrap: Resamples for the interval of the ratio.
        generator: For the resamples.

    Raises:
        NotComputableError: When there are fewer than two images on either side.
    """
    ours, theirs = samples.distances.double(), held_out.distances.double()
    if min(len(ours), len(theirs)) < 2:
        raise NotComputableError(
            f"copying needs at least 2 images on each side; got {len(ours)} and {len(theirs)}"
        )
    usual = float(theirs.median())

    def ratio(rows: Int64[Tensor, " K"]) -> float:
        return float(ours[rows].median()) / usual

    return Copying(
        copied_share=share_estimate(samples.num_copied, len(ours)),
        floor_share=share_estimate(held_out.num_copied, len(theirs)),
        distance_ratio=bootstrap_estimate(ratio, len(ours), num_bootstrap, generator),
    )
