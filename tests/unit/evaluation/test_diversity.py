"""A model that repeats a few images is told from one that makes new ones, whatever it changes."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from tests.near_duplicates import moved, noisy, pictures
from vivero.errors import NotComputableError
from vivero.evaluation.diversity import (
    CHUNK_OTHERS,
    MAX_REAL_QUERIES,
    NEAR_EQUAL_QUANTILE,
    LabelledImages,
    RealScale,
    near_equal_limit,
    nearest_of_others,
    repetition,
)
from vivero.evaluation.metrics import near_equal_metric

NUM_IMAGES = 600


def labelled(images: np.ndarray, num_classes: int = 3) -> LabelledImages:
    return LabelledImages(images, np.arange(len(images)) % num_classes)


REAL, HELD_OUT = (labelled(pictures(NUM_IMAGES, seed)) for seed in (1, 2))


def repeated(num_distinct: int, seed: int = 3) -> np.ndarray:
    """Images that were never trained on, each of them several times, in any order."""
    rows = np.random.default_rng(seed).integers(num_distinct, size=NUM_IMAGES)
    return pictures(num_distinct, seed)[rows]


def share(samples: np.ndarray, num_classes: int = 3) -> float:
    found = repetition(labelled(samples, num_classes), REAL, HELD_OUT)
    metrics, per_image = near_equal_metric(found)
    (name,) = metrics
    assert name == "near_equal_share.pixels.600"
    assert metrics[name]["better"] == "lower"
    assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    assert metrics[name]["value"] == pytest.approx(per_image[name].mean())
    return float(metrics[name]["value"])


def test_new_images_are_as_seldom_nearly_equal_as_real_ones():
    found = repetition(labelled(pictures(NUM_IMAGES, seed=5)), REAL, HELD_OUT)
    error = (NEAR_EQUAL_QUANTILE / NUM_IMAGES) ** 0.5
    assert found.held_out.mean() == pytest.approx(NEAR_EQUAL_QUANTILE, abs=5 * error)
    assert found.samples.mean() == pytest.approx(NEAR_EQUAL_QUANTILE, abs=5 * error)


@pytest.mark.parametrize("num_distinct", [6, 30, 120])
@pytest.mark.parametrize("change", ["none", "noise", "moves", "both"])
def test_repeated_images_are_found_whatever_is_added_to_them(num_distinct: int, change: str):
    samples = repeated(num_distinct)
    if change in ("moves", "both"):
        samples = moved(samples, seed=7)
    if change in ("noise", "both"):
        samples = noisy(samples, 8.0)
    assert share(samples) > 0.6


def test_images_of_another_class_are_no_repetition():
    """Class 0 repeats one image, and so does class 1: the others are new."""
    samples = pictures(NUM_IMAGES, seed=5)
    samples[1] = samples[0]
    apart = share(samples)
    samples[3] = samples[0]  # of the same class as 0
    assert share(samples) == pytest.approx(apart + 2 / NUM_IMAGES, abs=1e-9)


def test_without_labels_all_images_are_one_class():
    found = repetition(
        labelled(repeated(100), 1),
        labelled(REAL.images, 1),
        labelled(HELD_OUT.images, 1),
    )
    assert len(found.samples) == NUM_IMAGES
    assert found.samples.mean() > 0.9


def test_all_samples_are_looked_at_and_keep_their_order():
    """More samples of a class than are compared at a time; the first and last are equal."""
    count = CHUNK_OTHERS + 5
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 3, 3), dtype=np.uint8)
    images[-1] = images[0]
    real = labelled(images[1:-1], 1)
    found = repetition(labelled(images, 1), real, real)
    assert len(found.samples) == count
    assert found.samples[[0, -1]].all()
    assert found.samples.mean() < 3 * NEAR_EQUAL_QUANTILE
    assert len(found.held_out) == MAX_REAL_QUERIES


def test_equal_samples_count_where_real_images_are_there_twice():
    """The usual distance to the nearest real image is then 0."""
    twice = labelled(np.repeat(REAL.images[:100], 2, axis=0), 1)
    fresh = pictures(200, seed=5)
    assert repetition(labelled(fresh, 1), twice, twice).samples.mean() < 0.2
    assert repetition(labelled(fresh[np.arange(200) % 50], 1), twice, twice).samples.all()
    noise = noisy(fresh[np.arange(200) % 50], 2.0)
    few_twice = labelled(np.concatenate([REAL.images[:200], REAL.images[:20]]), 1)
    assert repetition(labelled(noise, 1), few_twice, twice).samples.all()


def test_the_limit_is_that_of_equally_many_others():
    nearest = torch.arange(100.0) + 101
    scale = RealScale(nearest, num_images=100, one_level=0.1)
    same = near_equal_limit([scale], [scale], num_samples=100)
    assert same == pytest.approx(np.quantile(nearest, NEAR_EQUAL_QUANTILE))
    fewer = near_equal_limit([scale], [scale], num_samples=199)
    assert fewer == pytest.approx(np.quantile(nearest, 1 - (1 - NEAR_EQUAL_QUANTILE) ** 0.5))
    far = RealScale(nearest[:5] + 900, num_images=5, one_level=0.1)
    assert near_equal_limit([far], [far, scale], num_samples=100) < 120


def test_distances_without_moves_are_those_of_scikit_learn():
    images = pictures(40, seed=1)
    rows = images.reshape(40, -1) / 255
    distances, _ = NearestNeighbors(n_neighbors=2).fit(rows).kneighbors(rows)
    found = nearest_of_others(images).numpy()
    assert (found <= distances[:, 1] * (1 + 1e-4)).all()
    shifted = np.roll(images[:1, :, :, ::-1], (1, -1), axis=(2, 3))
    with_a_move = nearest_of_others(np.concatenate([images, shifted]))
    assert float(with_a_move[0]) == pytest.approx(0, abs=0.02)
    assert float(with_a_move[-1]) == pytest.approx(0, abs=0.02)


def test_a_symmetric_image_is_not_its_own_copy():
    image = np.zeros((1, 1, 8, 8), np.uint8)
    image[..., 2:6] = 200
    other = np.full((1, 1, 8, 8), 90, np.uint8)
    assert torch.all(nearest_of_others(np.concatenate([image, other])) > 1)


def test_more_samples_than_real_images_are_all_looked_at():
    """Each of 25 pictures comes once among the first 25 samples, and 20 times in all."""
    few = LabelledImages(REAL.images[:25], np.zeros(25, np.int64))
    samples = labelled(pictures(25, seed=5)[np.arange(500) % 25], 1)
    found = repetition(samples, few, labelled(HELD_OUT.images, 1))
    assert len(found.samples) == 500
    assert found.samples.mean() > 0.9


@pytest.mark.parametrize("num_real", [0, 1, 30])
@pytest.mark.parametrize("num_held_out", [0, 1])
def test_a_class_with_few_real_images_is_looked_at(num_real: int, num_held_out: int):
    labels = np.repeat([0, 1], [450, 50])
    samples = np.concatenate([pictures(1, seed=5).repeat(450, axis=0), pictures(50, seed=6)])
    real, held_out = (
        LabelledImages(images, (np.arange(len(images)) >= count).astype(np.int64))
        for images, count in ((REAL.images, num_real), (HELD_OUT.images, num_held_out))
    )
    found = repetition(LabelledImages(samples, labels), real, held_out)
    assert len(found.samples) == 500
    assert found.samples[:450].all()
    assert found.samples[450:].mean() < 0.5


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((1, 9, 9), "2 samples of each class; class 0 has 1"),
        ((9, 1, 9), "2 training images"),
        ((9, 9, 1), "2 test images of one class"),
    ],
)
def test_too_few_images_are_refused(numbers: tuple[int, int, int], said: str):
    sides = [labelled(pictures(number, seed=1), 1) for number in numbers]
    with pytest.raises(NotComputableError, match=said):
        repetition(*sides)


def test_one_class_with_one_sample_is_not_left_out_in_silence():
    samples = LabelledImages(pictures(10, seed=5), np.repeat([0, 1], [9, 1]))
    with pytest.raises(NotComputableError, match="class 1 has 1"):
        repetition(samples, REAL, HELD_OUT)
