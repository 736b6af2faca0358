"""Figures over seeds, against scipy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from vivero.evaluation.spread import spreads
from vivero.evaluation.spread_plot import plot_spreads

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


@given(VALUES)
def test_mean_interval_and_deviation_are_those_of_scipy(values: list[float]):
    found = spreads({seed: {"fd": value} for seed, value in enumerate(values)})["fd"]
    mean, std = np.mean(values), np.std(values, ddof=1)
    half_width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert found.mean.value == pytest.approx(mean, abs=1e-9)
    assert found.half_width == pytest.approx(half_width, rel=1e-6, abs=1e-9)
    assert found.std == pytest.approx(std, rel=1e-6, abs=1e-9)
    assert found.mean.n == len(values)


def test_only_figures_that_all_seeds_have_are_told():
    found = spreads({0: {"fd": 1.0, "cas": 0.5}, 7: {"fd": 2.0}})
    assert list(found) == ["fd"]
    assert found["fd"].values == {0: 1.0, 7: 2.0}


def test_equal_seeds_have_no_spread():
    found = spreads({0: {"fd": 1.5}, 1: {"fd": 1.5}})["fd"]
    assert (found.std, found.half_width) == (0, 0)


@pytest.mark.parametrize("num_figures", [1, 5])
def test_every_figure_has_its_panel(num_figures: int, tmp_path: Path):
    figures = {seed: {f"f{k}": float(seed + k) for k in range(num_figures)} for seed in range(3)}
    plot_spreads(spreads(figures), tmp_path / "spread.png")
    assert (tmp_path / "spread.png").read_bytes().startswith(b"\x89PNG")
