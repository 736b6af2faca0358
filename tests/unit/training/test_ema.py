import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vivero.training.ema import ema_decay, update_ema


def test_a_halflife_of_images_leaves_half():
    decay = ema_decay(1_000_000, 64, 6400)
    assert decay**100 == pytest.approx(0.5)


def test_early_on_the_start_is_forgotten():
    assert ema_decay(64, 64, 12_800) < 0.001
    assert ema_decay(6400, 64, 12_800) == pytest.approx(0.5 ** (64 / 640))


@given(st.integers(1, 10**7), st.integers(1, 4096), st.integers(1, 10**6))
def test_is_a_share(images_seen: int, batch_images: int, halflife_images: int):
    assert 0 <= ema_decay(images_seen, batch_images, halflife_images) < 1


@given(st.integers(2, 64), st.integers(1, 100))
def test_memory_survives_a_change_of_batch_size(parts: int, batch: int):
    whole = ema_decay(10**9, parts * batch, 12_800)
    assert ema_decay(10**9, batch, 12_800) ** parts == pytest.approx(whole)


def test_update_moves_all_tensors_in_place():
    average = [torch.zeros(2), torch.ones(3)]
    weights = [torch.ones(2, requires_grad=True), torch.full((3,), 3.0)]
    update_ema(average, weights, 0.75)
    assert torch.equal(average[0], torch.full((2,), 0.25))
    assert torch.equal(average[1], torch.full((3,), 1.5))
    assert not average[0].requires_grad
