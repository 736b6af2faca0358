"""How often the sequential test is wrong, and how soon it is right, on outcomes drawn by a coin.

Beside it the usual z-test, looked at after every outcome: the mistake that the sequential test is
there to avoid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vivero.evaluation.sequential import DECISIONS, SequentialTest, decisions, difference_scores

FIRST_LOOK = 30  # outcomes before the z-test is looked at: below, nobody would
Z_OF_LEVEL = {0.01: 2.5758, 0.05: 1.9600, 0.1: 1.6449}


@dataclass(frozen=True)
class Scenario:
    """Two models with known shares of good outcomes."""

    champion_rate: float
    challenger_rate: float
    share: float


@dataclass(frozen=True)
class Row:
    """What came of many tests of one scenario.

    Attributes:
        scenario: What was true.
        num_runs: How many tests.
        num_outcomes: After which a test that has not ended is given up.
        challenger: Share of tests that ended in "challenger better".
        champion: Share that ended in "champion better".
        futile: Share that ended in "futile".
        mean_outcomes: Mean number until the end; tests given up count num_outcomes.
        naive: Share of z-tests, looked at after every outcome, that ever called a difference.
        stopped_at: Sorted outcomes at which tests ended in better or worse.
    """

    scenario: Scenario
    num_runs: int
    num_outcomes: int
    challenger: float
    champion: float
    futile: float
    mean_outcomes: float
    naive: float
    stopped_at: list[int]


def scenarios(differences: Sequence[float], rate: float, share: float) -> list[Scenario]:
    """Equal models at several rates and shares, then one scenario for each difference."""
    equal = [Scenario(p, p, s) for p in (0.1, 0.5, 0.9) for s in (0.5, 0.2)]
    return equal + [Scenario(rate, rate + difference, share) for difference in differences]


def simulate(
    found: Sequence[Scenario],
    num_runs: int,
    num_outcomes: int,
    test: SequentialTest,
    generator: np.random.Generator,
    progress: Callable[[], None],
) -> list[Row]:
    """Run the test num_runs times on each scenario.

    Args:
        found: What is true.
        num_runs: Tests of each.
        num_outcomes: Length at which a test is given up.
        test: Level and margin; the share is the scenario's.
        generator: Of all coins.
        progress: Called after each scenario.
    """
    rows = []
    for scenario in found:
        rows.append(_row(scenario, num_runs, num_outcomes, test, generator))
        progress()
    return rows


def _row(
    scenario: Scenario,
    num_runs: int,
    num_outcomes: int,
    test: SequentialTest,
    generator: np.random.Generator,
) -> Row:
    asked = SequentialTest(scenario.share, test.level, test.margin)
    shape = (num_runs, num_outcomes)
    is_challenger = generator.random(shape) < scenario.share
    rate = np.where(is_challenger, scenario.challenger_rate, scenario.champion_rate)
    is_good = generator.random(shape) < rate
    scores = difference_scores(is_challenger, is_good, scenario.share)
    said = np.concatenate(
        [
            decisions(part, asked.reach, asked)
            for part in np.array_split(scores, max(1, num_runs // 100))
        ]
    )
    ends, last = said > 0, said[:, -1]
    stops = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, num_outcomes)
    naive = (np.abs(_z(is_challenger, is_good))[:, FIRST_LOOK:] > Z_OF_LEVEL[test.level]).any(
        axis=1
    )
    return Row(
        scenario,
        num_runs,
        num_outcomes,
        challenger=float((last == DECISIONS.index("challenger better")).mean()),
        champion=float((last == DECISIONS.index("champion better")).mean()),
        futile=float((last == DECISIONS.index("futile")).mean()),
        mean_outcomes=float(stops.mean()),
        naive=float(naive.mean()),
        stopped_at=sorted(int(stop) for stop in stops[(last == 1) | (last == 2)]),
    )


def _z(is_challenger: NDArray[np.bool_], is_good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The usual z of two proportions (pooled) after each outcome; 0 where it is not defined."""
    num_challenger = np.cumsum(is_challenger, axis=-1)
    num_champion = np.cumsum(~is_challenger, axis=-1)
    good_challenger = np.cumsum(is_challenger & is_good, axis=-1)
    good_champion = np.cumsum(~is_challenger & is_good, axis=-1)
    pooled = (good_challenger + good_champion) / (num_challenger + num_champion)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = good_challenger / num_challenger - good_champion / num_champion
        error = np.sqrt(pooled * (1 - pooled) * (1 / num_challenger + 1 / num_champion))
        return np.nan_to_num(difference / error, nan=0.0, posinf=0.0, neginf=0.0)
