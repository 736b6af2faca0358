"""The U-Net: its size, its shapes, and what it must and must not depend on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vivero.config.schema import Config
from vivero.models.build import build_model

LABELS = torch.tensor([0, 2])
NOISE_CONDITION = torch.tensor([-0.5, 0.7])


@pytest.fixture(scope="module")
def tiny_config(config_factory: Callable[..., Config]) -> Config:
    return config_factory({"train.model.name": "unet"})


def images(num_channels: int, size_px: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, num_channels, size_px, size_px, generator=generator)


def woken(network: nn.Module) -> nn.Module:
    """Move all weights off zero, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.05 * torch.randn(weights.shape, generator=generator))
    return network


def test_the_default_network_has_less_than_three_million_parameters(params, config_factory):
    defaults = {f"train.model.{name}": value for name, value in params["train"]["model"].items()}
    network = build_model(config_factory(defaults).train.model, 1, 10, 28)
    assert sum(weights.numel() for weights in network.parameters()) < 3_000_000


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize(
    ("patch_px", "channels", "size_px"),
    [(1, [8], 7), (1, [8, 16], 14), (2, [8, 16], 28), (2, [8, 16, 24], 16), (4, [8, 8], 24)],
)
def test_gives_images_of_the_shape_it_took(
    config_factory, num_channels, patch_px, channels, size_px
):
    config = config_factory(
        {"train.model.patch_px": patch_px, "train.model.channels": channels}
        | {"train.model.name": "unet", "prepare_data.image_size_px": 48}
    ).train.model
    network = woken(build_model(config, num_channels, 3, size_px))
    got = network(images(num_channels, size_px), NOISE_CONDITION, LABELS)
    assert got.shape == (2, num_channels, size_px, size_px)
    assert got.isfinite().all()


def test_a_new_network_predicts_nothing(tiny_config):
    network = build_model(tiny_config.train.model, 1, 3, 16)
    assert network(images(1, 16), NOISE_CONDITION, LABELS).abs().max() == 0


def test_images_labels_and_noise_all_matter(tiny_config):
    network = woken(build_model(tiny_config.train.model, 1, 3, 16))
    start = network(images(1, 16), NOISE_CONDITION, LABELS)
    for other in (
        network(-images(1, 16), NOISE_CONDITION, LABELS),
        network(images(1, 16), NOISE_CONDITION + 0.5, LABELS),
        network(images(1, 16), NOISE_CONDITION, torch.tensor([1, 3])),
    ):
        assert not torch.allclose(start, other, atol=1e-3)


def test_every_weight_learns(tiny_config):
    network = woken(build_model(tiny_config.train.model, 1, 3, 16))
    network(images(1, 16), NOISE_CONDITION, LABELS).square().mean().backward()
    still = [
        name
        for name, weights in network.named_parameters()
        if weights.grad is None or not bool(weights.grad.any())
    ]
    assert still == []


def test_images_of_a_batch_do_not_mix(tiny_config):
    network = woken(build_model(tiny_config.train.model, 1, 3, 16)).eval()
    together = network(images(1, 16), NOISE_CONDITION, LABELS)
    alone = network(images(1, 16)[1:], NOISE_CONDITION[1:], LABELS[1:])
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_without_classes_the_only_label_is_none(tiny_config):
    network = woken(build_model(tiny_config.train.model, 1, 0, 16))
    nobody = torch.zeros(2, dtype=torch.int64)
    assert network(images(1, 16), NOISE_CONDITION, nobody).shape == (2, 1, 16, 16)
    with pytest.raises(IndexError):
        network(images(1, 16), NOISE_CONDITION, nobody + 1)


def test_without_attention_it_still_works(config_factory):
    config = config_factory(
        {"train.model.name": "unet", "train.model.attention_heads": 0}
    ).train.model
    network = build_model(config, 1, 3, 16)
    assert not any("attention" in name for name in network.state_dict())
    assert network(images(1, 16), NOISE_CONDITION, LABELS).shape == (2, 1, 16, 16)


@pytest.mark.parametrize("size_px", [0, 18, 30])
def test_refuses_a_size_that_does_not_fit(tiny_config, size_px: int):
    with pytest.raises(ValueError, match=f"must be a multiple of 4 .*got {size_px}"):
        build_model(tiny_config.train.model, 1, 3, size_px)


@pytest.mark.parametrize("shape", [(2, 1, 20, 20), (2, 3, 16, 16), (2, 1, 16, 20)])
def test_refuses_images_of_another_shape(tiny_config, shape):
    network = build_model(tiny_config.train.model, 1, 3, 16)
    with pytest.raises(ValueError, match=r"takes images of shape .*\(1, 16, 16\); got"):
        network(torch.zeros(shape), NOISE_CONDITION, LABELS)


def test_the_same_seed_gives_the_same_weights(tiny_config):
    def weights() -> dict[str, Tensor]:
        torch.manual_seed(11)
        return build_model(tiny_config.train.model, 1, 3, 16).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)
