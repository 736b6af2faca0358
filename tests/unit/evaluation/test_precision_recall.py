"""Precision, recall, density and coverage, against the package of their authors."""

import contextlib
import io

import pytest
import torch
from prdc import compute_prdc
from scipy.spatial.distance import cdist

from vivero.errors import NotComputableError
from vivero.evaluation.precision_recall import (
    distances_between,
    neighbour_radii,
    neighbourhoods,
)


def drawn(seed: int, num_images: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, 5, generator=generator) + shift


@pytest.mark.parametrize("num_neighbours", [1, 3, 5])
def test_equals_prdc(num_neighbours: int):
    real, made = drawn(0, 120), 0.7 * drawn(1, 90, shift=0.6)
    with contextlib.redirect_stdout(io.StringIO()):
        expected = compute_prdc(real.numpy(), made.numpy(), nearest_k=num_neighbours)
    got = neighbourhoods(made, real, num_neighbours)
    for name, value in expected.items():
        assert getattr(got, name).value == pytest.approx(value, abs=1e-9), name


def test_distances_are_those_of_scipy():
    first, second = drawn(0, 30), drawn(1, 20, shift=2.0)
    got = distances_between(first, second).numpy()
    assert got == pytest.approx(cdist(first.numpy(), second.numpy()), abs=1e-5)


def test_the_radius_reaches_to_the_kth_other_image():
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_radii(rows, 1).tolist() == pytest.approx([1, 1, 2, 4])
    assert neighbour_radii(rows, 2).tolist() == pytest.approx([3, 2, 3, 6])


def test_far_away_images_have_no_precision_and_no_recall():
    got = neighbourhoods(drawn(0, 30, shift=100.0), drawn(1, 30), 3)
    assert (got.precision.value, got.recall.value) == (0.0, 0.0)
    assert (got.density.value, got.coverage.value) == (0.0, 0.0)
    assert got.precision.high > 0


def test_too_few_images_for_the_neighbours_are_refused():
    with pytest.raises(NotComputableError, match="more than as many images; got 5"):
        neighbour_radii(drawn(0, 5), 5)
