"""The tests behind drift, against scipy and against their own promise without a change."""

import numpy as np
import pytest
import torch
from scipy import stats

from vivero.evaluation.drift import judged
from vivero.evaluation.drift_statistics import (
    TestResult,
    classifier_test,
    component_distances,
    component_test,
    discrepancy_test,
    label_test,
    outlier_test,
    total_variation,
)


def sides(num_reference: int, num_current: int) -> torch.Tensor:
    return torch.arange(num_reference + num_current) >= num_reference


def test_the_distances_are_those_of_scipy_also_with_ties():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(150, 6))
    values[:, 3:] = values[:, 3:].round(1)
    values[:, 5] = 1.0
    is_current = sides(100, 50).numpy()
    expected = [stats.ks_2samp(v[is_current], v[~is_current]).statistic for v in values.T]
    np.testing.assert_allclose(component_distances(values, is_current), expected, atol=1e-12)


def test_the_p_values_of_components_are_those_of_scipy_corrected():
    values = torch.randn(400, 3, generator=torch.Generator().manual_seed(1)).double()
    values[300:, 0] += 0.5
    is_current = sides(300, 100)
    smallest, each = component_test(values, is_current)
    found = stats.ks_2samp(values[300:, 0].numpy(), values[:300, 0].numpy(), method="asymp").pvalue
    assert smallest.p_value == pytest.approx(3 * found)
    assert each[0].effect == smallest.effect


def test_outliers_are_a_matter_of_the_new_images_only():
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(500, 8, generator=generator)
    is_current = sides(400, 100)
    values[:10] *= 50
    assert outlier_test(values, is_current).p_value > 0.05
    values[400:410] *= 100
    found = outlier_test(values, is_current)
    assert found.p_value < 1e-3
    assert found.effect > 0.04


def test_outliers_keep_their_level():
    p_values = [
        outlier_test(
            torch.randn(300, 4, generator=torch.Generator().manual_seed(trial)), sides(200, 100)
        ).p_value
        for trial in range(400)
    ]
    assert np.mean(np.array(p_values) < 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_labels_agree_with_the_chi_square_of_scipy_where_it_holds():
    reference, current = np.array([300, 300, 400]), np.array([130, 80, 90])
    expected = stats.chi2_contingency(np.stack([reference, current])).pvalue
    found = label_test(reference, current, 9999, np.random.default_rng(0))
    assert found.p_value == pytest.approx(expected, abs=0.004)
    assert found.effect == pytest.approx(total_variation(reference, current))


def test_labels_keep_their_level_with_few_images_of_each_class():
    rng = np.random.default_rng(1)
    shares = np.array([0.5, 0.3, 0.1, 0.05, 0.05])
    p_values = [
        label_test(rng.multinomial(500, shares), rng.multinomial(30, shares), 199, rng).p_value
        for _ in range(400)
    ]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


@pytest.mark.parametrize("num_permutations", [1, 9, 199])
def test_a_permutation_p_value_counts_the_observed_division_too(num_permutations: int):
    """No random division of two sets that share nothing is as extreme: p is 1 / (1 + P), not 0."""
    labels = label_test(
        np.array([60, 0]), np.array([0, 60]), num_permutations, np.random.default_rng(0)
    )
    assert labels.p_value == pytest.approx(1 / (1 + num_permutations))
    generator = torch.Generator().manual_seed(0)
    apart = torch.randn(80, 3, generator=generator)
    apart[40:] += 8
    images, nulls = discrepancy_test(apart, sides(40, 40), num_permutations, generator)
    assert len(nulls) == num_permutations
    assert images.p_value == pytest.approx(1 / (1 + num_permutations))


def test_a_permutation_p_value_of_one_division_in_two_is_exact():
    """Two against two of four: a third of the divisions is this one or its mirror image."""
    pooled = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    generator = torch.Generator().manual_seed(0)
    found, nulls = discrepancy_test(pooled, sides(2, 2), 2999, generator)
    as_extreme = sum(null >= found.effect - 1e-9 for null in nulls)
    assert found.p_value == pytest.approx((1 + as_extreme) / 3000)
    assert found.p_value == pytest.approx(1 / 3, abs=0.03)


def test_equal_divisions_count_as_extreme_as_the_observed_one():
    """Every division of equal labels or equal images is this one: p is 1."""
    found = label_test(np.array([9, 0]), np.array([5, 0]), 19, np.random.default_rng(0))
    assert found.p_value == 1
    generator = torch.Generator().manual_seed(0)
    images, _ = discrepancy_test(torch.zeros(20, 2), sides(10, 10), 19, generator)
    assert images.p_value == 1


def test_the_p_value_of_outliers_is_that_of_fisher():
    values = torch.randn(500, 8, generator=torch.Generator().manual_seed(2))
    values[398:403] *= 50  # two of the reference and three current images are farthest
    found = outlier_test(values, sides(400, 100))
    expected = stats.fisher_exact([[3, 97], [2, 398]], alternative="greater").pvalue
    assert found.p_value == pytest.approx(expected)
    assert found.effect == pytest.approx(0.03 - 2 / 400)


def test_the_classifier_is_tried_on_images_that_it_has_not_seen():
    """With more inputs than images it learns any division by heart, and finds nothing new."""
    aucs = []
    for trial in range(20):
        generator = torch.Generator().manual_seed(trial)
        noise = torch.randn(120, 100, generator=generator, dtype=torch.float64)
        found, scores, is_current = classifier_test(noise, sides(60, 60), generator)
        assert len(scores) == len(is_current) == 60
        aucs.append(found.effect)
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.06)  # three of its own errors


def test_total_variation_is_the_share_that_would_have_to_move():
    assert total_variation(np.array([5, 5]), np.array([10, 0])) == pytest.approx(0.5)
    assert total_variation(np.array([5, 5]), np.array([50, 50])) == 0.0


@pytest.mark.parametrize(
    ("p_value", "effect", "is_alarm"), [(0.001, 0.3, True), (0.001, 0.1, False), (0.02, 0.3, False)]
)
def test_an_alarm_needs_p_and_effect_and_the_level_is_shared(p_value, effect, is_alarm):
    found = {
        "one": (TestResult(p_value, effect), 0.2),
        **{name: (TestResult(0.9, 0.0), 0.2) for name in ("two", "three", "four")},
    }
    assert judged(found, level=0.05)[0].is_alarm is is_alarm
    assert judged(found, level=0.05)[0].adjusted_p == pytest.approx(4 * p_value)
