"""Guidance: its formula, its interval, and the passes that it must not waste."""

import pytest
import torch
from torch import Tensor

from vivero.diffusion.guidance import Guided, GuidedTree
from vivero.diffusion.hierarchical import LevelEstimate
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.schedules import LinearSchedule

NULL = 3


class CountingDenoiser:
    """Gives noisy * (label + 1) * sigma and remembers the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(noisy))
        return noisy * ((labels + 1) * sigma)[:, None, None, None]


@pytest.fixture
def denoiser() -> CountingDenoiser:
    return CountingDenoiser()


@pytest.fixture
def noisy() -> Tensor:
    return torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, NULL])


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.5, 4.0])
def test_goes_from_no_class_past_the_class(denoiser, noisy, guidance):
    sigma = torch.full((4,), 2.0)
    got = Guided(denoiser, guidance, (0.0, 10.0), NULL)(noisy, sigma, LABELS)

    with_class = denoiser(noisy, sigma, LABELS)
    without_class = denoiser(noisy, sigma, torch.full_like(LABELS, NULL))
    expected = without_class + guidance * (with_class - without_class)
    assert torch.allclose(got, expected, atol=1e-5)


def test_acts_only_inside_its_interval(denoiser, noisy):
    sigma = torch.tensor([0.5, 1.0, 3.0, 1.0])
    got = Guided(denoiser, 2.0, (0.8, 2.0), NULL)(noisy, sigma, LABELS)

    assert denoiser.batches == [5]  # four images, and one of them again without its class
    plain = denoiser(noisy, sigma, LABELS)
    assert torch.equal(got[[0, 2, 3]], plain[[0, 2, 3]])
    assert not torch.allclose(got[1], plain[1])


def test_includes_the_ends_of_its_interval(denoiser, noisy):
    Guided(denoiser, 2.0, (1.0, 2.0), NULL)(noisy, torch.tensor([1.0, 2.0, 0.9, 2.1]), LABELS)
    assert denoiser.batches == [6]


@pytest.mark.parametrize(
    ("guidance", "sigma", "labels"),
    [(1.0, 1.0, LABELS), (2.0, 99.0, LABELS), (2.0, 1.0, torch.full((4,), NULL))],
    ids=["guidance 1", "outside the interval", "no class asked for"],
)
def test_wastes_no_pass(denoiser, noisy, guidance, sigma, labels):
    levels = torch.full((4,), sigma)
    got = Guided(denoiser, guidance, (0.0, 10.0), NULL)(noisy, levels, labels)

    assert denoiser.batches == [4]
    assert torch.equal(got, denoiser(noisy, levels, labels))


def test_class_and_no_class_share_one_batch(denoiser, noisy):
    Guided(denoiser, 2.0, (0.0, 10.0), NULL)(noisy[:3], torch.ones(3), LABELS[:3])
    assert denoiser.batches == [6]


class CountingTree:
    """Expects noisy * (label + 1) * sigma, and remembers the size of each batch."""

    def __init__(self, *, std_per_image: bool) -> None:
        self.scheduler = NoiseScheduler(LinearSchedule(), (0.2, 0.5), threshold=2.0)
        self.std_per_image = std_per_image
        self.batches: list[int] = []

    def at_level(self, noisy: Tensor, sigma: Tensor, labels: Tensor, level: int) -> LevelEstimate:
        self.batches.append(len(noisy))
        clean = noisy * ((labels + 1) * sigma)[:, None, None, None]
        if level == 0:
            return LevelEstimate(clean, None, None)
        std = (labels + 1.0)[:, None, None, None] if self.std_per_image else torch.ones(3, 1, 1)
        return LevelEstimate(clean, level + clean.repeat(1, 3, 1, 1).square(), std)


@pytest.mark.parametrize("std_per_image", [False, True])
def test_a_tree_is_guided_as_a_denoiser_is_in_details_too(noisy, std_per_image):
    tree = CountingTree(std_per_image=std_per_image)
    sigma = torch.tensor([0.5, 1.0, 3.0, 1.0])
    got = GuidedTree(tree, 2.0, (0.8, 2.0), NULL).at_level(noisy, sigma, LABELS, 1)

    assert tree.batches == [5]
    with_class = tree.at_level(noisy, sigma, LABELS, 1)
    without_class = tree.at_level(noisy, sigma, torch.full_like(LABELS, NULL), 1)
    for name in ("clean", "details"):
        expected = getattr(with_class, name).clone()
        expected[1] += getattr(with_class, name)[1] - getattr(without_class, name)[1]
        assert torch.allclose(getattr(got, name), expected)
    assert torch.equal(got.details_std, with_class.details_std)
    usual = Guided(CountingDenoiser(), 2.0, (0.8, 2.0), NULL)(noisy, sigma, LABELS)
    assert torch.allclose(got.clean, usual)


@pytest.mark.parametrize(
    "labels", [[1, NULL], [0, NULL, NULL], [0, 1, NULL]], ids=["B + G = 3", "B + G = 4", "5"]
)
def test_a_deviation_that_images_share_is_not_cut_whatever_their_number(noisy, labels):
    tree, num_images = CountingTree(std_per_image=False), len(labels)
    guided = GuidedTree(tree, 2.0, (0.0, 9.0), NULL)
    got = guided.at_level(noisy[:num_images], torch.ones(num_images), torch.tensor(labels), 1)
    assert got.details_std.shape == (3, 1, 1)
    assert got.details.shape == (num_images, 3, 2, 2)


def test_a_tree_has_no_details_to_guide_at_the_finest_level(noisy):
    tree = CountingTree(std_per_image=True)
    got = GuidedTree(tree, 2.0, (0.0, 9.0), NULL).at_level(noisy, torch.ones(4), LABELS, 0)
    assert got.details is None
    assert got.details_std is None
    assert tree.batches == [7]


@pytest.mark.parametrize(
    ("guidance", "sigma"), [(1.0, 1.0), (2.0, 99.0)], ids=["guidance 1", "outside the interval"]
)
def test_a_tree_that_is_not_guided_is_asked_once(noisy, guidance, sigma):
    tree = CountingTree(std_per_image=True)
    guided = GuidedTree(tree, guidance, (0.0, 10.0), NULL)
    guided.at_level(noisy, torch.full((4,), sigma), LABELS, 1)
    assert tree.batches == [4]
    assert guided.scheduler is tree.scheduler
