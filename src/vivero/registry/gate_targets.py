"""What is asked of the gate in the long run, and whether a simulation shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vivero.evaluation.intervals import mean_estimate, share_estimate
from vivero.registry.gate_simulation import Plan, RealPair, Rows, Trials

MAX_FALSE_PROMOTIONS, MIN_POWER = 0.05, 0.8
MAX_RATCHET = 0.01  # of the champion's distance, in as many retrains as are simulated


@dataclass(frozen=True)
class Target:
    """One thing that is asked.

    Attributes:
        what: In words.
        found: A share.
        low: Lower end of its 95 % interval; trials and rows are independent.
        high: Upper end.
        at_least: Least value that is asked for; None = no such limit.
        at_most: Greatest value.
        n: Trials or rows.
    """

    what: str
    found: float
    low: float
    high: float
    at_least: float | None
    at_most: float | None
    n: int

    @property
    def is_met(self) -> bool:
        """Whether what was found is what is asked for."""
        is_enough = self.at_least is None or self.found >= self.at_least
        return is_enough and (self.at_most is None or self.found <= self.at_most)

    @property
    def asked_for(self) -> str:
        """The limits, in words."""
        least = [f">= {self.at_least:.0%}"] if self.at_least is not None else []
        most = [f"<= {self.at_most:.0%}"] if self.at_most is not None else []
        return ", ".join([*least, *most])


def target_of_equal(trials: Trials) -> Target:
    """How often another seed of the same recipe may be promoted."""
    return _share("equal retrain: promoted", trials.equal, None, MAX_FALSE_PROMOTIONS)


def target_of_better(trials: Trials, gain: float) -> Target:
    """How often a recipe that is better by the gain must be promoted."""
    return _share(f"retrain better by {gain:.0%}: promoted", trials.better, MIN_POWER, None)


def target_of_rows(rows: Rows, plan: Plan) -> Target:
    """What a row of equal retrains may do to the champion's recorded distance."""
    what = f"{plan.retrains} equal retrains: change of the champion's recorded distance"
    return _mean(what, [row.recorded[-1] for row in rows.gate])


def target_of_pairs(pairs: Sequence[RealPair]) -> Target:
    """How often a real training may be promoted over another seed of its recipe."""
    promoted = [pair.is_promoted for pair in pairs]
    return _share("another seed, really trained: promoted", promoted, None, MAX_FALSE_PROMOTIONS)


def _share(
    what: str, promoted: Sequence[bool], at_least: float | None, at_most: float | None
) -> Target:
    found = share_estimate(sum(promoted), len(promoted))
    return Target(what, found.value, found.low, found.high, at_least, at_most, found.n)


def _mean(what: str, changes: Sequence[float]) -> Target:
    found = mean_estimate(torch.tensor(changes, dtype=torch.float64))
    return Target(what, found.value, found.low, found.high, -MAX_RATCHET, MAX_RATCHET, found.n)
