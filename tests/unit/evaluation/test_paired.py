"""Errors of differences, against the bootstrap over pairs and repeated draws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivero.evaluation.frechet import frechet_distance, frechet_influence, moments
from vivero.evaluation.paired import Gain, add_seed_variance, paired_error, unpaired_error
from vivero.evaluation.spread import SeedSpread

D = 6


def two_models(seed: int, num_images: int = 1500) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two models on the same noise: most of an image is common to both."""
    generator = torch.Generator().manual_seed(seed)
    noise, one, two = torch.randn(3, num_images, D, generator=generator)
    return noise + 0.4 * one + 0.3, 1.05 * noise + 0.4 * two + 0.25


def reference() -> torch.Tensor:
    return torch.randn(3000, D, generator=torch.Generator().manual_seed(99))


def test_influences_give_the_error_of_a_difference_of_distances_as_a_paired_bootstrap_does():
    ours, theirs = two_models(0)
    real = moments(reference())
    influences = [frechet_influence(rows, real).values.numpy() for rows in (ours, theirs)]
    generator = torch.Generator().manual_seed(1)
    differences = []
    for _ in range(300):
        rows = torch.randint(len(ours), (len(ours),), generator=generator)
        pair = [frechet_distance(moments(side[rows]), real) for side in (ours, theirs)]
        differences.append(pair[1] - pair[0])
    bootstrap = float(np.std(differences, ddof=1))

    assert paired_error(*influences) == pytest.approx(bootstrap, rel=0.15)  # 3.7 of its own errors
    alone = [float(row.std(ddof=1)) / len(row) ** 0.5 for row in influences]
    assert unpaired_error(*alone, len(ours), len(ours)) > 2 * bootstrap


def test_the_references_images_have_their_share_which_nearly_cancels():
    ours, theirs = two_models(0)
    real = reference()
    influences = [frechet_influence(real, moments(rows)).values.numpy() for rows in (ours, theirs)]
    generator = torch.Generator().manual_seed(1)
    differences = []
    for _ in range(300):
        drawn = moments(real[torch.randint(len(real), (len(real),), generator=generator)])
        pair = [frechet_distance(moments(side), drawn) for side in (ours, theirs)]
        differences.append(pair[1] - pair[0])
    error = paired_error(*influences)
    assert error == pytest.approx(float(np.std(differences, ddof=1)), rel=0.15)
    alone = [float(row.std(ddof=1)) / len(row) ** 0.5 for row in influences]
    assert error < 0.5 * min(alone)


@given(seed=st.integers(0, 9999), agree=st.floats(0.5, 0.99))
def test_shares_have_the_error_of_their_difference(seed: int, agree: float):
    rng = np.random.default_rng(seed)
    ours = rng.random(2000) < 0.9
    theirs = np.where(rng.random(2000) < agree, ours, ~ours)
    plain = (ours.astype(float) - theirs).std(ddof=1) / 2000**0.5
    assert paired_error(ours, theirs) == pytest.approx(plain, rel=0.05)


def test_two_shares_of_nothing_are_not_known_exactly():
    none = np.zeros(500, dtype=np.bool_)
    assert paired_error(none, none) == pytest.approx(1 / 501)
    assert unpaired_error(0.0, 0.0, 500, 500) == pytest.approx(0.5 * 2**0.5 / 500)


def test_equal_values_leave_no_error_and_unlike_rows_are_refused():
    values = np.arange(5.0)
    assert paired_error(values, values) == 0
    with pytest.raises(ValueError, match=r"equal rows.*\(5,\), \(4,\)"):
        paired_error(values, values[:4])


SPREAD = SeedSpread({0: 97.0, 1: 99.0, 2: 100.0, 3: 101.0, 4: 103.0}, evaluation_error=1.0)


def test_the_error_of_a_gain_covers_the_seeds_of_both_trainings():
    gain = add_seed_variance(Gain(10.0, 1.5, 5000, is_paired=True), 90.0, 100.0, SPREAD)
    observed = np.var(list(SPREAD.values.values()), ddof=1) / 100**2
    between = observed - 0.01**2
    scale = 90.0**2 + 100.0**2
    assert gain.std_error == pytest.approx((1.5**2 + between * scale) ** 0.5)
    freedom = 4 * (gain.std_error**2 / (observed * scale)) ** 2
    assert gain.degrees_of_freedom == pytest.approx(freedom)
    assert (gain.value, gain.n, gain.is_paired) == (10.0, 5000, True)


def test_without_a_spread_the_error_stays_that_of_the_images():
    gain = Gain(10.0, 1.5, 5000, is_paired=True)
    assert add_seed_variance(gain, 90.0, 100.0, SeedSpread({0: 1.0, 1: 1.0})) == gain


def test_few_seeds_ask_for_more_than_the_normal_quantile():
    alone = Gain(10.0, 0.0, 5000, is_paired=True)
    gain = add_seed_variance(alone, 100.0, 100.0, SeedSpread(SPREAD.values))
    assert gain.degrees_of_freedom == pytest.approx(4)
    assert gain.quantile(0.995) == pytest.approx(
        4.604, abs=1e-3
    )  # of printed tables of Student's t
    assert alone.quantile(0.995) == pytest.approx(2.576, abs=1e-3)
    assert gain.probability(-4.604 * gain.std_error) == pytest.approx(0.005, abs=1e-5)


def test_a_spread_that_its_seeds_cannot_resolve_counts_as_one_degree_of_freedom():
    """All of the seeds' spread was noise of their images; this pair has almost none of it."""
    hidden = SeedSpread(SPREAD.values, evaluation_error=50.0)
    gain = add_seed_variance(Gain(10.0, 0.01, 5000, is_paired=True), 100.0, 100.0, hidden)
    assert gain.std_error == pytest.approx(0.01)
    assert gain.degrees_of_freedom == 1.0
    assert gain.quantile(0.995) == pytest.approx(63.66, abs=0.01)


@pytest.mark.parametrize(("num_seeds", "evaluation"), [(3, 0.0), (6, 0.0), (6, 1.0), (6, 3.0)])
def test_of_equal_retrains_as_many_gain_beyond_the_level_as_it_says(
    num_seeds: int, evaluation: float
):
    """Both trainings and the seeds of the spread are drawn from one recipe, 10,000 times."""
    level, sigma, trials = 0.025, 0.02, 10_000
    rng = np.random.default_rng(0)
    values = 100 * (1 + sigma * rng.normal(size=(trials, num_seeds + 2)))
    values += evaluation * rng.normal(size=values.shape)
    beyond = 0
    for ours, theirs, *others in values:
        spread = SeedSpread(dict(enumerate(others)), evaluation)
        images = Gain(theirs - ours, evaluation * 2**0.5, 5000, is_paired=True)
        gain = add_seed_variance(images, ours, theirs, spread)
        beyond += gain.value > gain.quantile(1 - level) * gain.std_error
    share, error = beyond / trials, (level / trials) ** 0.5
    assert share < level + 4 * error
    # Where the images hide the seeds, sigma_seed^2 is cut at 0, which errs on the careful side.
    assert share > (level - 4 * error if evaluation < sigma * 100 else level / 2)
