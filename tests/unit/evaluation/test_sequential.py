"""The sequential test: false alarms within the level however often one looks, and power."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.evaluation.sequential import (
    DECISIONS,
    SequentialTest,
    course,
    decisions,
    difference_scores,
    log_capital,
    preference_scores,
)
from vivero.evaluation.sequential_plot import plot_course, plot_simulation
from vivero.evaluation.sequential_simulation import Scenario, simulate

TEST = SequentialTest(share=0.5, level=0.05, margin=0.05)


def drawn(champion: float, challenger: float, num: int, seed: int = 0, share: float = 0.5):
    generator = np.random.default_rng(seed)
    is_challenger = generator.random(num) < share
    rate = np.where(is_challenger, challenger, champion)
    return is_challenger, generator.random(num) < rate


def test_scores_mean_the_difference_whatever_the_share():
    for share in (0.2, 0.5, 0.8):
        who, good = drawn(0.6, 0.7, 200_000, share=share)
        scores = difference_scores(who, good, share)
        assert scores.mean() == pytest.approx(0.1, abs=0.015)
        assert np.abs(scores).max() <= SequentialTest(share, 0.05, 0.05).reach


def test_the_capital_is_that_of_a_plain_loop():
    scores = np.array([0.3, -1.2, 0.7, 1.9, -0.4])
    got = log_capital(scores[None], 2.0, np.array([0.1]), 0.05)[:, 0, 0]
    more = less = 1.0
    seen: list[float] = []
    variance_sum, variance = 0.25, 0.25
    for number, score in enumerate(scores, start=1):  # equations 24 and 26 of the paper
        unit, m = (score + 2) / 4, (0.1 + 2) / 4
        size = min(0.75, np.sqrt(2 * np.log(40) / (variance * number * np.log(1 + number))))
        more *= 1 + size * (unit - m)
        less *= 1 - size * (unit - m)
        assert got[:, number - 1] == pytest.approx(np.log([more, less]))
        seen.append(unit)
        variance_sum += (unit - (0.5 + sum(seen)) / (number + 1)) ** 2
        variance = variance_sum / (number + 1)


@pytest.mark.parametrize("num_before", [0, 3, 200, 1500])
def test_a_bet_is_placed_before_its_outcome_is_known(num_before: int):
    """The factor that an outcome x puts on the capital is 1 + bet (x - m), with one bet for all x.

    After hundreds of outcomes the bet is below its cap, so that its size depends on the past.
    """
    before = np.random.default_rng(0).choice([-2.0, 0.1, 2.0], size=num_before, p=[0.1, 0.8, 0.1])
    outcomes = np.array([-2.0, -0.7, 0.4, 2.0])
    scores = np.array([[*before, outcome] for outcome in outcomes])
    capital = np.exp(log_capital(scores, 2.0, np.array([0.1]), 0.05))[:, :, 0]
    last = capital[..., -1] / (capital[..., -2] if num_before else 1.0)
    for side, sign in ((last[0], 1), (last[1], -1)):
        bets = sign * (side - 1) / ((outcomes - 0.1) / 4)
        assert bets == pytest.approx(bets[0])
        assert 0 < bets[0] <= 0.75 + 1e-9
    assert num_before < 1000 or bets[0] < 0.5


def test_no_outcome_changes_what_was_before_it():
    scores = np.random.default_rng(0).uniform(-2, 2, size=300)
    other = np.concatenate([scores[:200], -scores[200:]])
    both = log_capital(np.stack([scores, other]), 2.0, np.array([0.0]), 0.05)
    assert (both[:, 0, :, :200] == both[:, 1, :, :200]).all()
    assert (both[:, 0, :, 200] != both[:, 1, :, 200]).all()


def test_a_score_is_centred_by_earlier_outcomes_alone():
    """Good instead of bad moves a score by the whole weight of its side, and no earlier score."""
    who, good = drawn(0.6, 0.7, 50, share=0.2)
    for place in (0, 1, 49):
        scores = []
        for outcome in (True, False):
            changed = good.copy()
            changed[place] = outcome
            scores.append(difference_scores(who, changed, 0.2))
        weight = 1 / 0.2 if who[place] else -1 / 0.8
        assert scores[0][place] - scores[1][place] == pytest.approx(weight)
        assert (scores[0][:place] == scores[1][:place]).all()


def test_a_fair_bet_expects_nothing():
    """Over all 2^10 coin sequences the mean capital is exactly 1 when m is the mean."""
    sequences = np.array(np.meshgrid(*[[0.0, 1.0]] * 10)).reshape(10, -1).T
    capital = np.exp(log_capital(preference_scores(sequences), 1.0, np.array([0.0]), 0.05))
    assert capital[:, :, 0, :].mean(axis=1) == pytest.approx(1.0)


@given(st.integers(0, 1000), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_the_interval_and_the_decision_are_one(seed: int, champion: float, challenger: float):
    who, good = drawn(champion, challenger, 300, seed)
    found = course(difference_scores(who, good, 0.5), TEST.reach, TEST)
    assert (np.diff(found.low) >= 0).all()
    assert (np.diff(found.high) <= 0).all()
    for low, high, said in zip(found.low, found.high, found.decision, strict=True):
        if said == "continue":
            assert low <= 0 <= high
    if "challenger better" in found.decision:
        assert found.low[-1] >= 0


def test_equal_models_are_rarely_told_apart_and_the_naive_test_fails():
    (row,) = simulate(
        [Scenario(0.5, 0.5, 0.5)], 400, 800, TEST, np.random.default_rng(1), lambda: None
    )
    assert row.challenger + row.champion <= 0.05
    assert row.naive > 0.2, "the control must fail"


def test_a_better_challenger_is_found_and_equal_ones_are_futile(tmp_path):
    rows = simulate(
        [Scenario(0.5, 0.75, 0.5), Scenario(0.75, 0.5, 0.5), Scenario(0.02, 0.02, 0.5)],
        100, 1200, TEST, np.random.default_rng(2), lambda: None,
    )  # fmt: skip
    better, worse, equal = rows
    assert better.challenger >= 0.95
    assert worse.champion >= 0.95
    assert equal.futile >= 0.8
    plot_simulation([*rows], TEST.level, tmp_path / "simulation.png")
    assert (tmp_path / "simulation.png").stat().st_size > 10_000


def test_the_first_verdict_stays():
    scores = np.concatenate([np.full(200, 1.0), np.full(2000, -1.0)])
    said = decisions(scores[None], 2.0, TEST)[0]
    assert DECISIONS[said[-1]] == "challenger better"
    later = np.concatenate([np.zeros(4000), np.full(2000, 2.0)])  # alike, then much better
    said = decisions(later[None], 2.0, TEST)[0]
    assert DECISIONS[said[3999]] == DECISIONS[said[-1]] == "futile"


def test_before_the_first_outcome_there_is_nothing_to_say(tmp_path):
    assert course(np.array([]), TEST.reach, TEST).decision == []
    who, good = drawn(0.2, 0.8, 100)
    found = course(difference_scores(who, good, 0.5), TEST.reach, TEST)
    plot_course(found, TEST.margin, "better by", tmp_path / "course.png")
    assert (tmp_path / "course.png").stat().st_size > 10_000


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\); got 0"):
        SequentialTest(0.0, 0.05, 0.05)
