"""What is asked of the gate in the long run, and whether a simulation shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vivero.evaluation.intervals import mean_estimate, share_estimate
from vivero.registry.gate_simulation import Outcome, Plan

MAX_FALSE_PROMOTIONS, MIN_POWER = 0.05, 0.8
MAX_RATCHET = 0.01  # of the champion's figure, in as many retrains as are simulated


@dataclass(frozen=True)
class Target:
    """One thing that is asked.

    Attributes:
        what: In words.
        found: A share.
        low: Lower end of its 95 % interval, as if trials were independent.
        high: Upper end.
        at_least: Least value that is asked for; None = no such limit.
        at_most: Greatest value.
        n: Trials or chains.
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


def targets(outcome: Outcome, plan: Plan) -> list[Target]:
    """False promotions, power, and what a row of equal retrains does to the champion's figure."""
    row = f"after {plan.retrains} equal retrains"
    return [
        _share("equal models promoted", outcome.equal, None, MAX_FALSE_PROMOTIONS),
        _share(f"better by {outcome.true_gain:.0%} promoted", outcome.better, MIN_POWER, None),
        _mean(f"champion's recorded figure {row}, change", outcome.recorded_changes),
    ]


def _share(
    what: str, verdicts: Sequence[str], at_least: float | None, at_most: float | None
) -> Target:
    found = share_estimate(list(verdicts).count("promote"), len(verdicts))
    return Target(what, found.value, found.low, found.high, at_least, at_most, found.n)


def _mean(what: str, changes: Sequence[float]) -> Target:
    found = mean_estimate(torch.from_numpy(np.asarray(changes)))
    return Target(what, found.value, found.low, found.high, -MAX_RATCHET, MAX_RATCHET, found.n)
