"""The order of training: a pure function of seed and position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.data.batches import batch_indices, epoch_order

seeds = st.integers(0, 2**32)
sizes = st.integers(1, 50)


@given(seed=seeds, num_images=sizes, epoch=st.integers(0, 1000))
def test_every_epoch_shows_every_image_once(seed: int, num_images: int, epoch: int):
    shown = batch_indices(seed, num_images, epoch * num_images, num_images)
    assert sorted(shown.tolist()) == list(range(num_images))
    assert shown.dtype == np.int64


@given(seed=seeds, num_images=sizes, begin=st.integers(0, 200), parts=st.lists(st.integers(0, 60)))
def test_the_stream_does_not_depend_on_how_it_is_cut(seed, num_images, begin, parts):
    whole = batch_indices(seed, num_images, begin, sum(parts))
    position, pieces = begin, [np.empty(0, np.int64)]
    for size in parts:
        pieces.append(batch_indices(seed, num_images, position, size))
        position += size
    assert np.concatenate(pieces).tolist() == whole.tolist()


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch_order(seed, 100, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_is_the_same_on_every_machine():
    assert batch_indices(0, 10, 8, 6).tolist() == [8, 1, 9, 1, 3, 8]


@pytest.mark.parametrize("arguments", [(-1, 1, 0, 1), (0, 0, 0, 1), (0, 1, -1, 1), (0, 1, 0, -1)])
def test_arguments_out_of_range_are_refused(arguments: tuple[int, ...]):
    with pytest.raises(ValueError, match="num_images >= 1"):
        batch_indices(*arguments)
