"""The simulation of the gate, on reports whose answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.unit.registry.test_gates import CONFIG
from vivero.errors import DataError
from vivero.evaluation.frechet import frechet_distance, frechet_influence, moments
from vivero.evaluation.intervals import share_estimate
from vivero.evaluation.spread import SeedSpread, SeedSpreads
from vivero.registry.gate_simulation import (
    Model,
    Plan,
    Simulation,
    judge_real_pairs,
    power,
)
from vivero.registry.gate_simulation_plot import mean_course, plot_outcome
from vivero.registry.gate_targets import target_of_better, target_of_equal, target_of_rows

FD, LABELS, LOSS = "fd.net.1k", "label_agreement.net.1k", "denoising_loss.mean.1k"
N = 1000
SIGMA = 0.03
STEPS = np.array([-1.3, -0.8, -0.1, 0.2, 0.7, 1.3])
RULE = CONFIG.model_copy(
    update={
        "superiority_confidence": 0.99,
        "min_relative_gain": 0.03,
        "detectable_relative_gain": 0.3,
        "margins": CONFIG.margins.model_copy(update={"label_agreement": 0.1}),  # for so few images
    }
)


def report(distance: float = 200.0, seed: int = 0) -> dict[str, Any]:
    """A distance known to 1 %, and two others, with values per image."""
    rng = np.random.default_rng(seed)
    influences = 0.01 * distance * N**0.5 * rng.normal(size=N)
    per_image = {
        FD: (influences - influences.mean()).astype(np.float32),
        LABELS: rng.random(N) < 0.9,
        LOSS: (0.25 + 0.02 * rng.normal(size=N)).astype(np.float32),
    }
    values = {FD: distance, LABELS: per_image[LABELS].mean(), LOSS: per_image[LOSS].mean()}
    return {
        "protocol": {"hash": "p"},
        "lineage": {"data_digest": "d", "params_sha256": "p", "weights_sha256": f"w{seed}"},
        "metrics": {
            name: {
                "value": float(value),
                "std_error": float(per_image[name].std()) / N**0.5,
                "n": N,
                "better": "higher" if name == LABELS else "lower",
            }
            for name, value in values.items()
        },
        "per_image": per_image,
    }


def spreads(sigma: float = SIGMA) -> SeedSpreads:
    def spread(relative_std: float) -> SeedSpread:
        return SeedSpread(dict(enumerate(1 + relative_std * STEPS / STEPS.std(ddof=1))))

    return SeedSpreads({FD: spread(sigma), LABELS: spread(0.001), LOSS: spread(0.001)})


def simulation(sigma: float = SIGMA, **changes: Any) -> Simulation:
    return Simulation([report()], RULE.model_copy(update=changes), spreads(sigma))


def test_a_draw_spreads_as_a_recomputed_distance_does():
    """Influences stand for the distance: against the distance of each resample."""
    generator = torch.Generator().manual_seed(0)
    features = 1.4 * torch.randn(1500, 5, generator=generator) + 0.2
    real = moments(torch.randn(1500, 5, generator=generator))
    found = frechet_influence(features, real)
    made = report(found.distance)
    made["per_image"] = {FD: found.values.numpy()}
    made["metrics"] = {FD: made["metrics"][FD]}
    tried = Simulation([made], RULE, spreads())
    rng = np.random.default_rng(0)
    model = Model(made, {}, "w")
    drawn = [tried.distance(tried.evaluate(model, rng)) for _ in range(600)]
    rows = [torch.from_numpy(rng.integers(1500, size=1500)) for _ in range(600)]
    recomputed = [frechet_distance(moments(features[row]), real) for row in rows]
    assert np.std(drawn) == pytest.approx(np.std(recomputed), rel=0.12)  # 3 of its own errors
    assert np.mean(drawn) == pytest.approx(found.distance, rel=0.01)


def test_models_differ_as_seeds_do_and_a_better_recipe_is_better():
    tried, rng = simulation(), np.random.default_rng(0)
    models = [tried.draw_model(rng, 0.2, {}) for _ in range(3000)]
    logarithms = np.log([model.factors[FD] for model in models])
    assert logarithms.mean() == pytest.approx(np.log(0.8), abs=0.003)
    assert logarithms.std() == pytest.approx(SIGMA, rel=0.06)
    assert len({model.weights_sha256 for model in models}) == 3000
    of_labels = np.std(np.log([model.factors[LABELS] for model in models]))
    assert of_labels == pytest.approx(0.001, rel=0.06)


def test_an_uncertain_spread_is_scaled_as_its_degrees_of_freedom_say():
    tried, rng = simulation(), np.random.default_rng(0)
    scales = np.array([tried.draw_scale(rng)[FD] for _ in range(4000)])
    assert stats.kstest(5 / scales**2, stats.chi2(5).cdf).pvalue > 0.01


@pytest.mark.parametrize("is_uncertain", [False, True])
def test_equal_retrains_seldom_promote_and_do_not_ratchet(is_uncertain: bool):
    plan = Plan(trials=400, retrains=20, rows=60, seed=0)
    calls: list[None] = []
    tried = simulation()
    trials = tried.run_trials(plan, lambda: calls.append(None), is_spread_uncertain=is_uncertain)
    rows = tried.run_rows(plan, lambda: calls.append(None), is_spread_uncertain=is_uncertain)
    assert len(calls) == 460
    assert target_of_equal(trials).is_met
    assert target_of_better(trials, 0.3).is_met
    assert abs(target_of_rows(rows, plan).found) < 0.01 or is_uncertain
    assert trials.naive / plan.trials == pytest.approx(0.5, abs=0.1)  # the control that must fire
    assert mean_course(rows.naive)[-1] < -SIGMA  # what such a row does without a gate
    assert len(rows.gate[0].recorded) == plan.retrains + 1


def test_a_gate_that_knew_nothing_of_seeds_would_promote_and_ratchet():
    """The rule as it was: the same retrains, judged by the error of their images alone."""
    known = simulation()
    blind = Simulation(
        [report()], RULE.model_copy(update={"superiority_confidence": 0.95}), spreads(1e-9)
    )
    known.is_promoted = blind.is_promoted
    plan = Plan(trials=400, retrains=20, rows=40, seed=0)
    trials, rows = known.run_trials(plan, lambda: None), known.run_rows(plan, lambda: None)
    assert not target_of_equal(trials).is_met
    assert not target_of_rows(rows, plan).is_met


def test_what_is_recorded_is_measured_on_fresh_images_after_the_promotion():
    """Without a spread between seeds all models are one: the winner's luck is not recorded."""
    tried = simulation(sigma=1e-9)
    plan = Plan(trials=2, retrains=20, rows=150, seed=0)
    rows = tried.run_rows(plan, lambda: None)
    naive = target_of_rows(type(rows)(rows.naive, rows.naive), plan)
    assert np.mean([row.num_promoted for row in rows.naive]) > 2
    assert naive.low < 0 < naive.high or abs(naive.found) < 0.003


