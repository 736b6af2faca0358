"""Latency: the ratio of two models, whatever else slows both of them or a few rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model_versions import make_artifacts
from vivero.registry.bundle import load_bundle
from vivero.registry.latency import MIN_ROUNDS, latency_gain, measured_latency


def rounds(ratio: float, seed: int, count: int = 40) -> list[tuple[float, float]]:
    """Times on a machine that gets slower and slower, with some noise of each call."""
    rng = np.random.default_rng(seed)
    slow = np.linspace(1, 3, count)
    ours, theirs = np.exp(rng.normal(0, 0.03, size=(2, count))) * slow
    return [(float(ratio * one), float(two)) for one, two in zip(ours, theirs, strict=True)]


@given(ratio=st.floats(0.3, 3), seed=st.integers(0, 99))
def test_a_machine_that_slows_down_moves_nothing(ratio: float, seed: int):
    gain = latency_gain(rounds(ratio, seed))
    assert gain.value == pytest.approx(1 - ratio, abs=0.06 * ratio)
    assert gain.std_error < 0.03 * ratio


def test_a_few_interrupted_rounds_move_nothing():
    times = enumerate(rounds(1.0, 0))
    disturbed = [(ours * (9 if k % 8 == 0 else 1), theirs) for k, (ours, theirs) in times]
    assert latency_gain(disturbed).value == pytest.approx(0, abs=0.05)


def test_its_error_is_the_spread_over_repeated_measurements():
    gains = [latency_gain(rounds(1.0, seed)) for seed in range(300)]
    spread = np.std([gain.value for gain in gains], ddof=1)
    assert np.mean([gain.std_error for gain in gains]) == pytest.approx(spread, rel=0.2)


def test_two_models_are_timed_in_turns(tmp_path, tiny_config):
    make_artifacts(tmp_path, tiny_config)
    bundle = load_bundle(tmp_path / "artifacts/sample/bundle")
    found = measured_latency(bundle, bundle, batch_images=2, budget_s=0)
    assert found.gain.n == MIN_ROUNDS
    assert min(found.candidate_ms, found.champion_ms) > 0


@pytest.mark.parametrize("broken", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clock_that_gives_no_duration_gives_no_gain(broken: float):
    gain = latency_gain([*rounds(1.0, 0), (broken, 1.0)])
    assert not gain.is_measured
    assert not latency_gain([]).is_measured
