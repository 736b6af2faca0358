"""The gate: limits, then the champion, beyond chance."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.config.schema import JudgeConfig, JudgeMargins
from vivero.evaluation.compulsory import compulsory_names
from vivero.evaluation.paired import Gain
from vivero.evaluation.spread import SeedSpread, SeedSpreads
from vivero.registry.differences import Gate, Measurements, difference_gates
from vivero.registry.gates import judge

CONFIG = JudgeConfig(
    max_frechet_over_floor=10.0,
    min_label_agreement=0.8,
    max_copied_share=0.01,
    max_near_equal_share=0.15,
    min_recall_over_floor=0.4,
    min_coverage_over_floor=0.4,
    max_unusable_share=0.05,
    confidence=0.95,
    superiority_confidence=0.95,
    min_relative_gain=0.0,
    detectable_relative_gain=0.2,
    margins=JudgeMargins(
        label_agreement=0.025,
        copied_share=0.01,
        near_equal_share=0.03,
        recall=0.05,
        coverage=0.05,
        unusable_share=0.01,
        denoising_loss=0.05,
        latency=0.15,
    ),
    require_clean_tree=True,
    latency_batch_images=8,
    latency_budget_s=0.0,
)
FD = "fd.efficientnet_lite0.5k"
LABELS, LOSS = "label_agreement.small_cnn.5k", "denoising_loss.mean.1k"
UNUSABLE = "unusable_share.efficientnet_lite0.5k"
NEAR_EQUAL = "near_equal_share.pixels.5k"
RECALL, COVERAGE = "recall.efficientnet_lite0.5k", "coverage.efficientnet_lite0.5k"
NUM_IMAGES = 400
BROKEN = {  # what a fault, or a file that was edited, can leave in a metric
    "error NaN": {"std_error": math.nan},
    "error infinite": {"std_error": math.inf},
    "error None": {"std_error": None},
    "value NaN": {"value": math.nan},
    "value text": {"value": "0"},
    "interval NaN": {"low": math.nan},
    "count 0": {"n": 0},
    "count true": {"n": True},
}
RANK = {"reject": 0, "hold": 1, "promote": 2}


def report(distance: float = 5.0, std_error: float = 0.1) -> dict[str, Any]:
    def metric(value: float, error: float, floor: float | None) -> dict[str, Any]:
        interval = {"low": value - 2 * error, "high": value + 2 * error}
        return {"value": value, **interval, "std_error": error, "floor": floor, "n": 5000}

    return {
        "protocol": {"hash": "a" * 64},
        "lineage": {"data_digest": "d", "params_sha256": "p", "weights_sha256": "w"},
        "metrics": {
            FD: metric(distance, std_error, 1.0),
            LABELS: metric(0.93, 0.004, 0.9),
            "copied_share.features.500": metric(0.0, 0.0, 0.0),
            "copied_share.pixels.500": metric(0.0, 0.0, 0.0),
            NEAR_EQUAL: metric(0.03, 0.0024, 0.05),
            RECALL: {**metric(0.6, 0.007, 0.9), "better": "higher"},
            COVERAGE: {**metric(0.7, 0.0065, 0.97), "better": "higher"},
            UNUSABLE: metric(0.004, 0.0009, 0.005),
            LOSS: metric(0.25, 0.001, None),
        },
    }


def paired(distance: float, noise: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    """A report whose images share noise with other models, and have some of their own."""
    made = report(distance, float((noise + own).std(ddof=1)) / NUM_IMAGES**0.5)
    made["per_image"] = {FD: noise + own}
    return made


def gate_of(verdict: Any, name: str) -> Gate:
    (found,) = [gate for gate in verdict.gates if gate.name == name and gate.low is not None]
    return found


def changed(name: str, value: float) -> dict[str, Any]:
    changed_report = report()
    changed_report["metrics"][name]["value"] = value
    return changed_report


def test_without_a_champion_a_sound_model_is_first():
    assert judge(report(), None, CONFIG).verdict == "first"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (FD, 10.5, "over by 0.5"),
        ("label_agreement.small_cnn.5k", 0.7, "short by 0.1"),
        ("copied_share.features.500", 0.02, "over by 0.01"),
        (NEAR_EQUAL, 0.2, "over by 0.05"),
        (RECALL, 0.18, "over floor is 0.2, at least 0.4, short by 0.2"),
        (COVERAGE, 0.194, "over floor is 0.2, at least 0.4, short by 0.2"),
    ],
)
@pytest.mark.parametrize("champion", [None, report(distance=9.9)])
def test_a_broken_limit_rejects_and_says_by_how_much(
    name: str, value: float, said: str, champion: dict[str, Any] | None
):
    verdict = judge(changed(name, value), champion, CONFIG)
    assert verdict.verdict == "reject"
    assert any(said in reason for reason in verdict.reasons)


def test_a_model_without_lineage_is_rejected():
    nameless = report()
    del nameless["lineage"]["data_digest"]
    verdict = judge(nameless, None, CONFIG)
    assert verdict.verdict == "reject"
    assert "data_digest" in " ".join(verdict.reasons)


def test_another_protocol_is_held_not_compared():
    champion = report(distance=9.0)
    champion["protocol"]["hash"] = "b" * 64
    verdict = judge(report(distance=1.0), champion, CONFIG)
    assert verdict.verdict == "hold"
    assert "another protocol" in " ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("distance", "expected"), [(4.0, "promote"), (4.9, "hold"), (5.1, "hold"), (6.0, "reject")]
)
def test_only_a_difference_beyond_chance_counts(distance: float, expected: str):
    assert judge(report(distance), report(5.0), CONFIG).verdict == expected


def test_a_gain_beyond_chance_may_still_be_too_small():
    config = CONFIG.model_copy(update={"min_relative_gain": 0.5})
    assert judge(report(4.0), report(5.0), config).verdict == "hold"


@pytest.mark.parametrize(("distance", "expected"), [(5.0, "champion"), (500.0, "reject")])
def test_the_champion_is_held_against_the_limits_alone(distance: float, expected: str):
    verdict = judge(report(distance), None, CONFIG, is_champion=True)
    assert verdict.verdict == expected
    assert verdict.reasons[-1] == "it is the champion: nothing to compare with"


@given(distance=st.floats(0.1, 9), error=st.floats(0, 1))
def test_a_model_never_beats_itself(distance: float, error: float):
    assert judge(report(distance, error), report(distance, error), CONFIG).verdict == "hold"


@given(a=st.floats(0.1, 9), b=st.floats(0.1, 9), error=st.floats(0.001, 1))
def test_of_two_models_one_at_most_may_replace_the_other(a: float, b: float, error: float):
    one = judge(report(a, error), report(b, error), CONFIG).verdict
    other = judge(report(b, error), report(a, error), CONFIG).verdict
    assert {one, other} in ({"hold"}, {"promote", "reject"}, {"promote", "hold"})


@given(worse=st.floats(0.1, 9), better=st.floats(0.1, 9))
def test_a_lower_distance_never_gets_a_worse_verdict(worse: float, better: float):
    better, worse = sorted((better, worse))
    champion = report(5.0)
    assert (
        RANK[judge(report(better), champion, CONFIG).verdict]
        >= RANK[judge(report(worse), champion, CONFIG).verdict]
    )


@given(
    first=st.floats(0.81, 1),
    second=st.floats(0.81, 1),
    distance=st.floats(0.1, 9),
    loss=st.floats(0.1, 0.5),
)
def test_no_figure_is_better_and_the_verdict_worse(
    first: float, second: float, distance: float, loss: float
):
    def verdict(agreement: float) -> int:
        candidate = report(distance)
        candidate["metrics"][LABELS]["value"] = agreement
        candidate["metrics"][LOSS]["value"] = loss
        return RANK[judge(candidate, report(5.0), CONFIG).verdict]

    worse, better = sorted((first, second))
    assert verdict(better) >= verdict(worse)


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_pairing_makes_a_difference_as_sure_as_what_is_not_shared(share: float, seed: int):
    rng = np.random.default_rng(seed)
    noise, one, two = rng.normal(size=(3, NUM_IMAGES))
    shared, rest = share**0.5 * noise, (1 - share) ** 0.5
    verdict = judge(paired(5.0, shared, rest * one), paired(5.0, shared, rest * two), CONFIG)
    gate = gate_of(verdict, FD)
    assert gate.is_paired
    expected = 1.96 * rest * (one - two).std(ddof=1) / NUM_IMAGES**0.5
    assert gate.high - gate.value == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_a_difference_that_pairs_see_is_missed_without_them():
    rng = np.random.default_rng(0)
    noise, one, two = rng.normal(size=(3, NUM_IMAGES)) * [[2.0], [0.1], [0.1]]
    candidate, champion = paired(4.9, noise, one), paired(5.0, noise, two)
    assert judge(candidate, champion, CONFIG).verdict == "promote"
    for older in (candidate, champion):
        values = older.pop("per_image")
        verdict = judge(candidate, champion, CONFIG)
        assert verdict.verdict == "hold"
        assert "unpaired: a report lacks the values" in gate_of(verdict, FD).reason
        older["per_image"] = values


def test_the_references_share_of_the_noise_counts():
    rng = np.random.default_rng(0)
    noise, one, two = rng.normal(size=(3, NUM_IMAGES))
    reports = [paired(5.0, noise, own) for own in (one, two)]
    alone = gate_of(judge(*reports, CONFIG), FD)
    for made, own in zip(reports, (two, one), strict=True):
        made["per_image"][FD + "#reference"] = own
    both = gate_of(judge(*reports, CONFIG), FD)
    assert both.high - both.value == pytest.approx(2**0.5 * (alone.high - alone.value))


@pytest.mark.parametrize(
    ("change", "passed", "verdict"),
    [
        (+0.02, True, "promote"),
        (-0.01, True, "promote"),
        (-0.025, None, "hold"),
        (-0.06, False, "reject"),
    ],
)
def test_every_other_figure_must_not_be_worse_by_more_than_its_margin(
    change: float, passed: bool | None, verdict: str
):
    candidate = report(4.0)
    candidate["metrics"][LABELS]["value"] += change
    found = judge(candidate, report(5.0), CONFIG)
    assert (gate_of(found, LABELS).passed, found.verdict) == (passed, verdict)


@pytest.mark.parametrize(
    ("gain", "error", "verdict"),
    [
        (-0.05, 0.02, "promote"),
        (-0.05, 0.2, "hold"),
        (-0.5, 0.02, "reject"),
        (0.5, 0.02, "promote"),
    ],
)
def test_a_slower_model_is_no_better_one(gain: float, error: float, verdict: str):
    found = judge(
        report(4.0),
        report(5.0),
        CONFIG,
        measured=Measurements(Gain(gain, error, 20, is_paired=True)),
    )
    assert found.verdict == verdict
    assert "20 rounds, in turn" in gate_of(found, "latency").reason


def test_many_figures_do_not_make_an_unlucky_one_a_rejection():
    """p = .01 alone is worse than the level of .025; of four figures together it is not."""
    candidate, champion = report(4.0), report(5.0)
    error = champion["metrics"][LOSS]["std_error"] * 2**0.5
    candidate["metrics"][LOSS]["value"] = 0.25 * 1.05 + 2.33 * error
    assert judge(candidate, champion, CONFIG).verdict == "hold"
    candidate["metrics"][LOSS]["value"] = 0.25 * 1.05 + 3.5 * error
    assert judge(candidate, champion, CONFIG).verdict == "reject"


@pytest.mark.parametrize(
    ("passed", "first", "later"),
    [(True, "first", "promote"), (None, "hold", "hold"), (False, "reject", "reject")],
)
def test_conditions_hold_the_first_model_too(passed: bool | None, first: str, later: str):
    condition = Gate("clean tree", passed, None, None, "because", "condition")
    assert judge(report(4.0), None, CONFIG, [condition]).verdict == first
    assert judge(report(4.0), report(5.0), CONFIG, [condition]).verdict == later


def test_less_than_the_least_gain_is_too_little_whatever_the_certainty():
    config = CONFIG.model_copy(update={"min_relative_gain": 0.1})  # of 5.0: 0.5
    verdicts = [judge(report(d, 1e-6), report(5.0, 1e-6), config) for d in (4.51, 4.49)]
    assert [verdict.verdict for verdict in verdicts] == ["hold", "promote"]
    assert "by too little to be worth a change" in gate_of(verdicts[0], FD).reason


def test_an_undecided_comparison_says_what_it_would_have_found():
    reason = gate_of(judge(report(5.0), report(5.0), CONFIG), FD).reason
    assert "A true gain of 0.396 would be found in 80% of such comparisons" in reason


def test_equal_models_are_seldom_promoted():
    rng = np.random.default_rng(0)
    figures = rng.normal(5.0, 0.1, size=(4000, 2))
    verdicts = [judge(report(a), report(b), CONFIG).verdict for a, b in figures]
    promoted = verdicts.count("promote") / len(verdicts)
    assert promoted == pytest.approx(0.025, abs=0.0075)  # half of 5 %; three Monte Carlo errors


def test_a_report_is_not_changed_by_judging_it():
    candidate, champion = report(4.0), report(5.0)
    before = copy.deepcopy((candidate, champion))
    judge(candidate, champion, CONFIG)
    assert (candidate, champion) == before


@pytest.mark.parametrize("space", ["features", "pixels"])
def test_copies_are_looked_for_in_every_space(space: str):
    copied = report()
    numbers = {"value": 0.5, "low": 0.45, "high": 0.55, "std_error": 0.0, "floor": 0.0, "n": 500}
    copied["metrics"][f"copied_share.{space}.500"] = numbers
    verdict = judge(copied, None, CONFIG)
    assert verdict.verdict == "reject"
    assert f"copied_share.{space}.500 is 0.5" in " ".join(verdict.reasons)


@pytest.mark.parametrize("name", sorted(report()["metrics"]))
@pytest.mark.parametrize("side", ["first model", "candidate", "champion"])
@pytest.mark.parametrize("how", ["absent", "null", *sorted(BROKEN)])
def test_a_metric_that_is_missing_or_not_a_number_is_no_free_pass(name: str, side: str, how: str):
    candidate, champion = report(4.0), report(5.0)
    spoilt = champion if side == "champion" else candidate
    if how == "absent":
        del spoilt["metrics"][name]
        spoilt["not_computed"] = {"denoising loss": "too few", "distances": "too few"}
    elif how == "null":
        spoilt["metrics"][name] = None
    else:
        spoilt["metrics"][name] |= BROKEN[how]
    verdict = judge(candidate, None if side == "first model" else champion, CONFIG)
    assert verdict.verdict == "hold"
    (reason,) = [gate.reason for gate in verdict.gates if gate.passed is None]
    assert "is missing: " in reason


def test_a_loss_twice_the_champions_rejects_and_a_loss_not_computed_holds():
    candidate, champion = report(4.0), report(5.0)
    candidate["metrics"][LOSS]["value"] *= 2
    assert judge(candidate, champion, CONFIG).verdict == "reject"
    del candidate["metrics"][LOSS]
    candidate["not_computed"] = {"denoising loss": "the data is too small"}
    verdict = judge(candidate, champion, CONFIG)
    assert verdict.verdict == "hold"
    assert "denoising_loss.mean of the candidate is missing: the data is too small" in (
        verdict.reasons
    )


def test_metrics_of_other_counts_are_not_taken_for_each_other():
    candidate = report(4.0)
    candidate["metrics"]["fd.efficientnet_lite0.2k"] = candidate["metrics"].pop(FD)
    verdict = judge(candidate, report(5.0), CONFIG)
    assert verdict.verdict == "hold"
    assert "fd.efficientnet_lite0.2k of the champion is missing" in " ".join(verdict.reasons)


def test_a_protocol_says_what_is_compulsory():
    unlabelled = report()
    del unlabelled["metrics"][LABELS]
    unlabelled["protocol"]["compulsory"] = compulsory_names(has_classes=False)
    assert judge(unlabelled, None, CONFIG).verdict == "first"
    unlabelled["protocol"]["compulsory"] = compulsory_names(has_classes=True)
    assert judge(unlabelled, None, CONFIG).verdict == "hold"


def test_a_metric_of_a_later_version_cannot_be_judged():
    later = report()
    later["protocol"]["compulsory"] = [*compulsory_names(has_classes=True), "beauty"]
    assert judge(later, None, CONFIG).verdict == "hold"


def test_without_a_distance_there_is_nothing_to_judge_by():
    blind = report()
    del blind["metrics"][FD]
    blind["not_computed"] = {"distances": "at least 2 images"}
    verdict = judge(blind, None, CONFIG)
    assert verdict.verdict == "hold"
    assert "frechet_distance of the candidate is missing: at least 2 images" in verdict.reasons


@pytest.mark.parametrize("listed", [["frechet_distance"], ["beauty"], []])
def test_the_list_of_a_report_takes_nothing_from_what_is_compulsory(listed: list[str]):
    candidate = report()
    candidate["protocol"] |= {"compulsory": listed, "classifier_sha256": "c" * 64}
    for name in report()["metrics"]:
        lacking = {**candidate, "metrics": {**candidate["metrics"]}}
        del lacking["metrics"][name]
        assert judge(lacking, None, CONFIG).verdict == "hold", name


@pytest.mark.parametrize("name", sorted(report()["metrics"]))
def test_a_report_does_not_say_which_direction_is_better(name: str):
    """The candidate is far worse in one metric, and both reports call that the better direction."""
    candidate, champion = report(4.0), report(5.0)
    worse = {FD: 9.0, LABELS: 0.81, RECALL: 0.4, COVERAGE: 0.45, LOSS: 0.5, NEAR_EQUAL: 0.14}
    candidate["metrics"][name]["value"] = worse.get(name, 0.2)
    honest = judge(candidate, champion, CONFIG)
    assert honest.verdict == "reject"
    better = (
        "higher"
        if candidate["metrics"][name]["value"] > champion["metrics"][name]["value"]
        else "lower"
    )
    for made in (candidate, champion):
        made["metrics"][name]["better"] = better
    assert judge(candidate, champion, CONFIG) == honest


def no_spread_between_seeds() -> SeedSpreads:
    return SeedSpreads(
        {name: SeedSpread(dict.fromkeys(range(6), 1.0)) for name in report()["metrics"]}
    )


@pytest.mark.parametrize("is_retrained", [False, True])
@pytest.mark.parametrize("distance", [1.0, 9.0])
def test_a_standard_error_of_0_decides_nothing(distance: float, is_retrained: bool):
    candidate = retrained(distance) if is_retrained else report(distance, 0.0)
    measured = Measurements(spreads=no_spread_between_seeds())
    verdict = judge(candidate, report(5.0, 0.0), CONFIG, measured=measured)
    assert verdict.verdict == "hold"
    assert gate_of(verdict, FD).passed is None
    assert "the standard error is 0" in gate_of(verdict, FD).reason


def test_an_error_of_0_is_known_only_where_no_image_differs():
    candidate, champion = report(4.0), report(5.0)
    losses = np.linspace(0.1, 0.4, NUM_IMAGES)
    for shift, passed in ((0.0, True), (0.001, None)):
        candidate["metrics"][LOSS]["value"] = 0.25 - shift
        candidate["per_image"] = {LOSS: np.full(NUM_IMAGES, 0.25 - shift)}
        champion["per_image"] = {LOSS: np.full(NUM_IMAGES, 0.25)}
        assert gate_of(judge(candidate, champion, CONFIG), LOSS).passed is passed
    candidate["metrics"][LOSS]["value"] = 0.25
    candidate["per_image"] = champion["per_image"] = {LOSS: losses}
    assert judge(candidate, champion, CONFIG).verdict == "promote"


@pytest.mark.parametrize("floor", [None, 0.0, True, math.nan, math.inf])
def test_a_distance_without_a_floor_is_held(floor: float | None):
    candidate = report()
    candidate["metrics"][FD]["floor"] = floor
    assert judge(candidate, None, CONFIG).verdict == "hold"


def test_a_time_that_was_to_be_measured_and_was_not_is_held():
    config = CONFIG.model_copy(update={"latency_budget_s": 1.0})
    assert judge(report(4.0), None, config).verdict == "first"
    assert judge(report(4.0), report(5.0), config).verdict == "hold"
    gain = Gain(0.0, 0.01, 20, is_paired=True)
    assert (
        judge(report(4.0), report(5.0), config, measured=Measurements(latency=gain)).verdict
        == "promote"
    )


def retrained(distance: float, std_error: float = 0.0) -> dict[str, Any]:
    """A model of other weights than `report` makes."""
    return {
        **report(distance, std_error),
        "lineage": {**report()["lineage"], "weights_sha256": "x"},
    }


def spreads(of_distance: float, of_others: float = 0.001, note: str = "") -> SeedSpreads:
    """Relative spreads between 1,000 seeds: as good as known."""

    def spread(relative_std: float) -> SeedSpread:
        return SeedSpread({seed: 1 + relative_std * (-1) ** seed for seed in range(1000)})

    others = dict.fromkeys(set(report()["metrics"]) - {FD}, spread(of_others))
    return SeedSpreads({FD: spread(of_distance), **others}, note)


def test_a_retrained_model_must_be_better_beyond_what_another_seed_gives():
    """Sure by its images (error 0), a gain of 10 % counts at seeds' spread of 2 %, not of 5 %."""
    champion = report(5.0, 0.0)
    verdicts = [
        judge(retrained(4.5), champion, CONFIG, measured=Measurements(spreads=spreads(s)))
        for s in (0.02, 0.05)
    ]
    assert [verdict.verdict for verdict in verdicts] == ["promote", "hold"]
    gate = gate_of(verdicts[1], FD)
    assert gate.high - gate.value == pytest.approx(1.96 * 0.05 * (4.5**2 + 5**2) ** 0.5, rel=0.01)
    assert "seeds differ by 0.05 (1000 trainings)" in gate.reason


