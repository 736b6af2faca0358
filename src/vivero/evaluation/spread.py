"""How far a figure moves when nothing but the seed of a training changes.

Pure functions. Letters: N seeds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

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
