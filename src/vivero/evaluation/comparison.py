"""Two models on the same images and noise: who denoises better, at which noise level, how sure.

The pairing makes it sharp: what is hard in an image is hard for both models and drops out of the
difference. Pure functions of errors. Letters: N images, S noise levels, K tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from vivero.evaluation.intervals import CONFIDENCE, Estimate, student_estimate

Better = Literal["first", "second"]


@dataclass(frozen=True)
class PairedDifference:
    """The mean errors of two models and their difference, over the same images.

    Attributes:
        first: Of the first model.
        second: Of the second model.
        difference: Second minus first: below 0 the second is better.
        p_value: Of a difference this large by chance; corrected where several levels are tested.
    """

    first: Estimate
    second: Estimate
    difference: Estimate
    p_value: float

    @property
    def relative(self) -> Estimate:
        """The difference in units of the first model's mean, which is taken as known."""
        unit, found = self.first.value, self.difference
        return Estimate(
            found.value / unit, found.low / unit, found.high / unit, found.std_error / unit, found.n
        )

    @property
    def better(self) -> Better | None:
        """Who is better beyond chance, at CONFIDENCE; None when that cannot be said."""
        if self.p_value >= 1 - CONFIDENCE:
            return None
        return "second" if self.difference.value < 0 else "first"


@dataclass(frozen=True)
class Comparison:
    """Two models, compared.

    Attributes:
        levels: At each noise level; their p-values are corrected for their number.
        mean: Over all levels of each image; a single test of its own.
    """

    levels: list[PairedDifference]
    mean: PairedDifference


def compare_errors(first: Float[Tensor, "S N"], second: Float[Tensor, "S N"]) -> Comparison:
    """Compare two models by their errors on the same images and noise.

    Args:
        first: Error of the first model, by level and image.
        second: Error of the second.
    """
    pairs = list(zip(first.double(), second.double(), strict=True))
    p_values = holm_adjusted([paired_p_value(two - one) for one, two in pairs])
    return Comparison(
        levels=[
            _paired(one, two, p_value) for (one, two), p_value in zip(pairs, p_values, strict=True)
        ],
        mean=_mean_over_levels(first.double(), second.double()),
    )


def _mean_over_levels(
    first: Float[Tensor, "S N"], second: Float[Tensor, "S N"]
) -> PairedDifference:
    one, two = first.mean(dim=0), second.mean(dim=0)
    return _paired(one, two, paired_p_value(two - one))


def _paired(
    first: Float[Tensor, " N"], second: Float[Tensor, " N"], p_value: float
) -> PairedDifference:
    return PairedDifference(
        first=student_estimate(first),
        second=student_estimate(second),
        difference=student_estimate(second - first),
        p_value=p_value,
    )


def paired_p_value(differences: Float[Tensor, " N"]) -> float:
    """Two-sided p-value of Student's paired t-test; 1 where there is no difference at all."""
    if not torch.count_nonzero(differences):
        return 1.0
    return float(stats.ttest_1samp(differences.double().numpy(), 0.0).pvalue)


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """p-values of K tests, raised so that any false alarm at all is as rare as in one test.

    Source:
        Holm 1979, Scandinavian Journal of Statistics 6.
    """
    order = np.argsort(p_values)
    raised = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return [float(value) for value in adjusted]