@pytest.mark.parametrize("name", [LABELS, LOSS])
def test_the_other_metrics_of_a_retrained_model_vary_between_seeds_too(name: str):
    sure = judge(
        retrained(1.0), report(5.0, 0.0), CONFIG, measured=Measurements(spreads=spreads(0.01))
    )
    vague = judge(
        retrained(1.0), report(5.0, 0.0), CONFIG, measured=Measurements(spreads=spreads(0.01, 0.05))
    )
    assert gate_of(sure, name).passed is True
    assert gate_of(vague, name).passed is None
    assert vague.verdict == "hold"


def test_without_the_variance_between_seeds_a_retrained_model_is_held_and_told_what_to_type():
    for distance in (1.0, 9.0):  # much better, much worse
        verdict = judge(retrained(distance), report(5.0), CONFIG)
        assert verdict.verdict == "hold"
        assert "seed_variance.json is missing: run `vivero seeds 1 2" in gate_of(verdict, FD).reason


def test_a_metric_without_a_spread_is_held_and_named():
    known = spreads(0.01)
    partly = SeedSpreads({FD: known.by_metric[FD], LABELS: known.by_metric[LABELS]})
    verdict = judge(retrained(1.0), report(5.0), CONFIG, measured=Measurements(spreads=partly))
    assert verdict.verdict == "hold"
    assert gate_of(verdict, FD).passed is True
    assert f"seed_variance.json has no {LOSS}" in gate_of(verdict, LOSS).reason


