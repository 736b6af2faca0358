"""By how much one model beats another, and how sure that is: errors of differences, image by image.

Pure functions. Letters: N images, M reference images.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from vivero.evaluation.spread import SeedSpread

CHANGED = 0.5  # added to either kind of disagreement of a pair of shares


@dataclass(frozen=True)
class Gain:
    """How much better the candidate is than the champion, by one figure.

    Attributes:
        value: In the figure's unit; above 0 the candidate is better.
        std_error: Of value, over draws of as many images; 0 when nothing differs.
        n: Images, or rounds of a measurement.
        is_paired: Whether it was taken image by image.
        degrees_of_freedom: Of std_error: few where it rests on a few seeds.
    """

    value: float
    std_error: float
    n: int
    is_paired: bool
    degrees_of_freedom: float = math.inf

    @property
    def is_measured(self) -> bool:
        """Whether value and error are finite numbers, so that the gain can be compared."""
        return math.isfinite(self.value) and math.isfinite(self.std_error) and self.std_error >= 0

    def quantile(self, probability: float) -> float:
        """Of Student's t at the degrees of freedom of std_error."""
        return float(stats.t.ppf(probability, self.degrees_of_freedom))

    def probability(self, limit: float) -> float:
        """P(T <= limit / std_error), with T of Student's t: a one-sided p-value."""
        return float(stats.t.cdf(limit / self.std_error, self.degrees_of_freedom))


def add_seed_variance(gain: Gain, ours: float, theirs: float, spread: SeedSpread) -> Gain:
    """The gain of a retraining: its error also covers that another seed gives another model.

    With e the error by images, r the relative spread between seeds (evaluation removed) and r_obs
    the same with evaluation, nu the degrees of freedom of the spread:
        V = e^2 + r^2 (ours^2 + theirs^2)
        degrees of freedom = nu V^2 / (r_obs^2 (ours^2 + theirs^2))^2, at least 1
    For equal models this is e^2 + 2 sigma_seed^2. The degrees of freedom are Satterthwaite's,
    2 V^2 / Var(V): Var(V) is that of the sample variance between seeds, 2 sigma_obs^4 / nu each;
    the error by images rests on thousands of images and counts as known. Where the pair is
    evaluated on as many images as the seeds were, V is 2 sigma_obs^2 and this is the t-test of two
    trainings against the spread of N others, with nu degrees of freedom.

    Args:
        gain: With the error by images.
        ours: The candidate's value.
        theirs: The champion's value.
        spread: Between seeds of a recipe.

    Source:
        Satterthwaite 1946, Biometrics Bulletin 2; Welch 1947, Biometrika 34.
    """
    scale = ours**2 + theirs**2
    variance = gain.std_error**2 + spread.relative_std**2 * scale
    observed = spread.observed_relative_std**2 * scale
    if not observed:
        return gain
    freedom = spread.degrees_of_freedom * (variance / observed) ** 2
    return replace(gain, std_error=math.sqrt(variance), degrees_of_freedom=max(1.0, freedom))


def paired_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Standard error of the difference of two figures over the same N images.

    error = deviation(ours - theirs) / sqrt(N), for means and for influences alike. For shares
    (bool), where no pair at all may disagree, half a pair is added to either kind of disagreement,
    which makes M = N + 1 pairs: with b and c of them (halves included), error =
    sqrt(b + c - (b - c)^2 / M) / M.

    Args:
        ours: Values or influences of each image, shape (N,), N >= 2.
        theirs: The same of the other model.

    Returns:
        The error; NaN when a value is not finite.

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
    if not np.isfinite(difference).all():
        return math.nan
    return float(difference.std(ddof=1)) / math.sqrt(n)


def unpaired_error(ours: float, theirs: float, num_ours: int, num_theirs: int) -> float:
    """Standard error of a difference of shares from the two errors alone, as if nothing is shared.

    Two shares of 0 have errors of 0, which would be far too sure: no error is taken to be less
    than half an image's.
    """
    least = 0.0 if ours or theirs else CHANGED * math.hypot(1 / num_ours, 1 / num_theirs)
    return max(math.hypot(ours, theirs), least)
