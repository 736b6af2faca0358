"""Intervals: how far a figure would move with other images of the same number.

Pure functions; randomness comes as a generator. All intervals are at CONFIDENCE, for the given n:
they say nothing of a bias that depends on n, which is what the floor beside a metric is for.
Shapes: N values, R replicates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from vivero.errors import NotComputableError

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # two-sided, at CONFIDENCE


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, its standard error and the number of items it is over."""

    value: float
    low: float
    high: float
    std_error: float
    n: int


def normal_estimate(
    value: float, std_error: float, n: int, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate:
    """The value +- 1.96 std_error, cut to the bounds of what the figure can be."""
    margin = NORMAL_QUANTILE * std_error
    return Estimate(
        value, max(bounds[0], value - margin), min(bounds[1], value + margin), std_error, n
    )


def mean_estimate(values: Float[Tensor, " N"]) -> Estimate:
    """The mean of independent values; needs at least two."""
    if len(values) < 2:
        raise NotComputableError(
            f"a mean needs at least 2 values for its interval; got {len(values)}"
        )
    values = values.double()
    std_error = float(values.std()) / math.sqrt(len(values))
    return normal_estimate(float(values.mean()), std_error, len(values))


def student_estimate(values: Float[Tensor, " N"]) -> Estimate:
    """The mean of independent values with Student's t interval, right for a handful too.

    Source:
        Student 1908, Biometrika 6.
    """
    around = mean_estimate(values)
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, around.n - 1)) * around.std_error
    return replace(around, low=around.value - margin, high=around.value + margin)


def share_estimate(num_hits: int, n: int) -> Estimate:
    """A share with Wilson's interval, which stays inside [0, 1] and is right for 0 hits too.

    Source:
        Wilson 1927, J. Am. Stat. Assoc. 22.
    """
    if not 0 <= num_hits <= n or n < 1:
        raise ValueError(f"need 0 <= num_hits <= n and n >= 1; got {num_hits} of {n}")
    share = num_hits / n
    z2 = NORMAL_QUANTILE**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    margin = NORMAL_QUANTILE / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if num_hits == 0 else max(0.0, centre - margin)
    high = 1.0 if num_hits == n else min(1.0, centre + margin)
    return Estimate(share, low, high, math.sqrt(share * (1 - share) / n), n)


def resamples(n: int, num_bootstrap: int, generator: torch.Generator) -> Int[Tensor, "R N"]:
    """Indices of num_bootstrap resamples of n items, drawn with replacement."""
    return torch.randint(n, (num_bootstrap, n), generator=generator)


def bootstrap_estimate(
    statistic: Callable[[Int[Tensor, " N"]], float],
    n: int,
    num_bootstrap: int,
    generator: torch.Generator,
) -> Estimate:
    """A statistic of n items with a normal interval from its bootstrap standard error.

    The standard error needs tens of replicates where percentiles would need thousands.

    Args:
        statistic: From the indices of the items to their figure.
        n: Number of items.
        num_bootstrap: Replicates.
        generator: Draws the resamples.
    """
    value = statistic(torch.arange(n))
    replicates = torch.tensor(
        [statistic(rows) for rows in resamples(n, num_bootstrap, generator)], dtype=torch.float64
    )
    return normal_estimate(value, float(replicates.std()), n)