def test_a_spread_that_was_measured_on_another_recipe_counts_and_is_named():
    verdict = judge(
        retrained(1.0),
        report(5.0),
        CONFIG,
        measured=Measurements(spreads=spreads(0.01, note="measured on X")),
    )
    assert verdict.verdict == "promote"
    assert "1000 trainings, measured on X" in gate_of(verdict, FD).reason


def test_the_same_weights_with_another_sampler_are_compared_by_their_images_alone():
    candidate, champion = report(4.5, 0.001), report(5.0, 0.001)
    for given_spreads in (None, spreads(0.5)):
        verdict = judge(candidate, champion, CONFIG, measured=Measurements(spreads=given_spreads))
        assert verdict.verdict == "promote"
        assert "the same weights" in gate_of(verdict, FD).reason


def test_a_gain_is_held_to_its_own_confidence():
    """A gain of 2.2 errors is beyond 95 %, not beyond 99 %; so is a loss, which stays at 95 %."""
    strict = CONFIG.model_copy(update={"superiority_confidence": 0.99})
    error = 0.1 * 2**0.5
    better, worse = report(5.0 - 2.2 * error), report(5.0 + 2.2 * error)
    assert judge(better, report(5.0), CONFIG).verdict == "promote"
    assert judge(better, report(5.0), strict).verdict == "hold"
    config = strict.model_copy(update={"confidence": 0.9})
    assert judge(worse, report(5.0), config).verdict == "hold"  # Holm: one of nine metrics
    worst = report(5.0 + 2.7 * error)
    assert judge(worst, report(5.0), strict).verdict == "hold"
    assert judge(worst, report(5.0), config).verdict == "reject"