def test_rows_are_independent_and_repeatable():
    plan = Plan(trials=2, retrains=3, rows=8, seed=1)
    first, again = (simulation().run_rows(plan, lambda: None).naive for _ in range(2))
    assert [row.recorded for row in first] == [row.recorded for row in again]
    assert len({row.recorded[-1] for row in first}) > 4
    other = simulation().run_rows(Plan(2, 3, 8, seed=2), lambda: None).naive
    assert [row.recorded for row in first] != [row.recorded for row in other]


def test_power_is_the_level_for_no_gain_and_agrees_with_the_simulation():
    rule = RULE.model_copy(update={"min_relative_gain": 0.0})
    many = SeedSpread({seed: 1 + SIGMA * (-1) ** seed for seed in range(2000)})
    assert power(0.0, 0.01, many, rule) == pytest.approx(0.005, rel=0.02)
    few = spreads().by_metric[FD]
    gain = 0.14
    tried = simulation(detectable_relative_gain=gain)
    plan = Plan(trials=600, retrains=1, rows=2, seed=0)
    share = share_estimate(sum(tried.run_trials(plan, lambda: None).better), plan.trials)
    assert power(gain, 0.01 * 2**0.5, few, RULE) == pytest.approx(share.value, abs=0.07)


def test_a_metric_without_a_spread_is_refused_with_what_to_type():
    with pytest.raises(DataError, match=r"seeds of label_agreement.*vivero seeds"):
        Simulation([report()], RULE, SeedSpreads({FD: spreads().by_metric[FD]}))


def test_a_report_without_values_per_image_is_refused():
    bare = {**report(), "per_image": {}}
    with pytest.raises(DataError, match="run `dvc repro evaluate`"):
        Simulation([bare], RULE, spreads())


def test_real_trainings_are_judged_by_the_spread_of_the_others():
    rng = np.random.default_rng(0)
    reports = {seed: report(200 * (1 + SIGMA * rng.normal()), seed) for seed in range(6)}
    pairs = judge_real_pairs(reports, RULE)
    assert [(pair.candidate, pair.champion) for pair in pairs[:2]] == [(0, 1), (0, 2)]
    assert len(pairs) == 30
    assert not any(pair.is_promoted for pair in pairs)
    outlier = {**reports, 9: report(100.0, 9)}
    found = {(p.candidate, p.champion): p for p in judge_real_pairs(outlier, RULE)}
    assert found[9, 0].is_promoted  # its own value is not part of the spread that judges it
    assert not found[0, 9].is_promoted
    value = reports[0]["metrics"][FD]["value"]
    assert found[9, 0].gain == pytest.approx((value - 100) / value)


def test_too_few_real_trainings_are_refused():
    with pytest.raises(DataError, match="3 trainings are too few"):
        judge_real_pairs({seed: report(200, seed) for seed in range(3)}, RULE)


def test_rows_of_real_trainings_take_each_as_it_is():
    reports = [report(distance, seed) for seed, distance in enumerate((190.0, 200.0, 210.0))]
    tried = Simulation(reports, RULE, spreads())
    rng = np.random.default_rng(0)
    models = [tried.draw_model(rng, 0.0, {}) for _ in range(30)]
    assert {model.report["metrics"][FD]["value"] for model in models} == {190.0, 200.0, 210.0}
    assert {model.factors.get(FD) for model in models} == {1.0}


def test_the_picture_is_drawn(tmp_path):
    plan = Plan(trials=3, retrains=2, rows=2, seed=0)
    tried = simulation()
    trials, rows = tried.run_trials(plan, lambda: None), tried.run_rows(plan, lambda: None)
    plot_outcome(tried, trials, rows, tmp_path / "gates.png")
    assert (tmp_path / "gates.png").stat().st_size > 20_000
