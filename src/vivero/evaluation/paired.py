"""By how much one model beats another, and how sure that is: errors of differences, image by image.

Pure functions. Letters: N images, M reference images.
"""

import math
from dataclasses import dataclass

import numpy as np

CHANGED = 0.5  # added to either kind of disagreement of a pair of shares


@dataclass(frozen=True)
class Gain:
    """How much better the candidate is than the champion, by one figure.

    Attributes:
        value: In the figure's unit; above 0 the candidate is better.
        std_error: Of value, over draws of as many images; 0 when nothing differs.
        n: Images, or rounds of a measurement.
        is_paired: Whether it was taken image by image.
    """

    value: float
    std_error: float
    n: int
    is_paired: bool


def paired_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Standard error of the difference of two figures over the same N images.

    error = deviation(ours - theirs) / sqrt(N), for means and for influences alike. For shares
    (bool), where no pair at all may disagree, half a pair is added to either kind of disagreement,
    which makes M = N + 1 pairs: with b and c of them (halves included), error =
    sqrt(b + c - (b - c)^2 / M) / M.

    Args:
        ours: Values or influences of each image, shape (N,), N >= 2.
        theirs: The same of the other model.

    Source:
        After Agresti and Min 2005, Statistics in Medicine 24 (shares): they add half a pair to each
        of four cells (M = N + 2), here the pairs that agree, which add no error, are left alone.
    """
    if ours.shape != theirs.shape or len(ours) < 2:
        raise ValueError(f"pairs need equal rows, 2 at least; got {ours.shape}, {theirs.shape}")
    n = len(ours)
    if ours.dtype == theirs.dtype == np.bool_:
        gained = float(np.count_nonzero(ours & ~theirs)) + CHANGED
        lost = float(np.count_nonzero(theirs & ~ours)) + CHANGED
        return math.sqrt(gained + lost - (gained - lost) ** 2 / (n + 2 * CHANGED)) / (
            n + 2 * CHANGED
        )
    difference = ours.astype(np.float64) - theirs.astype(np.float64)
    return float(difference.std(ddof=1)) / math.sqrt(n)


def unpaired_error(ours: float, theirs: float, num_ours: int, num_theirs: int) -> float:
    """Standard error of a difference from the two errors alone, as if the models shared nothing.

    Two shares of 0 have errors of 0, which would be far too sure: no error is taken to be less
    than half an image's.
    """
    least = 0.0 if ours or theirs else CHANGED * math.hypot(1 / num_ours, 1 / num_theirs)
    return max(math.hypot(ours, theirs), least)
