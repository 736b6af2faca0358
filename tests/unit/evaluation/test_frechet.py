"""The Frechet distance, against clean-fid's own, closed forms, and repeated draws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivero.errors import NotComputableError
from vivero.evaluation.frechet import Moments, frechet_distance, frechet_estimate, moments


def drawn(seed: int, num_images: int = 300, num_features: int = 12, shift: float = 0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_features, num_features, generator=generator)
    return torch.randn(num_images, num_features, generator=generator) @ mixing + shift


def rotation(seed: int, num_features: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(num_features, num_features, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square).Q


@pytest.mark.filterwarnings("ignore:The `disp` argument is deprecated:DeprecationWarning")
def test_equals_the_distance_of_clean_fid():
    from vivero.evaluation.torchvision_door import open_torchvision_door

    open_torchvision_door()
    from cleanfid.fid import frechet_distance as clean_fid_distance

    first, second = moments(drawn(0)), moments(drawn(1, shift=0.3))
    expected = clean_fid_distance(
        first.mean.numpy(), first.covariance.numpy(), second.mean.numpy(), second.covariance.numpy()
    )
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    got = frechet_estimate(drawn(1, shift=0.3), first)
    assert got.value == pytest.approx(expected, rel=1e-9)


def test_moments_are_those_of_numpy():
    features = drawn(3)
    got = moments(features)
    rows = features.double().numpy()
    np.testing.assert_allclose(got.mean.numpy(), rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(got.covariance.numpy(), np.cov(rows, rowvar=False), rtol=1e-10)


def test_in_one_dimension_it_is_the_gap_of_means_and_of_deviations():
    first = Moments(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    second = Moments(torch.tensor([4.0]).double(), torch.tensor([[9.0]]).double())
    assert frechet_distance(first, second) == pytest.approx(3.0**2 + (3 - 2) ** 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_is_zero_to_itself_symmetric_and_blind_to_motion(seed: int):
    first, second = drawn(seed).double(), drawn(seed + 1, shift=0.5).double()
    distance = frechet_distance(moments(first), moments(second))
    scale = float(moments(first).covariance.trace())
    turn, shift = rotation(seed), torch.full((12,), 7.0).double()

    assert abs(frechet_distance(moments(first), moments(first))) < 1e-7 * scale
    assert frechet_distance(moments(second), moments(first)) == pytest.approx(distance, rel=1e-6)
    moved = frechet_distance(moments(first @ turn + shift), moments(second @ turn + shift))
    assert moved == pytest.approx(distance, rel=1e-6)


def test_its_standard_error_is_the_spread_over_repeated_draws():
    reference = moments(drawn(0, num_images=4000))
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(5))
    estimates = []
    for seed in range(200):
        noise = torch.randn(600, 12, generator=torch.Generator().manual_seed(1000 + seed))
        estimates.append(frechet_estimate(noise @ mixing + 0.2, reference))
    spread = float(np.std([e.value for e in estimates], ddof=1))
    mean_error = float(np.mean([e.std_error for e in estimates]))
    centre = float(np.mean([e.value for e in estimates]))
    coverage = np.mean([e.low <= centre <= e.high for e in estimates])

    assert mean_error == pytest.approx(spread, rel=0.15)
    assert coverage >= 0.9


def test_fewer_images_than_features_still_give_a_finite_interval():
    reference = moments(drawn(0))
    got = frechet_estimate(drawn(1, num_images=5), reference)
    assert all(math.isfinite(v) for v in (got.value, got.low, got.high, got.std_error))
    assert 0 <= got.low <= got.value <= got.high


def test_one_image_has_no_covariance():
    with pytest.raises(NotComputableError, match="at least 2 images; got 1"):
        moments(torch.zeros(1, 3))


def test_where_the_quick_eigenvalues_give_up_the_sure_ones_find_the_same_root(
    monkeypatch: pytest.MonkeyPatch,
):
    few = drawn(4, num_images=5)  # 8 of 12 eigenvalues are 0
    quick, quick_distance = moments(few).root, frechet_estimate(drawn(5), moments(few)).value

    def gives_up(_matrix: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    sure = moments(few).root
    torch.testing.assert_close(sure, quick, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(sure @ sure, moments(few).covariance)
    assert frechet_estimate(drawn(5), moments(few)).value == pytest.approx(quick_distance)