@pytest.mark.parametrize("name", [FD, LABELS])
def test_a_negative_standard_error_makes_nothing_sure(name: str):
    candidate, champion = report(1.0), report(5.0)
    for made in (candidate, champion):
        made["metrics"][name]["std_error"] = -1.0
    assert judge(candidate, champion, CONFIG).verdict == "hold"


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_values_per_image_that_are_not_finite_hold(broken: float):
    rng = np.random.default_rng(0)
    noise, own, other = rng.normal(size=(3, NUM_IMAGES)) * [[1.0], [0.1], [0.1]]
    candidate, champion = paired(4.0, noise, own), paired(5.0, noise, other)
    assert judge(candidate, champion, CONFIG).verdict == "promote"
    candidate["per_image"][FD][3] = broken
    verdict = judge(candidate, champion, CONFIG)
    assert verdict.verdict == "hold"
    assert "both must be finite numbers" in " ".join(verdict.reasons)
    json.dumps(verdict.as_json(), allow_nan=False)


def test_one_value_per_image_gives_no_error_and_is_compared_unpaired():
    candidate, champion = report(4.0), report(5.0)
    for made in (candidate, champion):
        made["per_image"] = {FD: np.zeros(1)}
    verdict = judge(candidate, champion, CONFIG)
    assert gate_of(verdict, FD).is_paired is False


