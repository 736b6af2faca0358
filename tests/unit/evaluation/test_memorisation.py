"""Copies are seen, and real images are not called copies."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from vivero.errors import NotComputableError
from vivero.evaluation.memorisation import copying, nearest_training_images


def images(seed: int, num: int, dimensions: int = 40) -> torch.Tensor:
    return torch.randn(num, dimensions, generator=torch.Generator().manual_seed(seed))


def test_nearest_is_that_of_scikit_learn():
    looked_at, training = images(1, 300), images(2, 500)
    found = nearest_training_images(looked_at, training)
    distances, rows = NearestNeighbors(n_neighbors=2).fit(training).kneighbors(looked_at)
    np.testing.assert_array_equal(found.rows, rows[:, 0])
    np.testing.assert_allclose(found.distances, distances[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found.next_distances, distances[:, 1], rtol=1e-4)


def test_new_images_are_not_called_copies():
    training = images(2, 500)
    found = copying(
        nearest_training_images(images(1, 100), training),
        nearest_training_images(images(3, 100), training),
        20,
        torch.Generator().manual_seed(0),
    )
    assert found.copied_share.value == 0
    assert found.floor_share.value == 0
    assert found.distance_ratio.low < 1 < found.distance_ratio.high


def test_planted_copies_are_counted():
    training, samples = images(2, 500), images(1, 100)
    samples[:20] = training[:20] + 0.01 * images(4, 20)
    found = copying(
        nearest_training_images(samples, training),
        nearest_training_images(images(3, 100), training),
        20,
        torch.Generator().manual_seed(0),
    )
    assert found.copied_share.value == pytest.approx(0.2)
    assert found.copied_share.low > 0.1


def test_a_crowd_around_the_training_images_lowers_the_ratio():
    training = images(2, 500)
    near = training[:100] + 0.5 * images(5, 100)
    found = copying(
        nearest_training_images(near, training),
        nearest_training_images(images(3, 100), training),
        20,
        torch.Generator().manual_seed(0),
    )
    assert found.distance_ratio.high < 0.8


def test_too_few_images_are_refused():
    one = nearest_training_images(images(1, 1), images(2, 9))
    with pytest.raises(NotComputableError, match="at least 2 images on each side"):
        copying(one, one, 5, torch.Generator())
    with pytest.raises(NotComputableError, match="at least 2 training images"):
        nearest_training_images(images(1, 3), images(2, 1))
