"""How far a metric moves when nothing but the seed of a training changes.

Pure functions. Letters: N seeds.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from vivero.evaluation.intervals import Estimate, student_estimate

Figures = Mapping[str, float]  # name of a figure to its value


@dataclass(frozen=True)
class Spread:
    """One figure over seeds.

    Attributes:
        values: By seed.
        mean: With Student's t interval.
    """

    values: dict[int, float]
    mean: Estimate

    @property
    def std(self) -> float:
        """Standard deviation between seeds: of one training, not of the mean."""
        return self.mean.std_error * math.sqrt(self.mean.n)

    @property
    def half_width(self) -> float:
        """What stands behind the +-."""
        return self.mean.high - self.mean.value


@dataclass(frozen=True)
class SeedSpread:
    """The between-seed variance of one metric, as the gates use it.

    The values of N seeds vary for two reasons: the trainings differ, and each value is measured on
    a finite number of images. With v the sample variance of the values and e^2 half the mean
    squared standard error of a paired difference of two of them, E[v] = sigma_seed^2 + e^2, so
        sigma_seed^2 = max(0, v - e^2)
    is the variance between trainings alone (one-way analysis of variance, method of moments).

    Attributes:
        values: By seed; at least two.
        evaluation_error: e, the part of the spread that comes from evaluating on finite images.

    Source:
        Searle, Casella and McCulloch 1992, Variance Components, chapter 3.
    """

    values: dict[int, float]
    evaluation_error: float = 0.0

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def degrees_of_freedom(self) -> int:
        """Of the sample variance: N - 1."""
        return len(self.values) - 1

    @property
    def is_relative(self) -> bool:
        """Whether a spread relative to the mean makes sense: above 0, or equal for all seeds."""
        return self.mean > 0 or len(set(self.values.values())) == 1

    @property
    def observed_relative_std(self) -> float:
        """Sample standard deviation over the mean, the error of the evaluation included."""
        return self._relative(statistics.stdev(self.values.values()))

    @property
    def relative_std(self) -> float:
        """sigma_seed over the mean, the error of the evaluation removed."""
        observed = statistics.variance(self.values.values())
        return self._relative(math.sqrt(max(0.0, observed - self.evaluation_error**2)))

    def _relative(self, std: float) -> float:
        return std / abs(self.mean) if std else 0.0


@dataclass(frozen=True)
class SeedSpreads:
    """The spreads that a gate uses.

    Attributes:
        by_metric: The spread between seeds of each metric.
        note: What the reader of a gate must know of them; empty when they fit the candidate.
        not_known: Of metrics whose values show no spread, the reason.
    """

    by_metric: Mapping[str, SeedSpread]
    note: str = ""
    not_known: Mapping[str, str] = field(default_factory=dict)

    def find(self, metric: str) -> SeedSpread | None:
        """The spread of a metric; that of other numbers of images will do, as it is relative."""
        found = _same_metric(metric, self.by_metric)
        return None if found is None else self.by_metric[found]

    def why_not_known(self, metric: str) -> str | None:
        """The reason why a metric has no spread; None where it was not measured."""
        found = _same_metric(metric, self.not_known)
        return None if found is None else self.not_known[found]


def _same_metric(metric: str, names: Iterable[str]) -> str | None:
    """The name of a metric among others; with another number of images, if need be."""
    stem = metric.rpartition(".")[0]
    by_place = sorted(names, key=lambda name: name != metric)
    return next(
        (n for n in by_place if n == metric or (stem and n.rpartition(".")[0] == stem)), None
    )


def spreads(figures_by_seed: Mapping[int, Figures]) -> dict[str, Spread]:
    """The spread of each figure that all seeds have; needs at least two seeds."""
    shared = [
        name
        for name in next(iter(figures_by_seed.values()))
        if all(name in figures for figures in figures_by_seed.values())
    ]
    return {name: _spread({s: f[name] for s, f in figures_by_seed.items()}) for name in shared}


def _spread(values: dict[int, float]) -> Spread:
    return Spread(
        values, student_estimate(torch.tensor(list(values.values()), dtype=torch.float64))
    )