@pytest.mark.parametrize(("gain", "error"), [(math.nan, 0.01), (math.inf, 0.01), (0.1, math.nan)])
def test_a_latency_that_was_not_measured_holds(gain: float, error: float):
    broken = Measurements(latency=Gain(gain, error, 9, is_paired=True))
    verdict = judge(report(1.0), report(5.0), CONFIG, measured=broken)
    assert verdict.verdict == "hold"
    json.dumps(verdict.as_json(), allow_nan=False)


def test_a_metric_that_is_no_number_does_not_hide_one_that_is_worse():
    candidate, champion = report(1.0), report(5.0)
    candidate["metrics"][LOSS]["value"] = 0.9
    for made in (candidate, champion):
        made["metrics"][LABELS]["std_error"] = -1.0
    assert judge(candidate, champion, CONFIG).verdict == "reject"


@pytest.mark.parametrize(
    ("name", "change", "verdict"),
    [
        (NEAR_EQUAL, 0.01, "promote"),
        (NEAR_EQUAL, 0.032, "hold"),
        (NEAR_EQUAL, 0.06, "reject"),
        (RECALL, -0.01, "promote"),
        (RECALL, -0.055, "hold"),
        (RECALL, -0.1, "reject"),
        (COVERAGE, -0.01, "promote"),
        (COVERAGE, -0.055, "hold"),
        (COVERAGE, -0.1, "reject"),
    ],
)
def test_diversity_must_not_be_worse_than_the_champions_by_more_than_its_margin(
    name: str, change: float, verdict: str
):
    candidate = report(4.0)
    candidate["metrics"][name]["value"] += change
    assert judge(candidate, report(5.0), CONFIG).verdict == verdict


