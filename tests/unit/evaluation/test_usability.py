"""Unusable images: planted blank, broken and foreign ones are found, real ones seldom."""

import numpy as np
import pytest
import torch

from vivero.errors import NotComputableError
from vivero.evaluation.usability import blank_images, nearest_distances, unusable_images


def drawn(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, size=(count, 1, 8, 8), dtype=np.uint8)


def test_planted_blank_broken_and_foreign_images_are_found():
    images, features = pictures(400), drawn(0, 400)
    images[0], images[1], images[2] = 0, 255, 128
    features[3] += 50.0  # nothing like it was ever seen
    features[4] = float("nan")
    found = unusable_images(images, features, drawn(1, 3000), drawn(2, 2000))
    assert found.samples[:5].all()
    assert found.num_blank == 4  # the three, and what is not finite
    assert found.samples[5:].mean() < 0.02
    assert found.held_out.mean() == pytest.approx(0.005, abs=0.0006)


def test_distances_are_those_to_the_nearest():
    rows, others = drawn(0, 30), drawn(1, 50)
    expected = torch.cdist(rows, others).amin(dim=1)
    torch.testing.assert_close(nearest_distances(rows, others), expected, rtol=1e-3, atol=1e-3)


def test_an_image_with_little_contrast_is_not_blank():
    faint = np.full((2, 1, 8, 8), 100, dtype=np.uint8)
    faint[0, 0, :, :4] = 104
    assert blank_images(faint).tolist() == [False, True]


def test_one_held_out_image_is_no_measure():
    with pytest.raises(NotComputableError, match="at least 2 held-out images; got 1"):
        unusable_images(pictures(2), drawn(0, 2), drawn(1, 5), drawn(2, 1))
