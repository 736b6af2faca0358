"""Errors of differences, against the bootstrap over pairs and repeated draws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivero.evaluation.frechet import frechet_distance, frechet_influence, moments
from vivero.evaluation.paired import paired_error, unpaired_error

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
