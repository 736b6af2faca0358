"""A test of two models that may be looked at after every outcome, and stopped when it is clear.

Betting: somebody who starts with 1 and bets at fair odds that the challenger is better than m can
only expect to lose if it is not; capital of 2 / level, at any time, is therefore evidence against
"the difference is at most m", with a false alarm in at most level / 2 of all tests, however often
one looks (Ville's inequality). All m that nobody grew rich against make a confidence sequence: an
interval that holds at all times at once.

Pure functions: no files, no randomness. R = runs side by side, N = outcomes in their order, K =
hypotheses m.

Source:
    Waudby-Smith and Ramdas 2024, arXiv:2010.09686, section 4 (predictable plug-in, equations 24 to
    26; their cap on a bet depends on m, ours does not, so that the capital falls as m grows).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Decision = Literal["continue", "challenger better", "champion better", "futile"]
Values = NDArray[np.float64]

MAX_BET = 0.75  # of the capital; below 1, so that one outcome ruins nobody
NUM_HYPOTHESES = 801  # of the drawn interval: a step of 0.0025 of the range [-1, 1]


@dataclass(frozen=True)
class SequentialTest:
    """What is asked, fixed before the first outcome.

    Attributes:
        share: Of the units that the challenger serves, in (0, 1).
        level: Share of tests of equal models that may end in "better" on either side.
        margin: Differences between -margin and margin do not matter.
    """

    share: float
    level: float
    margin: float

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and 0 < self.level < 1 and 0 < self.margin < 1):
            raise ValueError(
                f"share, level and margin must lie in (0, 1); got {self.share}, {self.level}, "
                f"{self.margin}"
            )

    @property
    def reach(self) -> float:
        """No score of `difference_scores` is larger, on either side."""
        return 1 / min(self.share, 1 - self.share)


@dataclass(frozen=True)
class Course:
    """How a test went on, each of shape (N,): the value after that many outcomes.

    Attributes:
        estimate: Mean of the scores: the share of good outcomes of the challenger, less that of
            the champion.
        low: Of the confidence sequence.
        high: Of the confidence sequence.
        decision: The first one that was not "continue" stays.
    """

    estimate: Values
    low: Values
    high: Values
    decision: list[Decision]


def difference_scores(
    is_challenger: NDArray[np.bool_], is_good: NDArray[np.bool_], share: float
) -> Values:
    """Values whose mean is the difference between the shares of good outcomes.

    score = (good - center) * (challenger / share - (1 - challenger) / (1 - share))
    center = share of good outcomes so far, of both: predictable, so that the mean stays right, and
    near the truth, so that the spread is small.

    Args:
        is_challenger: Who served, shape (..., N), in the order of the outcomes.
        is_good: What came of it, same shape.
        share: Probability of is_challenger.

    Returns:
        Shape (..., N), within 1 / min(share, 1 - share) of 0.
    """
    good = is_good.astype(np.float64)
    before = np.cumsum(good, axis=-1) - good
    center = (0.5 + before) / (1 + np.arange(good.shape[-1]))
    weight = np.where(is_challenger, 1 / share, -1 / (1 - share))
    return np.asarray((good - center) * weight)


def preference_scores(prefers_challenger: Values) -> Values:
    """Values in [-1, 1] whose mean is 0 when neither is preferred.

    Args:
        prefers_challenger: 1, 0, or 1/2 for a tie.
    """
    return np.asarray(2 * prefers_challenger - 1)


def log_capital(scores: Values, reach: float, hypotheses: Values, level: float) -> Values:
    """Logarithm of what bets on "more than m" and on "less than m" have made of 1.

    Args:
        scores: Shape (R, N), within reach of 0.
        reach: Bound of the scores.
        hypotheses: m, shape (K,), within reach of 0.
        level: For which the size of the bets is best.

    Returns:
        Shape (2, R, K, N): more, less. Of "more" the capital falls as m grows.
    """
    unit = (scores + reach) / (2 * reach)
    num = np.arange(1, unit.shape[-1] + 1)
    mean = (0.5 + np.cumsum(unit, axis=-1)) / (num + 1)
    variance = (0.25 + np.cumsum((unit - mean) ** 2, axis=-1)) / (num + 1)
    known = np.concatenate([np.full((*unit.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    bet = np.sqrt(2 * np.log(2 / level) / (known * num * np.log1p(num))).clip(max=MAX_BET)
    m = (hypotheses + reach) / (2 * reach)
    gain = bet[:, None, :] * (unit[:, None, :] - m[None, :, None])
    return np.asarray(np.stack([np.log1p(gain), np.log1p(-gain)]).cumsum(axis=-1))


def decisions(scores: Values, reach: float, test: SequentialTest) -> NDArray[np.int8]:
    """What each of R tests says after each outcome: 0 continue, 1 / 2 / 3 as in `DECISIONS`.

    The same as asking the confidence sequence, without computing it.

    Returns:
        Shape (R, N); the first that is not 0 stays.
    """
    rich = np.log(2 / test.level)
    asked = np.array([-test.margin, 0.0, test.margin])
    capital = np.maximum.accumulate(log_capital(scores, reach, asked, test.level), axis=-1)
    more, less = capital >= rich
    said = np.zeros(scores.shape, np.int8)
    said[more[:, 0] & less[:, 2]] = 3
    said[less[:, 1]] = 2
    said[more[:, 1]] = 1
    first = np.argmax(said > 0, axis=-1)
    last_word = np.take_along_axis(said, first[:, None], axis=-1)
    return np.where(np.arange(scores.shape[-1]) >= first[:, None], last_word, 0).astype(np.int8)


DECISIONS: tuple[Decision, ...] = ("continue", "challenger better", "champion better", "futile")


def course(scores: Values, reach: float, test: SequentialTest) -> Course:
    """Estimate, interval and decision after each outcome of one test.

    Args:
        scores: Shape (N,); N may be 0.
        reach: Bound of the scores.
        test: What is asked.
    """
    if not len(scores):
        return Course(scores, scores, scores, [])
    hypotheses = np.linspace(-1, 1, NUM_HYPOTHESES)
    rich = np.log(2 / test.level)
    more, less = log_capital(scores[None], reach, hypotheses, test.level)[:, 0]
    is_below = np.maximum.accumulate(more, axis=-1) >= rich
    is_above = np.maximum.accumulate(less, axis=-1) >= rich
    low = np.where(is_below, hypotheses[:, None], -1.0).max(axis=0)
    high = np.where(is_above, hypotheses[:, None], 1.0).min(axis=0)
    said = decisions(scores[None], reach, test)[0]
    estimate = np.cumsum(scores) / np.arange(1, len(scores) + 1)
    return Course(estimate, low, high, [DECISIONS[number] for number in said])
