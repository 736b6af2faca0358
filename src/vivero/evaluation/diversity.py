"""Does the model repeat itself? Samples that are nearly equal to another sample, up to small moves.

Two samples of a class are nearly equal when they are nearer to each other than all but
NEAR_EQUAL_QUANTILE of real images of that class are to their nearest one, among equally many. All
samples are compared with all samples of their class. Where a class has fewer real images than
samples, the quantile is that of fewer; where it has too few, that of all classes counts.
Distances are Euclidean in pixels, the least over MOVES of one of the two: mirrored, and shifted by
up to one pixel. Noise on repeated images changes the distance by less than real images differ.
Pure functions.

Letters: N samples, R real training images, H held-out real images.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.memorisation import NEAR_EQUAL_RATIO
from vivero.evaluation.precision_recall import distances_between

NEAR_EQUAL_QUANTILE = 0.05  # of real images are called nearly equal, and that is the floor
MAX_SHIFT_PX = 1
MAX_REAL_QUERIES = 1000  # real images of a class whose nearest one is looked for; bounds the time
CHUNK_QUERIES, CHUNK_OTHERS = 256, 1024  # compared at a time; bounds the memory
GREY_LEVEL = 1 / 255


@dataclass(frozen=True)
class Repetition:
    """Of each sample whether another one is nearly equal, and the same of held-out real images.

    Attributes:
        samples: Shape (N,), bool, in the order of the samples.
        held_out: Shape (H',), bool: the floor, about NEAR_EQUAL_QUANTILE. H' is less than H where
            a class has more than MAX_REAL_QUERIES images, or more than samples.
    """

    samples: Bool[np.ndarray, " N"]
    held_out: Bool[np.ndarray, " H"]


@dataclass(frozen=True)
class LabelledImages:
    """Images and their labels: uint8, (N, C, H, W), and integers, (N,); one label where none is."""

    images: UInt8[np.ndarray, "N C H W"]
    labels: Int64[np.ndarray, " N"]


def repetition(
    samples: LabelledImages, real: LabelledImages, held_out: LabelledImages
) -> Repetition:
    """Mark samples that are nearly equal to another sample of their class; no class is left out.

    Args:
        samples: What the model made.
        real: Real images, which say how near to each other different images are.
        held_out: Other real images, for the floor; a class needs two of them to be part of it.

    Raises:
        NotComputableError: When a class has one sample, or there are too few real images.
    """
    rows_of = {int(label): np.flatnonzero(samples.labels == label) for label in {*samples.labels}}
    for label, rows in rows_of.items():
        if len(rows) < 2:
            raise NotComputableError(
                f"near-equal samples need 2 samples of each class; class {label} has 1"
            )
    most = max(map(len, rows_of.values()), default=0)
    scales = {label: scale for label in rows_of if (scale := _scale(real, label, most))}
    floors = {label: _images_of(held_out, label, len(rows)) for label, rows in rows_of.items()}
    if not scales or not any(len(images) > 1 for images in floors.values()):
        raise NotComputableError(
            "near-equal samples need 2 training images and 2 test images of one class"
        )
    is_ours = np.zeros(len(samples.labels), dtype=np.bool_)
    is_floor = []
    for label, rows in sorted(rows_of.items()):
        own = [scales[label]] if label in scales else []
        limit = near_equal_limit(own, list(scales.values()), len(rows))
        is_ours[rows] = (nearest_of_others(np.asarray(samples.images[rows])) <= limit).numpy()
        if len(floors[label]) > 1:
            nearest = nearest_of_others(floors[label], MAX_REAL_QUERIES)
            is_floor.append((nearest <= limit).numpy())
    return Repetition(is_ours, np.concatenate(is_floor))


@dataclass(frozen=True)
class RealScale:
    """How near real images of one class are to each other.

    Attributes:
        nearest: Of some images the distance to the nearest of all others.
        num_images: All of them.
        one_level: Distance of images that differ by one grey level.
    """

    nearest: Float[Tensor, " Q"]
    num_images: int
    one_level: float

    def quantile(self, num_samples: int) -> float:
        """Share of real images that have another one as near as the limit.

        With p the chance that one image is so near, 1 - (1 - p)^(N - 1) = NEAR_EQUAL_QUANTILE for
        the nearest of the N - 1 others of a sample. For the R - 1 others of a real image that is
            1 - (1 - NEAR_EQUAL_QUANTILE)^((R - 1) / (N - 1))
        """
        power = (self.num_images - 1) / (num_samples - 1)
        return 1 - math.pow(1 - NEAR_EQUAL_QUANTILE, power)


def _scale(real: LabelledImages, label: int, most: int) -> RealScale | None:
    """Of real images of a class, at most as many as the largest class has samples."""
    images = _images_of(real, label, most)
    if len(images) < 2:
        return None
    one_level = GREY_LEVEL * math.sqrt(images[0].size)
    return RealScale(nearest_of_others(images, MAX_REAL_QUERIES), len(images), one_level)


def near_equal_limit(own: list[RealScale], all_classes: list[RealScale], num_samples: int) -> float:
    """The distance up to which two samples of a class are nearly equal.

    Real images that are in the data more than once do not count: else repeated data would hide a
    repeated sample. Such are those that differ by one grey level in the mean, or by less than
    NEAR_EQUAL_RATIO of the usual distance to the nearest one; samples as near as that always count.

    Args:
        own: Of this class; empty when it has no real images.
        all_classes: Of all classes, used where this class has too few images for its quantile.
        num_samples: N, of this class; at least 2.
    """
    is_enough = sum(len(scale.nearest) * scale.quantile(num_samples) for scale in own) >= 1
    scales = own if is_enough else all_classes
    nearest = torch.cat([scale.nearest for scale in scales])
    repeated = max(scales[0].one_level, NEAR_EQUAL_RATIO * float(nearest.median()))
    distinct = nearest[nearest > repeated]
    if not len(distinct):
        return repeated
    num_near = sum(len(scale.nearest) * scale.quantile(num_samples) for scale in scales)
    return float(torch.quantile(distinct, num_near / len(nearest)))


def _images_of(side: LabelledImages, label: int, count: int) -> UInt8[np.ndarray, "M C H W"]:
    return np.asarray(side.images[_evenly(np.flatnonzero(side.labels == label), count)])


def _evenly(rows: Int64[np.ndarray, " N"], count: int) -> Int64[np.ndarray, " M"]:
    """At most `count` of the rows, evenly spaced."""
    places = np.arange(min(count, len(rows))) * len(rows) // max(1, min(count, len(rows)))
    return rows[places]


def nearest_of_others(
    images: UInt8[np.ndarray, "N C H W"], max_queries: int | None = None
) -> Float[Tensor, " Q"]:
    """Distance of each image to the nearest of all others, the least over all moves.

    Args:
        images: At least 2.
        max_queries: Look for the nearest one of at most this many images, taken evenly.
    """
    queries = _evenly(np.arange(len(images)), max_queries or len(images))
    chunks = [queries[i : i + CHUNK_QUERIES] for i in range(0, len(queries), CHUNK_QUERIES)]
    return torch.cat(list(spread_over_cores(partial(_nearest, images), chunks)))


def _nearest(images: np.ndarray, queries: Int64[np.ndarray, " Q"]) -> Float[Tensor, " Q"]:
    """The nearest of all others to a chunk of images."""
    rows, least = _as_rows(images[queries]), torch.full((len(queries),), torch.inf)
    for start in range(0, len(images), CHUNK_OTHERS):
        others = np.arange(start, min(start + CHUNK_OTHERS, len(images)))
        is_itself = torch.from_numpy(queries[:, None] == others)  # a symmetric one is its mirror
        for moved in _moves(images[others]):  # of one side is enough: each move's inverse is here
            distances = distances_between(rows, _as_rows(moved))
            least = torch.minimum(least, distances.masked_fill_(is_itself, torch.inf).amin(dim=1))
    return least


def _moves(images: np.ndarray) -> Iterator[np.ndarray]:
    shifts = range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1)
    for turned in (images, images[..., ::-1]):
        for down_px in shifts:
            for right_px in shifts:
                yield np.roll(turned, (down_px, right_px), axis=(2, 3))


def _as_rows(images: np.ndarray) -> Float[Tensor, "N D"]:
    """Pixels in [0, 1], one row an image."""
    return torch.from_numpy(np.ascontiguousarray(images)).flatten(1).float() / 255
