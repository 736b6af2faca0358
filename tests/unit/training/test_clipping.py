"""Gradient clipping against torch and timm."""

import pytest
import torch
from torch import nn

from tests.unit.training.tiny_run import tiny_train_config
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.training.clipping import clip_adaptively, clip_gradients


def layers_with_gradients(scale: float) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 1, bias=False))
    for weight in layers.parameters():
        weight.grad = scale * torch.randn_like(weight)
    return layers


def gradients(layers: nn.Module) -> list[torch.Tensor]:
    return [weight.grad for weight in layers.parameters()]


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_global_clipping_is_that_of_torch(scale: float):
    ours, theirs = layers_with_gradients(scale), layers_with_gradients(scale)
    config = tiny_train_config(gradient_clipping="global", max_gradient_norm=0.7)
    norm = clip_gradients(list(ours.parameters()), config)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs.parameters(), 0.7))
    assert all(map(torch.equal, gradients(ours), gradients(theirs)))


@pytest.mark.parametrize("scale", [1e-4, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("max_ratio", [0.01, 0.02, 0.5])
def test_adaptive_clipping_is_that_of_timm(scale: float, max_ratio: float):
    open_torchvision_door()
    from timm.utils.agc import adaptive_clip_grad

    ours, theirs = layers_with_gradients(scale), layers_with_gradients(scale)
    clip_adaptively(ours.parameters(), max_ratio)
    adaptive_clip_grad(theirs.parameters(), clip_factor=max_ratio, eps=1e-3)
    for got, expected in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


def test_adaptive_clipping_holds_each_row_to_its_own_weights():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    weight.grad = torch.tensor([[0.3, 0.4], [0.3, 0.4]])
    clip_adaptively([weight], 0.1)
    assert weight.grad[0].tolist() == pytest.approx([0.3, 0.4])  # norm 0.5 = 0.1 * 5
    assert weight.grad[1].tolist() == pytest.approx([0.03, 0.04])  # norm 0.5 > 0.1 * 0.5


@pytest.mark.parametrize("clipping", ["global", "adaptive", "none"])
def test_what_is_reported_is_the_norm_before(clipping: str):
    layers = layers_with_gradients(100.0)
    before = torch.cat([gradient.flatten() for gradient in gradients(layers)]).norm()
    config = tiny_train_config(gradient_clipping=clipping)
    norm = clip_gradients(list(layers.parameters()), config)
    after = torch.cat([gradient.flatten() for gradient in gradients(layers)]).norm()
    assert float(norm) == pytest.approx(float(before))
    assert (after < before) == (clipping != "none")
