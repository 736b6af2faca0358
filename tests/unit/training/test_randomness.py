"""Noise as a function of (seed, purpose, clock), the same however a batch is shared out."""

import pytest
import torch

from vivero.training.randomness import LOT_IMAGES, Moment, NoiseDraw, draw_noise, generator_at

TRAIN = Moment(0, "train", 64)


def drawn(moment: Moment = TRAIN, num_images: int = 1000, images: slice | None = None) -> NoiseDraw:
    rows = images or slice(0, num_images)
    return draw_noise(moment, (num_images, 1, 4, 4), rows, lambda uniform: uniform, 0.1)


def test_same_moment_same_noise():
    first, second = drawn(), drawn()
    assert torch.equal(first.noise, second.noise)
    assert torch.equal(first.sigma, second.sigma)
    assert torch.equal(first.is_unlabelled, second.is_unlabelled)


@pytest.mark.parametrize(
    "other", [Moment(1, "train", 64), Moment(0, "train", 128), Moment(0, "validation", 64)]
)
def test_other_moments_have_other_noise(other: Moment):
    first, second = drawn(), drawn(other)
    assert not torch.equal(first.noise, second.noise)
    assert not torch.equal(first.sigma, second.sigma)


def test_purposes_have_noise_of_their_own():
    moments = [Moment(0, purpose, 0) for purpose in ("train", "validation")]
    assert not torch.equal(*(torch.randn(4, generator=generator_at(moment)) for moment in moments))


def test_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    drawn()
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_normal_and_labels_drop_at_their_rate():
    draw = drawn(num_images=5000)
    assert draw.noise.mean().item() == pytest.approx(0, abs=0.01)
    assert draw.noise.std().item() == pytest.approx(1, abs=0.01)
    assert draw.is_unlabelled.float().mean().item() == pytest.approx(0.1, abs=0.015)


def test_no_two_images_of_a_batch_have_the_same_noise():
    noise = drawn(num_images=5 * LOT_IMAGES).noise.flatten(1)
    assert len(noise.unique(dim=0)) == 5 * LOT_IMAGES


def test_noise_levels_are_stratified_in_random_order():
    uniform = drawn(num_images=100).sigma
    assert (uniform.sort().values * 100).floor().tolist() == list(range(100))
    assert not torch.equal(uniform, uniform.sort().values)


@pytest.mark.parametrize(("num_images", "num_parts"), [(8, 2), (48, 2), (48, 6), (96, 4), (40, 8)])
def test_the_draws_of_all_workers_are_the_joint_draw(num_images: int, num_parts: int):
    joint, size = drawn(num_images=num_images), num_images // num_parts
    parts = [
        drawn(num_images=num_images, images=slice(begin, begin + size))
        for begin in range(0, num_images, size)
    ]
    for name in ("noise", "sigma", "is_unlabelled"):
        whole = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(whole, getattr(joint, name)), name


def test_a_part_of_a_draw_is_a_draw_of_its_images():
    joint = drawn(num_images=8)
    assert torch.equal(joint[4:8].noise, joint.noise[4:])
    assert torch.equal(joint[4:8].sigma, joint.sigma[4:])
    assert torch.equal(joint[4:8].is_unlabelled, joint.is_unlabelled[4:])
