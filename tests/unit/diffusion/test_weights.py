"""The loss weights, against what their papers say they achieve."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivero.diffusion.preconditioning import clean_coefficients
from vivero.diffusion.weights import MAX_SNR, loss_weight


@given(sigma=st.floats(1e-3, 1e3), sigma_data=st.floats(0.1, 2))
def test_edm_weighs_the_networks_own_output_with_one(sigma: float, sigma_data: float):
    level = torch.tensor([sigma], dtype=torch.float64)
    out = clean_coefficients(level, sigma_data).out
    assert (loss_weight("edm", level, sigma_data) * out**2).item() == pytest.approx(1)


def test_min_snr_is_the_ratio_of_signal_to_noise_up_to_its_cap():
    sigma = torch.tensor([0.01, 0.5, 2.0, 10.0])
    expected = [MAX_SNR, 4.0, 0.25, 0.01]
    assert loss_weight("min_snr", sigma, 0.5).tolist() == pytest.approx(expected)


def test_uniform_weighs_every_level_alike():
    assert loss_weight("uniform", torch.tensor([0.1, 9.0]), 0.5).tolist() == [1.0, 1.0]
