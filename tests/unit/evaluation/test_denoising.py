"""Denoising loss by noise level, against the exact error of a known denoiser."""

import pytest
import torch

from vivero.evaluation.denoising import NoiseBank, loss_by_noise_level, noise_levels


def bank(num_images: int = 400) -> NoiseBank:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(num_images, 1, 4, 4, generator=generator)
    return NoiseBank(
        clean, torch.zeros(num_images, dtype=torch.int64), noise_levels(3, 0.1, 10.0), 7
    )


def posterior_mean(noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The best denoiser of standard normal images."""
    return noisy / (1 + sigma**2)[:, None, None, None]


def test_the_best_denoiser_of_gaussians_has_its_known_error():
    for found in loss_by_noise_level(posterior_mean, torch.ones_like, bank()):
        exact = found.sigma**2 / (1 + found.sigma**2)
        assert found.loss.low - 0.02 * exact < exact < found.loss.high + 0.02 * exact


def test_no_denoiser_beats_the_best_one():
    def worse(noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 0.9 * posterior_mean(noisy, sigma, labels)

    best = loss_by_noise_level(posterior_mean, torch.ones_like, bank())
    other = loss_by_noise_level(worse, torch.ones_like, bank())
    for one, two in list(zip(best, other, strict=True))[:2]:  # at sigma 10 both know nothing
        assert one.loss.value < two.loss.value


def test_the_weight_multiplies():
    plain = list(loss_by_noise_level(posterior_mean, torch.ones_like, bank()))
    weighted = list(loss_by_noise_level(posterior_mean, lambda s: 2 / s**2, bank()))
    for one, two in zip(plain, weighted, strict=True):
        assert two.loss.value == pytest.approx(2 / one.sigma**2 * one.loss.value, rel=1e-5)


def test_the_bank_is_fixed_by_its_seed_and_differs_between_levels():
    assert torch.equal(bank().noise(1), bank().noise(1))
    assert not torch.equal(bank().noise(1), bank().noise(2))


def test_levels_are_even_in_the_logarithm():
    levels = noise_levels(5, 0.01, 80.0)
    assert levels.log().diff().std() < 1e-5
    assert levels[[0, -1]].tolist() == pytest.approx([0.01, 80], rel=1e-4)
