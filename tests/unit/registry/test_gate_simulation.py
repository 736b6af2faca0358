"""The simulation of the gate, on features whose answer is known."""

import numpy as np
import pytest
import torch

from tests.unit.registry.test_gates import CONFIG
from vivero.evaluation.frechet import moments
from vivero.registry.gate_simulation import (
    DISTANCE,
    Plan,
    Pool,
    drawn_report,
    power,
    share_for_gain,
    simulate,
)
from vivero.registry.gate_simulation_plot import plot_outcome
from vivero.registry.gate_targets import targets

RULE = CONFIG.model_copy(update={"min_relative_gain": 0.1})
PLAN = Plan(draws=24, trials=300, retrains=20, chains=50, seed=0)


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Samples that are broader than real images, which are standard normal."""
    generator = torch.Generator().manual_seed(0)
    samples = 1.4 * torch.randn(1500, 5, generator=generator) + 0.2
    held_out, reference = (torch.randn(1500, 5, generator=generator) for _ in range(2))
    hits = np.random.default_rng(0).random(3000) < 0.9
    return Pool(
        torch.cat([samples, held_out]), {"label_agreement.net": hits}, 1500, moments(reference)
    )


@pytest.fixture(scope="module")
def outcome(pool: Pool):
    calls: list[None] = []
    made = simulate(pool, PLAN, RULE, lambda: calls.append(None))
    assert len(calls) == 2 * PLAN.draws
    return made


def test_a_share_of_real_images_gains_what_was_asked_for(pool: Pool):
    start = drawn_report(pool, np.arange(1500))["metrics"][DISTANCE]["value"]
    share = share_for_gain(pool, 0.2 * start)
    rng = np.random.default_rng(1)
    gains = []
    for _ in range(20):
        rows = np.where(rng.random(1500) < share, rng.integers(1500, 3000, 1500), np.arange(1500))
        gains.append(start - drawn_report(pool, rows)["metrics"][DISTANCE]["value"])
    assert np.mean(gains) == pytest.approx(0.2 * start, rel=0.1)


def test_more_than_real_images_can_give_is_refused(pool: Pool):
    with pytest.raises(ValueError, match=r"lower judge\.detectable_relative_gain"):
        share_for_gain(pool, 1e6)


def test_equal_models_seldom_promote_and_better_ones_do(outcome):
    found = {target.what: target for target in targets(outcome, PLAN)}
    assert found["equal models promoted"].is_met
    assert found["better by 20% promoted"].found > 0.3
    assert outcome.naive / PLAN.trials == pytest.approx(0.5, abs=0.1)  # the control that must fire


def test_the_naive_rule_ratchets_and_the_gate_does_less(outcome):
    gate, naive = outcome.recorded
    assert len(gate) == len(naive) == PLAN.retrains + 1
    assert naive[-1] < 3 * gate[-1] < 0.0 or gate[-1] == 0.0
    assert naive[-1] < -outcome.distance_std / outcome.mean_distance
    assert outcome.changes[1] > 2 > np.mean(outcome.changes[0])


def test_rows_without_a_change_keep_the_figure_and_large_changes_stand_beside_the_mean(outcome):
    changes = np.asarray(outcome.recorded_changes)
    is_changed = np.asarray(outcome.changes[0]) > 0
    assert outcome.changed_share == is_changed.mean()
    assert not changes[~is_changed].any()
    assert (np.abs(changes) <= outcome.large_change).mean() >= 0.95
    assert outcome.large_change >= abs(outcome.recorded[0][-1])


def test_power_is_the_level_for_no_gain_and_a_half_at_what_is_needed():
    rule = CONFIG.model_copy(update={"min_relative_gain": 0.0})
    assert power(0.0, 0.01, rule) == pytest.approx(0.025)
    assert power(1.96 * 0.01, 0.01, rule) == pytest.approx(0.5, abs=1e-4)
    assert power(2.8 * 0.01, 0.01, rule) == pytest.approx(0.8, abs=1e-3)


def test_too_few_draws_are_refused(pool: Pool):
    with pytest.raises(ValueError, match="too few for 300 different pairs"):
        simulate(pool, Plan(10, 300, 2, 5, 0), RULE, lambda: None)
    with pytest.raises(ValueError, match="or 10 retrains of a first model"):
        simulate(pool, Plan(10, 90, 10, 5, 0), RULE, lambda: None)


def test_the_picture_is_drawn(outcome, tmp_path):
    plot_outcome(outcome, RULE, tmp_path / "gates.png")
    assert (tmp_path / "gates.png").stat().st_size > 20_000
