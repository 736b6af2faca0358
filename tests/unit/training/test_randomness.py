import pytest
import torch

from vivero.training.randomness import draw_noise, generator_at


def drawn(seed: int = 0, images_seen: int = 64, num_images: int = 1000):
    generator = generator_at(seed, "train", images_seen)
    return draw_noise(generator, (num_images, 1, 4, 4), lambda uniform: uniform, 0.1)


def test_same_moment_same_noise():
    first, second = drawn(), drawn()
    assert torch.equal(first.noise, second.noise)
    assert torch.equal(first.sigma, second.sigma)
    assert torch.equal(first.is_unlabelled, second.is_unlabelled)


@pytest.mark.parametrize("other", [{"seed": 1}, {"images_seen": 128}])
def test_other_moments_and_seeds_have_other_noise(other):
    assert not torch.equal(drawn().noise, drawn(**other).noise)


def test_purposes_have_noise_of_their_own():
    draws = [torch.randn(4, generator=generator_at(0, p, 0)) for p in ("train", "validation")]
    assert not torch.equal(*draws)


def test_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    drawn()
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_normal_and_labels_drop_at_their_rate():
    draw = drawn(num_images=5000)
    assert draw.noise.mean().item() == pytest.approx(0, abs=0.01)
    assert draw.noise.std().item() == pytest.approx(1, abs=0.01)
    assert draw.is_unlabelled.float().mean().item() == pytest.approx(0.1, abs=0.015)


def test_noise_levels_are_stratified_in_random_order():
    uniform = drawn(num_images=100).sigma
    assert (uniform.sort().values * 100).floor().tolist() == list(range(100))
    assert not torch.equal(uniform, uniform.sort().values)


def test_slices_of_the_workers_make_the_joint_batch():
    joint = drawn(num_images=8)
    parts = [joint[slice(0, 4)], joint[slice(4, 8)]]
    assert torch.equal(torch.cat([part.noise for part in parts]), joint.noise)
    assert torch.equal(torch.cat([part.sigma for part in parts]), joint.sigma)
