"""The perceptual distance: with the packaged weights, which it reads and never trains."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vivero.errors import ExtractorError
from vivero.evaluation import efficientnet, perceptual
from vivero.evaluation.perceptual import perceptual_distance

CPU = torch.device("cpu")


def smooth_images(num_images: int = 2, num_channels: int = 3, size_px: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_images, num_channels, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(size_px, size_px), mode="bilinear")
    return 2 * fine - 1


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network():
    return efficientnet.load_network(efficientnet.checked_weights_path())


@pytest.fixture(scope="module")
def distance(network):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "load_network", lambda path: network)
        return perceptual_distance(CPU)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("size_px", [8, 28, 64])
def test_equal_images_are_at_no_distance(distance, num_channels: int, size_px: int):
    images = smooth_images(2, num_channels, size_px)
    got = distance(images, images.clone())
    assert got.shape == (2,)
    assert got.abs().max() < 1e-10


def test_each_image_has_its_own_distance(distance):
    images = smooth_images(3)
    others = images.clone()
    others[1] += 0.5 * noise(others[1].shape)
    together = distance(images, others)
    assert together[1] > 0.01
    assert together[[0, 2]].abs().max() < 1e-8
    assert distance(images[1:2], others[1:2]).item() == pytest.approx(together[1].item(), rel=1e-3)


def test_grows_with_noise_and_with_blur(distance):
    images = smooth_images(2) + 0.3 * noise((2, 3, 16, 16))
    by_noise = [distance(images, images + s * noise(images.shape)).mean() for s in (0.05, 0.2, 0.8)]
    assert by_noise == sorted(by_noise)
    blurred = [
        torch.nn.functional.avg_pool2d(images, size, stride=1, padding=size // 2) for size in (3, 5)
    ]
    by_blur = [distance(other, images).mean() for other in blurred]
    assert 0 < by_blur[0] < by_blur[1]


def test_is_the_formula_over_three_stages(distance, network):
    images, others = smooth_images(2, size_px=64), -smooth_images(2, size_px=64)
    expected = torch.zeros(2)
    seen: list[list[Tensor]] = []
    for each in (images, others):
        stages = network.forward_intermediates(each, indices=[0, 1, 2], intermediates_only=True)
        seen.append(stages)
    assert [stage.shape[2] for stage in seen[0]] == [32, 16, 8]
    for one, other in zip(*seen, strict=True):
        unit = [stage / stage.square().sum(dim=1, keepdim=True).sqrt() for stage in (one, other)]
        expected += (unit[0] - unit[1]).square().sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(distance(images, others), expected, rtol=1e-4, atol=1e-6)


def test_grey_images_are_seen_as_grey_colours(distance):
    images, others = smooth_images(2, 1), -smooth_images(2, 1)
    in_colour = distance(images.repeat(1, 3, 1, 1), others.repeat(1, 3, 1, 1))
    torch.testing.assert_close(distance(images, others), in_colour)


def test_the_gradient_flows_to_the_images_and_to_nothing_else(distance, network):
    images = smooth_images(2).requires_grad_()
    others = (smooth_images(2) + 0.2).requires_grad_()
    distance(images, others).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert bool(images.grad.flatten(1).any(dim=1).all())
    assert others.grad is None
    assert all(weights.grad is None for weights in network.parameters())


def test_the_features_are_frozen(distance, network):
    assert not network.training
    assert not any(weights.requires_grad for weights in network.parameters())
    before = {name: values.clone() for name, values in network.state_dict().items()}
    images = smooth_images(2).requires_grad_()
    distance(images, -smooth_images(2)).sum().backward()
    after = network.state_dict()
    assert all(torch.equal(values, after[name]) for name, values in before.items())


def test_a_step_along_the_gradient_brings_images_nearer(distance):
    target = smooth_images(2)
    images = (target + 0.3 * noise(target.shape)).requires_grad_()
    start = distance(images, target).sum()
    start.backward()
    with torch.no_grad():
        nearer = images - 0.01 * images.grad / images.grad.square().mean().sqrt()
    assert distance(nearer, target).sum() < start


def test_other_weights_than_the_known_ones_are_refused(tmp_path, monkeypatch):
    altered = tmp_path / "weights.pth"
    altered.write_bytes(np.zeros(8).tobytes())
    monkeypatch.setattr(efficientnet, "packaged_weights_path", lambda: altered)
    with pytest.raises(ExtractorError, match="should have sha256"):
        perceptual_distance(CPU)