@pytest.mark.parametrize("name", [NEAR_EQUAL, RECALL, COVERAGE])
def test_diversity_that_was_not_measured_holds(name: str):
    candidate = report(4.0)
    del candidate["metrics"][name]
    assert judge(candidate, None, CONFIG).verdict == "hold"
    assert judge(candidate, report(5.0), CONFIG).verdict == "hold"
    champion = report(5.0)
    del champion["metrics"][name]
    assert judge(report(4.0), champion, CONFIG).verdict == "hold"


@pytest.mark.parametrize("floor", [None, 0.0, math.nan, math.inf])
@pytest.mark.parametrize("name", [RECALL, COVERAGE])
def test_coverage_without_a_floor_is_held(name: str, floor: float | None):
    candidate = report()
    candidate["metrics"][name]["floor"] = floor
    assert judge(candidate, None, CONFIG).verdict == "hold"


def test_two_models_whose_weights_are_not_known_do_not_count_as_one():
    nameless = [report(distance) for distance in (1.0, 5.0)]
    for made in nameless:
        made["lineage"] = {**made["lineage"], "weights_sha256": None}
    gates = difference_gates(nameless[0], nameless[1], CONFIG, Measurements())
    assert gates[0].passed is None
    assert "seed_variance.json is missing" in gates[0].reason


@pytest.mark.parametrize(
    ("name", "at_limit", "beyond"),
    [
        (FD, 10.0, 10.0001),
        (LABELS, 0.8, 0.7999),
        ("copied_share.features.500", 0.01, 0.0101),
    ],
)
def test_a_value_at_its_limit_is_allowed(name: str, at_limit: float, beyond: float):
    assert judge(changed(name, at_limit), None, CONFIG).verdict == "first"
    assert judge(changed(name, beyond), None, CONFIG).verdict == "reject"
