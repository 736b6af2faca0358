"""Does the model repeat itself? Samples that are nearly equal to another sample, up to small moves.

Two samples of a class are nearly equal when they are nearer to each other than all but
NEAR_EQUAL_QUANTILE of real images of that class are to their nearest one, among equally many. A
class with fewer real images than samples borrows images of other classes.
Distances are Euclidean in pixels, the least over MOVES of one of the two: mirrored, and shifted by
up to one pixel. Noise on repeated images changes the distance by less than real images differ.
Pure functions.

Letters: N samples, R real training images, H held-out real images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.precision_recall import distances_between

NEAR_EQUAL_QUANTILE = 0.05  # of real images are called nearly equal, and that is the floor
MAX_SHIFT_PX = 1
MAX_GROUP_IMAGES = 1000  # of a class, taken evenly, or of all without labels: bounds the time


@dataclass(frozen=True)
class Repetition:
    """Of each sample whether another one is nearly equal, and the same of held-out real images.

    Attributes:
        samples: Shape (N',), bool; N' = N unless a class has more than MAX_GROUP_IMAGES.
        held_out: Shape (H',), bool: the floor, about NEAR_EQUAL_QUANTILE.
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
    groups = list(_groups(samples, real, held_out))
    if len(real.labels) < 2 or not any(len(others) for _, _, others in groups):
        raise NotComputableError(
            "near-equal samples need 2 training images, and 2 test images of one class"
        )
    marked = list(spread_over_cores(_marked, groups))
    return Repetition(*(np.concatenate(side) for side in zip(*marked, strict=True)))


def _groups(
    samples: LabelledImages, real: LabelledImages, held_out: LabelledImages
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each class its samples, as many real images, and at most as many held-out ones.

    Where a class has fewer real images than samples, images of other classes are added.
    """
    for label in np.unique(samples.labels):
        ours = _evenly(np.flatnonzero(samples.labels == label), MAX_GROUP_IMAGES)
        if len(ours) < 2:
            raise NotComputableError(
                f"near-equal samples need 2 samples of each class; class {label} has {len(ours)}"
            )
        theirs = _evenly(np.flatnonzero(real.labels == label), len(ours))
        added = _evenly(np.flatnonzero(real.labels != label), len(ours) - len(theirs))
        others = _evenly(np.flatnonzero(held_out.labels == label), len(ours))
        yield (
            np.asarray(samples.images[ours]),
            np.asarray(real.images[np.concatenate([theirs, added])]),
            np.asarray(held_out.images[others if len(others) > 1 else others[:0]]),
        )


def _evenly(rows: Int64[np.ndarray, " N"], count: int) -> Int64[np.ndarray, " M"]:
    """At most so many of the rows, at equal distances."""
    places = np.arange(min(count, len(rows))) * len(rows) // max(1, min(count, len(rows)))
    return rows[places]


def _marked(group: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of the samples and the held-out images of one class which are nearly equal to another."""
    ours, real = map(nearest_of_others, group[:2])
    threshold = torch.quantile(real, NEAR_EQUAL_QUANTILE)
    theirs = nearest_of_others(group[2]) if len(group[2]) else torch.empty(0)
    return (ours < threshold).numpy(), (theirs < threshold).numpy()


def nearest_of_others(images: UInt8[np.ndarray, "N C H W"]) -> Float[Tensor, " N"]:
    """Distance of each image to the nearest other one, the least over all moves of either."""
    rows = _as_rows(images)
    distances = torch.full((len(rows), len(rows)), torch.inf)
    for moved in _moves(images):
        distances = torch.minimum(distances, distances_between(rows, _as_rows(moved)))
    distances.fill_diagonal_(torch.inf)  # a symmetric image is its own mirror image
    return torch.minimum(distances, distances.T).amin(dim=1)


def _moves(images: np.ndarray) -> Iterator[np.ndarray]:
    shifts = range(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1)
    for turned in (images, images[..., ::-1]):
        for down_px in shifts:
            for right_px in shifts:
                yield np.roll(turned, (down_px, right_px), axis=(2, 3))


def _as_rows(images: np.ndarray) -> Float[Tensor, "N D"]:
    """Pixels in [0, 1], one row an image."""
    return torch.from_numpy(np.ascontiguousarray(images)).flatten(1).float() / 255
