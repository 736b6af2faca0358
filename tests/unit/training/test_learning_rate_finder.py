"""The range test: its parts by hand, and the whole on tiny images."""

from pathlib import Path

import pytest

from tests.unit.training.tiny_run import tiny_run
from vivero.errors import TrainingError
from vivero.training.learning_rate_finder import (
    has_exploded,
    range_test,
    rising_rates,
    smoothed,
    suggested_rate,
)


def test_rates_rise_by_the_same_factor_from_a_millionth_to_one():
    assert rising_rates(7) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1])


def test_smoothing_is_a_mean_that_forgets():
    assert smoothed([4.0], 0.5) == [4.0]
    # weights 1; 1/2, 1; 1/4, 1/2, 1
    assert smoothed([4.0, 1.0, 2.0], 0.5) == pytest.approx([4, 3 / 1.5, 3.5 / 1.75])
    assert smoothed([3.0] * 5) == pytest.approx([3.0] * 5)


def test_suggests_a_tenth_of_the_rate_with_the_least_smoothed_loss():
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    losses = [10.0, 5.0, 0.0, 0.0, 200.0]  # smoothed, the least is the fourth
    assert suggested_rate(rates, losses) == pytest.approx(1e-2)


def test_one_lucky_batch_does_not_decide():
    rates, losses = rising_rates(31), [1 - 0.02 * step for step in range(26)] + [3.0] * 5
    losses[5] = 0.4
    assert suggested_rate(rates, losses) == pytest.approx(rates[25] / 10)


def test_a_loss_that_only_rises_suggests_nothing():
    with pytest.raises(TrainingError, match="rose from the first step on"):
        suggested_rate([1e-6, 1e-5, 1e-4], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0, 0.9, 1.1], False),
        ([1.0, 1.0, 9.0], False),  # smoothed: 3.95, not above 4 x 1
        ([1.0, 1.0, 10.0], True),  # smoothed: 4.32
        ([1.0, float("nan")], True),
        ([1.0, float("inf")], True),
    ],
)
def test_knows_an_explosion(losses: list[float], expected: bool):
    assert has_exploded(losses) == expected


def test_finds_a_rate_that_trains_well_and_writes_nothing(tmp_path: Path):
    run = tiny_run(tmp_path / "test")
    before = sorted(path.name for path in (tmp_path / "test").rglob("*"))
    seen: list[tuple[float, float]] = []
    found = range_test(run.state, run.rig, 100, lambda *point: seen.append(point))
    assert sorted(path.name for path in (tmp_path / "test").rglob("*")) == before
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 100
    assert list(zip(found.rates, found.losses, strict=True)) == seen[: len(found.rates)]
    assert 1e-6 <= found.suggestion < max(found.rates)

    losses = {}
    for rate in (found.suggestion, found.suggestion / 100):
        trained = tiny_run(tmp_path / str(rate), learning_rate=rate, total_images=240).go()
        losses[rate] = trained.state.best.loss
    assert losses[found.suggestion] < losses[found.suggestion / 100]
