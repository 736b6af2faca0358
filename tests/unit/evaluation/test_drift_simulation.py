"""The simulation of drift: its changes are what they say, its trials do not depend on order."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.drift_settings import CONFIG
from vivero.evaluation.drift_shifts import (
    NO_SHIFT,
    SHIFTS,
    Shift,
    blurred,
    changed_pixels,
    digits,
    drawn_rows,
)
from vivero.evaluation.drift_simulation import (
    CellResult,
    Pool,
    Pools,
    missed,
    reduced,
    summarised,
    trial,
)
from vivero.evaluation.drift_simulation_plot import plot_power, power_table

RNG = np.random.default_rng(0)


def images(num_images: int = 20) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (num_images, 1, 16, 16)).astype(np.uint8)


def pools() -> Pools:
    def pool(seed: int, num_images: int, offset: float = 0.0) -> Pool:
        features = torch.randn(num_images, 24, generator=torch.Generator().manual_seed(seed))
        return Pool(features + offset, np.arange(num_images) % 5)

    shifted = {shift.name: pool(3, 200, 1.0) for shift in SHIFTS}
    return Pools(pool(1, 400), pool(2, 400), shifted, torch.randn(50, 24) + 5, 5)


def test_blur_is_that_of_scipy():
    for sigma in (0.4, 1.0):
        expected = gaussian_filter(
            images()[0, 0].astype(float),
            sigma,
            mode="mirror",
            truncate=max(1, round(3 * sigma)) / sigma,
        )
        np.testing.assert_allclose(blurred(images(), sigma)[0, 0], expected, atol=0.51)


def test_each_change_of_pixels_grows_with_its_strength():
    for family, strengths in {
        "blur": (0.4, 1.0),
        "noise": (4, 16),
        "brightness": (0.95, 0.7),
    }.items():
        far = [
            np.abs(
                changed_pixels(images(), Shift(family, strength, ""), RNG).astype(int) - images()
            ).mean()
            for strength in strengths
        ]
        assert 0 < far[0] < far[1]


def test_the_digits_are_real_images_of_the_wanted_form():
    made = digits(28, 3)
    assert made.shape == (1797, 3, 28, 28)
    assert made.std() > 50


def test_a_class_shift_gives_one_class_its_share():
    labels = np.arange(1000) % 10
    rows = drawn_rows(labels, Shift("class share", 0.4, ""), 500, np.random.default_rng(0))
    assert np.bincount(labels[rows]).max() / 500 == pytest.approx(0.4, abs=0.06)


def test_a_trial_depends_on_its_place_alone():
    once = trial(pools(), NO_SHIFT, 50, 3, CONFIG)
    trial(pools(), NO_SHIFT, 50, 4, CONFIG)
    assert trial(pools(), NO_SHIFT, 50, 3, CONFIG) == once


def test_a_change_alarms_and_no_change_does_not():
    made, held_share = reduced(pools(), 16)
    assert 0.5 < held_share < 1
    null = summarised(NO_SHIFT, 100, [trial(made, NO_SHIFT, 100, i, CONFIG) for i in range(10)])
    shift = Shift("blur", 1.0, "")
    changed = summarised(shift, 100, [trial(made, shift, 100, i, CONFIG) for i in range(10)])
    assert null.num_alarms <= 2
    assert changed.num_alarms == 10


def test_a_level_is_missed_only_beyond_chance():
    def cell(num_alarms: int) -> CellResult:
        return CellResult("none", "none", 0.0, 50, 200, num_alarms, num_alarms, {})

    assert not missed(cell(10), 0.05, 5)
    assert not missed(cell(16), 0.05, 5)
    assert missed(cell(25), 0.05, 5)


def test_table_and_plot_show_all_cells(tmp_path):
    results = [
        CellResult(shift.name, shift.family, shift.strength, size, 20, 5, 6, {})
        for shift in (NO_SHIFT, *SHIFTS)
        for size in (50, 100)
    ]
    table = power_table(results)
    assert table.count("\n") == 2 + 1 + len(SHIFTS)
    assert "| 0.25 | 0.25 | 20 |" in table
    plot_power(results, 0.05, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").stat().st_size > 20_000
