"""What a network's output means, against the definitions of noise, velocity and EDM."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, EDMDPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vivero.diffusion.preconditioning import Denoiser, band_coefficients, coefficients_of

SIGMAS = torch.tensor([0.01, 0.3, 1.0, 20.0], dtype=torch.float64)
LABELS = torch.zeros(4, dtype=torch.int64)


def images(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 5, 5, generator=generator, dtype=torch.float64)


def test_a_perfect_noise_prediction_gives_the_clean_image():
    clean, noise = images(0), images(1)
    denoiser = Denoiser(lambda x, c, y: noise, "noise", sigma_data=0.5, null_label=0)
    noisy = clean + SIGMAS[:, None, None, None] * noise
    assert torch.allclose(denoiser(noisy, SIGMAS, LABELS), clean)


def test_a_perfect_velocity_prediction_gives_the_clean_image():
    clean, noise = images(0), images(1)
    alpha_bar = (1 / (1 + SIGMAS**2))[:, None, None, None]
    velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    denoiser = Denoiser(lambda x, c, y: velocity, "velocity", sigma_data=0.5, null_label=0)
    noisy = clean + SIGMAS[:, None, None, None] * noise
    assert torch.allclose(denoiser(noisy, SIGMAS, LABELS), clean)


@pytest.mark.parametrize(
    ("name", "prediction_type"), [("noise", "epsilon"), ("velocity", "v_prediction")]
)
def test_noise_and_velocity_mean_what_diffusers_means(name, prediction_type):
    scheduler = DDIMScheduler(
        beta_schedule="linear", prediction_type=prediction_type, clip_sample=False
    )
    scheduler.set_timesteps(1000)
    output, noisy_vp = images(2).float(), images(3).float()
    for timestep in (5, 500, 999):
        alpha_bar = scheduler.alphas_cumprod[timestep]
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt().expand(4)
        step = scheduler.step(output, timestep, noisy_vp)
        denoiser = Denoiser(lambda x, c, y: output, name, sigma_data=0.5, null_label=0)
        got = denoiser(noisy_vp / alpha_bar.sqrt(), sigma, LABELS)
        assert torch.allclose(got, step.pred_original_sample, rtol=1e-3, atol=1e-3)


def test_clean_is_the_preconditioning_of_edm_in_diffusers():
    oracle = EDMDPMSolverMultistepScheduler(sigma_data=0.7)
    seen: dict[str, Tensor] = {}

    def network(scaled_input: Tensor, noise_condition: Tensor, labels: Tensor) -> Tensor:
        seen.update(scaled_input=scaled_input, noise_condition=noise_condition)
        return torch.tanh(scaled_input)

    noisy = images(4) * 3
    denoised = Denoiser(network, "clean", sigma_data=0.7, null_label=0)(noisy, SIGMAS, LABELS)
    for row, sigma in enumerate(SIGMAS):
        expected = oracle.precondition_inputs(noisy[row], sigma)
        assert torch.allclose(seen["scaled_input"][row], expected)
        assert seen["noise_condition"][row].item() == pytest.approx(0.25 * math.log(sigma))
        expected = oracle.precondition_outputs(noisy[row], torch.tanh(expected), sigma)
        assert torch.allclose(denoised[row], expected)


@given(sigma=st.floats(1e-3, 1e3), sigma_data=st.floats(0.1, 2))
def test_what_edm_asks_of_the_network_has_unit_variance(sigma: float, sigma_data: float):
    denoiser = Denoiser(lambda x, c, y: x, "clean", sigma_data, null_label=0)
    scale = denoiser.coefficients(torch.tensor([sigma], dtype=torch.float64))
    skip, out, into = scale.skip.item(), scale.out.item(), scale.into.item()

    assert into**2 * (sigma**2 + sigma_data**2) == pytest.approx(1)
    target_variance = ((1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2) / out**2
    assert target_variance == pytest.approx(1)


@pytest.mark.parametrize("name", ["noise", "velocity", "clean"])
@given(sigma=st.floats(1e-3, 1e3), std=st.floats(0.01, 10))
def test_a_band_is_read_in_its_own_units(name, sigma: float, std: float):
    level = torch.tensor([sigma], dtype=torch.float64)
    of_band, of_unit = band_coefficients(name, level, std), coefficients_of(name, level / std, 1.0)
    assert of_band.into.item() == pytest.approx(of_unit.into.item() / std)
    assert of_band.out.item() == pytest.approx(of_unit.out.item() * std)
    assert of_band.skip.item() == pytest.approx(of_unit.skip.item())


@pytest.mark.parametrize("name", ["noise", "velocity", "clean"])
@given(sigma=st.floats(1e-3, 1e3), std=st.floats(0.01, 10))
def test_what_is_asked_of_a_network_about_a_band_has_unit_variance(name, sigma: float, std: float):
    scale = band_coefficients(name, torch.tensor([sigma], dtype=torch.float64), std)
    skip, out, into = scale.skip.item(), scale.out.item(), scale.into.item()

    assert into**2 * (sigma**2 + std**2) == pytest.approx(1)
    target_variance = ((1 - skip) ** 2 * std**2 + skip**2 * sigma**2) / out**2
    assert target_variance == pytest.approx(1)


def test_the_denoised_image_keeps_the_precision_of_the_noisy_one():
    def network(scaled_input: Tensor, noise_condition: Tensor, labels: Tensor) -> Tensor:
        return scaled_input.to(torch.bfloat16)

    denoiser = Denoiser(network, "clean", sigma_data=0.5, null_label=0)
    assert denoiser(images(0).float(), SIGMAS.float(), LABELS).dtype == torch.float32
