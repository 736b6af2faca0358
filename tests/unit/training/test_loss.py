import pytest
import torch

from tests.unit.training.tiny_run import tiny_train_config
from vivero.training.loss import build_objective, denoising_loss, kept_labels
from vivero.training.randomness import NoiseDraw


def a_draw(num_images: int = 4) -> NoiseDraw:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(num_images, 1, 4, 4, generator=generator)
    return NoiseDraw(noise, torch.rand(num_images, generator=generator) + 0.1, torch.zeros(0))


def test_is_the_weighted_error_of_each_image():
    clean, draw, labels = torch.randn(4, 1, 4, 4), a_draw(), torch.arange(4)
    got = denoising_loss(lambda noisy, *_: noisy, lambda sigma: 1 / sigma, clean, labels, draw)
    # Nothing is removed, so the error is the noise itself: sigma^2 mean(noise^2) / sigma.
    expected = [
        float(s) * n.square().mean().item() for s, n in zip(draw.sigma, draw.noise, strict=True)
    ]
    assert got.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_perfect_denoiser_has_no_loss():
    clean = torch.randn(4, 1, 4, 4)
    losses = denoising_loss(lambda *_: clean, torch.ones_like, clean, torch.arange(4), a_draw())
    assert losses.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("parameterisation", ["noise", "velocity", "clean"])
@pytest.mark.parametrize("loss_weight", ["edm", "min_snr", "uniform"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "karras"])
def test_every_parameterisation_learns_from_every_schedule(parameterisation, loss_weight, schedule):
    config = tiny_train_config()
    diffusion = config.diffusion.model_copy(
        update={
            "parameterisation": parameterisation,
            "loss_weight": loss_weight,
            "schedule": schedule,
        }
    )
    objective = build_objective(config.model_copy(update={"diffusion": diffusion}), 3)
    scale = torch.zeros((), requires_grad=True)
    denoise = objective.denoiser(lambda scaled, *_: scale * scaled)
    clean = torch.randn(4, 1, 4, 4)
    losses = denoising_loss(denoise, objective.weight, clean, torch.arange(4), a_draw())
    losses.mean().backward()
    assert losses.shape == (4,)
    assert scale.grad is not None
    assert bool(torch.isfinite(scale.grad))


def test_dropped_and_missing_labels_become_the_null_label():
    labels = torch.tensor([2, -1, 1, 0])
    is_unlabelled = torch.tensor([False, False, True, False])
    assert kept_labels(labels, is_unlabelled, 3).tolist() == [2, 3, 3, 0]
