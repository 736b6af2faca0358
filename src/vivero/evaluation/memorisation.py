"""Does the model copy? The nearest training images of each sample, and of real images as well.

A sample is a copy by either of two rules. The ratio: one cluster of nearly equal training images is
far nearer to it than every image outside that cluster. The distance: it is as near to a training
image as nearly equal images are. Two images are nearly equal when their distance is less than
NEAR_EQUAL_RATIO of the usual distance, the median from held-out real images to their nearest
training images. Held-out real images give the floor. Distances are Euclidean, in pixels or in
features. Pure functions.

Letters: K images that are looked at, N training images, H held-out ones, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.spatial import cKDTree
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.intervals import Estimate, bootstrap_estimate, share_estimate
from vivero.evaluation.precision_recall import distances_between

COPIED_RATIO = 1 / 3  # Yoon et al. 2023, "Diffusion probabilistic models generalize when they
# fail to memorize", section 3
NEAR_EQUAL_RATIO = 1 / 4  # docs/experiments.md: calls 0.2 % of held-out real images copies
CHUNK_ROWS = 256
NUM_DIRECTIONS = 24  # of the projection in which near-equal training images are looked for
NUM_FITTED_IMAGES = 4000  # that the projection is fitted to
ROUNDING = 1.01  # the projection is computed in single precision
NUM_CANDIDATES = 8  # nearest images in the projection, whose true distance is computed


@dataclass(frozen=True)
class Nearest:
    """For each image the nearest training image, and the nearest one outside of its cluster.

    Attributes:
        rows: Row of the nearest training image, shape (K,), int64.
        distances: How far it is, shape (K,), >= 0.
        next_distances: How far the nearest training image is that is not nearly equal to the
            nearest one, shape (K,); infinite where all training images are nearly equal.
        near_equal_distance: Images that are nearer than this are nearly equal.
    """

    rows: Int64[Tensor, " K"]
    distances: Float[Tensor, " K"]
    next_distances: Float[Tensor, " K"]
    near_equal_distance: float

    @property
    def is_copied(self) -> Bool[Tensor, " K"]:
        """Of each image whether it is a copy by the ratio or by the distance."""
        by_ratio = self.distances < COPIED_RATIO * self.next_distances
        by_ratio &= self.next_distances.isfinite()  # else there is nothing to compare with
        return by_ratio | (self.distances < self.near_equal_distance)

    @property
    def num_copied(self) -> int:
        """Number of copies."""
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


def near_equal_distance(held_out: Float[Tensor, "H D"], training: Float[Tensor, "N D"]) -> float:
    """The distance below which two images are nearly equal.

    distance = NEAR_EQUAL_RATIO * median over held-out images of the distance to the nearest
    training image

    Raises:
        NotComputableError: When there is no held-out or no training image.
    """
    if not len(held_out) or not len(training):
        raise NotComputableError(
            f"near-equal images need at least 1 held-out and 1 training image; "
            f"got {len(held_out)} and {len(training)}"
        )
    chunks = [
        distances_between(held_out[start : start + CHUNK_ROWS], training).amin(dim=1)
        for start in range(0, len(held_out), CHUNK_ROWS)
    ]
    return NEAR_EQUAL_RATIO * float(torch.cat(chunks).median())


def nearest_training_images(
    images: Float[Tensor, "K D"], training: Float[Tensor, "N D"], near_equal: float
) -> Nearest:
    """The nearest training image of each image, and the nearest outside of its cluster.

    Args:
        images: Shape (K, D).
        training: Shape (N, D), N >= 2.
        near_equal: Distance below which two images are nearly equal, from `near_equal_distance`.

    Raises:
        NotComputableError: When there are fewer than two training images.
    """
    if len(training) < 2:
        raise NotComputableError(
            f"nearest images need at least 2 training images; got {len(training)}"
        )
    rows, distances, next_distances = [], [], []
    for start in range(0, len(images), CHUNK_ROWS):
        chunk = images[start : start + CHUNK_ROWS]
        to_training = distances_between(chunk, training)
        nearest = to_training.min(dim=1)
        to_nearest = distances_between(training[nearest.indices], training)
        is_in_cluster = to_nearest < near_equal
        is_in_cluster[torch.arange(len(chunk)), nearest.indices] = True
        to_training[is_in_cluster] = torch.inf
        rows.append(nearest.indices)
        distances.append(nearest.values)
        next_distances.append(to_training.amin(dim=1))
    return Nearest(torch.cat(rows), torch.cat(distances), torch.cat(next_distances), near_equal)


def has_near_equal(images: Float[Tensor, "N D"], near_equal: float) -> Bool[Tensor, " N"]:
    """Of each image whether another one is nearly equal to it.

    Orthogonal projection never lengthens a distance, so whatever is near in full is near in the
    projection, where a tree finds it quickly. The true distances of NUM_CANDIDATES of these are
    computed. An image is missed only if that many others are nearer in the projection but not in
    full.

    Args:
        images: Shape (N, D).
        near_equal: Distance below which two images are nearly equal.
    """
    if len(images) < 2:
        return torch.zeros(len(images), dtype=torch.bool)
    centred = images - images.mean(dim=0)
    step = -(-len(images) // NUM_FITTED_IMAGES)
    fitted = centred[::step].double()
    directions = torch.linalg.eigh(fitted.T @ fitted).eigenvectors[:, -NUM_DIRECTIONS:]
    projected = (centred @ directions.to(centred.dtype)).numpy()
    num_candidates = min(NUM_CANDIDATES + 1, len(images))  # an image is a candidate of its own
    rows = cKDTree(projected).query(
        projected,
        k=num_candidates,
        distance_upper_bound=near_equal * ROUNDING,
        workers=torch.get_num_threads(),
    )[1]
    own = np.arange(len(images))[:, None]
    first, place = np.nonzero((rows != own) & (rows < len(images)))  # len(images) stands for none
    second = rows[first, place]
    found = torch.zeros(len(images), dtype=torch.bool)
    for start in range(0, len(first), CHUNK_ROWS):
        ours, others = first[start : start + CHUNK_ROWS], second[start : start + CHUNK_ROWS]
        is_near = torch.linalg.vector_norm(images[ours] - images[others], dim=1) < near_equal
        found[ours[is_near.numpy()]] = True
    return found


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
        NotComputableError: When there are fewer than two images on either side, or most held-out
            images are training images.
    """
    ours, theirs = samples.distances.double(), held_out.distances.double()
    if min(len(ours), len(theirs)) < 2:
        raise NotComputableError(
            f"copying needs at least 2 images on each side; got {len(ours)} and {len(theirs)}"
        )
    usual = float(theirs.median())
    if not usual:
        raise NotComputableError(
            "most held-out images are training images, so copies cannot be told from new images; "
            "remove the images of the test split from the training split"
        )

    def ratio(rows: Int64[Tensor, " K"]) -> float:
        return float(ours[rows].median()) / usual

    return Copying(
        copied_share=share_estimate(samples.num_copied, len(ours)),
        floor_share=share_estimate(held_out.num_copied, len(theirs)),
        distance_ratio=bootstrap_estimate(ratio, len(ours), num_bootstrap, generator),
    )
