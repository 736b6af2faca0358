"""The gate: limits, then the champion, beyond chance."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.config.schema import JudgeConfig
from vivero.registry.gates import judge

CONFIG = JudgeConfig(
    max_frechet_over_floor=10.0,
    min_label_agreement=0.8,
    max_copied_share=0.01,
    confidence=0.95,
    min_relative_gain=0.0,
)
FD = "fd.efficientnet_lite0.5k"


def report(distance: float = 5.0, std_error: float = 0.1) -> dict[str, Any]:
    def metric(value: float, error: float, floor: float | None) -> dict[str, Any]:
        return {"value": value, "std_error": error, "floor": floor, "n": 5000}

    return {
        "protocol": {"hash": "a" * 64},
        "lineage": {"data_digest": "d", "params_sha256": "p", "weights_sha256": "w"},
        "metrics": {
            FD: metric(distance, std_error, 1.0),
            "label_agreement.small_cnn.5k": metric(0.93, 0.004, 0.9),
            "copied_share.features.500": metric(0.0, 0.0, 0.0),
        },
    }


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
    config = CONFIG.model_copy(update={"min_relative_gain": 0.3})
    assert judge(report(4.0), report(5.0), config).verdict == "hold"


@given(distance=st.floats(0.1, 9), error=st.floats(0, 1))
def test_a_model_never_beats_itself(distance: float, error: float):
    assert judge(report(distance, error), report(distance, error), CONFIG).verdict == "hold"


@given(a=st.floats(0.1, 9), b=st.floats(0.1, 9), error=st.floats(0.001, 1))
def test_if_one_is_better_the_other_is_worse(a: float, b: float, error: float):
    mirror = {"promote": "reject", "reject": "promote", "hold": "hold"}
    one = judge(report(a, error), report(b, error), CONFIG).verdict
    other = judge(report(b, error), report(a, error), CONFIG).verdict
    assert other == mirror[one]


@given(worse=st.floats(0.1, 9), better=st.floats(0.1, 9))
def test_a_lower_distance_never_gets_a_worse_verdict(worse: float, better: float):
    better, worse = sorted((better, worse))
    rank = {"reject": 0, "hold": 1, "promote": 2}
    champion = report(5.0)
    assert (
        rank[judge(report(better), champion, CONFIG).verdict]
        >= rank[judge(report(worse), champion, CONFIG).verdict]
    )


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
    copied["metrics"][f"copied_share.{space}.500"] = {"value": 0.5, "std_error": 0.0, "floor": 0.0}
    verdict = judge(copied, None, CONFIG)
    assert verdict.verdict == "reject"
    assert f"copied_share.{space}.500 is 0.5" in " ".join(verdict.reasons)


@pytest.mark.parametrize("group", ["copies of training images", "label agreement"])
def test_a_figure_that_could_not_be_computed_is_no_free_pass(group: str):
    silent = {**report(), "not_computed": {group: "too few images"}}
    verdict = judge(silent, None, CONFIG)
    assert verdict.verdict == "reject"
    assert "was not computed: too few images" in " ".join(verdict.reasons)


def test_data_without_classes_needs_no_label_agreement():
    unlabelled = {
        **report(),
        "has_classes": False,
        "not_computed": {"label agreement": "the data has no labels"},
    }
    assert judge(unlabelled, None, CONFIG).verdict == "first"


def test_without_a_distance_there_is_nothing_to_judge_by():
    blind = report()
    del blind["metrics"][FD]
    verdict = judge(blind, None, CONFIG)
    assert verdict.verdict == "reject"
    assert "no Fréchet distance" in " ".join(verdict.reasons)
