"""The paired comparison of two models, against scipy's tests, a bootstrap, and known truths."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vivero.evaluation.comparison import compare_errors, holm_adjusted


def errors(gain: float, num_levels: int = 4, num_images: int = 200, seed: int = 0):
    """Two models whose errors share what is hard in an image; the second is better by gain."""
    random = np.random.default_rng(seed)
    hardness = random.gamma(4, 1, num_images)
    one = hardness + random.normal(0, 0.1, (num_levels, num_images))
    two = hardness * (1 - gain) + random.normal(0, 0.1, (num_levels, num_images))
    return torch.from_numpy(one), torch.from_numpy(two)


def test_differences_and_p_values_are_those_of_the_paired_t_test():
    one, two = errors(gain=0.002)
    found = compare_errors(one, two)
    oracle = [stats.ttest_rel(b, a) for a, b in zip(one.numpy(), two.numpy(), strict=True)]
    for level, expected in zip(found.levels, oracle, strict=True):
        interval = expected.confidence_interval(0.95)
        assert level.difference.low == pytest.approx(interval.low)
        assert level.difference.high == pytest.approx(interval.high)
    mean = stats.ttest_rel(two.numpy().mean(0), one.numpy().mean(0))
    assert found.mean.p_value == pytest.approx(mean.pvalue)


def test_the_interval_is_that_of_a_bootstrap():
    one, two = errors(gain=0.01)
    difference = (two - one)[0].numpy()
    found = compare_errors(one, two).levels[0].difference
    bootstrap = stats.bootstrap((difference,), np.mean, rng=0, method="basic").confidence_interval
    width = found.high - found.low
    assert found.low == pytest.approx(bootstrap.low, abs=0.1 * width)
    assert found.high == pytest.approx(bootstrap.high, abs=0.1 * width)


def test_the_pairing_sees_what_separate_intervals_do_not():
    level = compare_errors(*errors(gain=0.01)).levels[0]
    assert level.first.low < level.second.value < level.first.high
    assert level.better == "second"


def test_the_first_is_better_where_the_second_is_worse():
    found = compare_errors(*errors(gain=-0.05))
    assert {level.better for level in found.levels} == {"first"} == {found.mean.better}
    assert found.mean.relative.value == pytest.approx(0.05, rel=0.2)


def test_a_model_is_not_better_than_itself():
    one, _ = errors(gain=0)
    found = compare_errors(one, one)
    assert all(level.better is None and level.p_value == 1 for level in found.levels)
    assert found.mean.difference.value == 0


def test_a_false_alarm_at_any_level_is_as_rare_as_promised():
    alarms = [
        any(level.better for level in compare_errors(*errors(0, 10, 50, seed)).levels)
        for seed in range(200)
    ]
    assert np.mean(alarms) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


def test_holm_gives_the_figures_of_its_definition():
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferroni(values: list[float]):
    adjusted = holm_adjusted(values)
    for value, raised in zip(values, adjusted, strict=True):
        assert value <= raised <= min(1, len(values) * value)
    ranked = [raised for _, raised in sorted(zip(values, adjusted, strict=True))]
    assert ranked == sorted(ranked)
