"""Copies are found however often the copied image is in the data; real images are not copies."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from tests.near_duplicates import VERSIONS, jpeg, noisy, pictures, resized
from vivero.errors import NotComputableError
from vivero.evaluation.memorisation import (
    COPIED_RATIO,
    NEAR_EQUAL_RATIO,
    Nearest,
    copying,
    has_near_equal,
    near_equal_distance,
    nearest_training_images,
)

NUM_PLANTED = 200
TRAINING, HELD_OUT = pictures(2000, seed=1), pictures(500, seed=2)
PLANTED = pictures(NUM_PLANTED, seed=3)
GROUPS = {  # how the copied picture is in the training data
    "once": [VERSIONS["equal"]],
    "twice": [VERSIONS["equal"]] * 2,
    "encoded again": [VERSIONS["equal"], VERSIONS["jpeg 90"]],
    "encoded twice": [VERSIONS["jpeg 90"], VERSIONS["jpeg 75"]],
    "resized up": [VERSIONS["equal"], VERSIONS["resized up"]],
    "resized down": [VERSIONS["equal"], VERSIONS["resized down"]],
    "only resized": [VERSIONS["resized up"], VERSIONS["resized down"]],
    "3 times": [VERSIONS["equal"], VERSIONS["jpeg 75"], VERSIONS["resized up"]],
    "10 times": [*VERSIONS.values(), *list(VERSIONS.values())[:4]],
}


def images(seed: int, num: int, dimensions: int = 40) -> torch.Tensor:
    return torch.randn(num, dimensions, generator=torch.Generator().manual_seed(seed))


def pixels(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pictures)).flatten(1).float() / 255


def features(pictures: np.ndarray) -> torch.Tensor:
    """A random network's features: other distances than the pixels'."""
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(28 * 28, 256, generator=generator) / 28
    second = torch.randn(256, 64, generator=generator) / 16
    return torch.relu((pixels(pictures) - 0.5) @ first) @ second


def nearest(samples: np.ndarray, training: np.ndarray, space=pixels) -> tuple[Nearest, Nearest]:
    real, held_out = space(training), space(HELD_OUT)
    distance = near_equal_distance(held_out, real)
    return tuple(
        nearest_training_images(side, real, distance) for side in (space(samples), held_out)
    )


def test_nearest_is_that_of_scikit_learn():
    looked_at, training = images(1, 300), images(2, 500)
    found = nearest_training_images(looked_at, training, near_equal=0.0)
    distances, rows = NearestNeighbors(n_neighbors=2).fit(training).kneighbors(looked_at)
    np.testing.assert_array_equal(found.rows, rows[:, 0])
    np.testing.assert_allclose(found.distances, distances[:, 0], rtol=1e-4)
    np.testing.assert_allclose(found.next_distances, distances[:, 1], rtol=1e-4)


def test_the_next_image_is_one_outside_the_cluster_of_the_nearest():
    training = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.2], [3.0, 0.0], [9.0, 9.0]])
    found = nearest_training_images(torch.tensor([[1.0, 0.0]]), training, near_equal=0.5)
    assert int(found.rows) == 1
    assert float(found.distances) == pytest.approx(0.9)
    assert float(found.next_distances) == pytest.approx(2.0)


def test_near_equal_is_a_share_of_the_median_distance_of_held_out_images():
    held_out, training = images(1, 101), images(2, 500)
    distances, _ = NearestNeighbors(n_neighbors=1).fit(training).kneighbors(held_out)
    expected = NEAR_EQUAL_RATIO * float(np.median(distances))
    assert near_equal_distance(held_out, training) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("space", [pixels, features])
@pytest.mark.parametrize("times", GROUPS)
def test_every_planted_copy_is_found_however_often_it_is_in_the_data(times: str, space):
    versions = [version(PLANTED) for version in GROUPS[times]]
    training = np.concatenate([TRAINING, *versions])
    for sample in (versions[0], noisy(versions[0], 1.0)):
        ours, held_out = nearest(sample, training, space)
        assert ours.num_copied == NUM_PLANTED
        assert held_out.num_copied <= 1, "of 500 real images"


@pytest.mark.parametrize("space", [pixels, features])
def test_real_images_are_not_copies_where_the_data_repeats_itself(space):
    repeated = np.concatenate([TRAINING, jpeg(TRAINING, 90), resized(TRAINING, 56)])
    ours, held_out = nearest(pictures(500, seed=4), repeated, space)
    assert ours.num_copied <= 1
    assert held_out.num_copied <= 1


def one(distance: float, next_distance: float, near_equal: float = 0.0) -> Nearest:
    return Nearest(
        torch.zeros(1, dtype=torch.long),
        torch.tensor([distance]),
        torch.tensor([next_distance]),
        near_equal,
    )


@pytest.mark.parametrize(
    ("ratio", "is_copied"), [(0.3, True), (0.33, True), (0.34, False), (0.4, False), (0.5, False)]
)
def test_the_ratio_of_a_copy_is_a_third(ratio: float, is_copied: bool):
    assert pytest.approx(1 / 3) == COPIED_RATIO
    assert one(ratio, 1.0).num_copied == is_copied


@pytest.mark.parametrize(("distance", "is_copied"), [(0.9, True), (1.1, False)])
def test_as_near_as_near_equal_images_is_a_copy_whatever_is_next(distance: float, is_copied: bool):
    assert one(distance, 1.2, near_equal=1.0).num_copied == is_copied


def test_without_an_image_outside_the_cluster_the_distance_alone_decides():
    training = torch.zeros(3, 2)
    found = nearest_training_images(torch.tensor([[0.1, 0.0], [9.0, 9.0]]), training, 0.5)
    assert found.is_copied.tolist() == [True, False]


def test_the_near_equal_images_of_the_data_are_counted():
    again = np.concatenate([TRAINING[:30], jpeg(TRAINING[30:60], 90), resized(TRAINING[60:70], 56)])
    training = pixels(np.concatenate([TRAINING, again]))
    distance = near_equal_distance(pixels(HELD_OUT), pixels(TRAINING))
    assert int(has_near_equal(pixels(TRAINING), distance).sum()) == 0
    found = has_near_equal(training, distance)
    expected = torch.zeros(len(training), dtype=torch.bool)
    expected[:70] = expected[len(TRAINING) :] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("num", "dimensions"), [(2, 3), (40, 5), (300, 2)])
def test_near_equal_images_are_those_of_all_pairs(num: int, dimensions: int):
    rows = images(1, num, dimensions)
    rows[1] = rows[0] + 0.01
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    expected = (distances < 0.05).any(dim=1)
    assert expected.any()
    assert torch.equal(has_near_equal(rows, 0.05), expected)


def test_equal_images_all_over_are_counted_in_bounded_memory():
    assert int(has_near_equal(torch.zeros(5000, 3), 0.1).sum()) == 5000
    assert int(has_near_equal(torch.zeros(1, 3), 0.1).sum()) == 0


def test_new_images_are_not_called_copies():
    ours, held_out = nearest(pictures(500, seed=4), TRAINING)
    found = copying(ours, held_out, 20, torch.Generator().manual_seed(0))
    assert found.copied_share.value == 0
    assert found.floor_share.value == 0
    assert found.distance_ratio.low < 1 < found.distance_ratio.high


def test_planted_copies_are_counted():
    training, samples = images(2, 500), images(1, 100)
    samples[:20] = training[:20] + 0.01 * images(4, 20)
    held_out = images(3, 100)
    distance = near_equal_distance(held_out, training)
    ours, theirs = (nearest_training_images(x, training, distance) for x in (samples, held_out))
    found = copying(ours, theirs, 20, torch.Generator().manual_seed(0))
    assert found.copied_share.value == pytest.approx(0.2)
    assert found.copied_share.low > 0.1


def test_a_crowd_around_the_training_images_lowers_the_ratio():
    training = images(2, 500)
    near = training[:100] + 0.5 * images(5, 100)
    ours, theirs = (nearest_training_images(x, training, 0.0) for x in (near, images(3, 100)))
    found = copying(ours, theirs, 20, torch.Generator().manual_seed(0))
    assert found.distance_ratio.high < 0.8


def test_too_few_images_are_refused():
    one_image = nearest_training_images(images(1, 1), images(2, 9), 0.0)
    with pytest.raises(NotComputableError, match="at least 2 images on each side"):
        copying(one_image, one_image, 5, torch.Generator())
    with pytest.raises(NotComputableError, match="at least 2 training images"):
        nearest_training_images(images(1, 3), images(2, 1), 0.0)
    with pytest.raises(NotComputableError, match="at least 1 held-out and 1 training image"):
        near_equal_distance(images(1, 0), images(2, 3))


def test_held_out_images_that_were_trained_on_tell_nothing():
    found = nearest_training_images(images(1, 9), images(1, 9), 0.0)
    leaked = dataclasses.replace(found, distances=torch.zeros(9))
    with pytest.raises(NotComputableError, match="remove the images of the test split"):
        copying(found, leaked, 5, torch.Generator())
