"""Intervals, against scipy and closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, ttest_1samp

from vivero.evaluation.intervals import (
    CONFIDENCE,
    NORMAL_QUANTILE,
    bootstrap_estimate,
    mean_estimate,
    normal_estimate,
    share_estimate,
    student_estimate,
)


def test_the_quantile_is_that_of_the_confidence():
    assert norm.ppf((1 + CONFIDENCE) / 2) == pytest.approx(NORMAL_QUANTILE)


@given(n=st.integers(1, 5000), share=st.floats(0, 1))
def test_a_share_has_wilsons_interval(n: int, share: float):
    num_hits = round(n * share)
    got = share_estimate(num_hits, n)
    expected = binomtest(num_hits, n).proportion_ci(CONFIDENCE, method="wilson")
    assert got.low == pytest.approx(expected.low, abs=1e-9)
    assert got.high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= got.low <= got.value <= got.high <= 1


def test_a_mean_has_the_standard_error_of_the_mean():
    got = mean_estimate(torch.tensor([1.0, 2.0, 6.0]))
    assert (got.value, got.n) == (3.0, 3)
    assert got.std_error == pytest.approx(math.sqrt(7.0) / math.sqrt(3))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=9, unique=True))
def test_a_mean_of_a_few_has_students_interval(values: list[float]):
    got = student_estimate(torch.tensor(values))
    expected = ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    assert (got.low, got.high) == pytest.approx(tuple(expected), rel=1e-6, abs=1e-6)


def test_a_bootstrap_of_the_mean_agrees_with_the_formula():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).double()
    got = bootstrap_estimate(
        lambda rows: float(values[rows].mean()), 400, 500, torch.Generator().manual_seed(1)
    )
    expected = mean_estimate(values)
    assert got.value == pytest.approx(expected.value)
    assert got.std_error == pytest.approx(expected.std_error, rel=0.1)


def test_an_interval_ends_where_the_figure_must():
    got = normal_estimate(0.1, 1.0, 5, bounds=(0.0, math.inf))
    assert (got.low, got.high) == (0.0, pytest.approx(0.1 + NORMAL_QUANTILE))


@pytest.mark.parametrize(("num_hits", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_an_impossible_share_is_refused(num_hits: int, n: int):
    with pytest.raises(ValueError, match=f"got {num_hits} of {n}"):
        share_estimate(num_hits, n)
