"""The small classifier: it learns, it is the same each time, and its file brings it back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vivero.data.prepared import NO_LABEL
from vivero.errors import NotComputableError
from vivero.evaluation.classifier import (
    Teaching,
    load_classifier,
    predicted_labels,
    save_classifier,
    train_classifier,
)

TEACHING = Teaching(num_classes=3, epochs=4, seed=0)


def drawn(num_images: int, seed: int = 0, num_channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one bright stripe, whose place is the class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, num_images)
    images = random.integers(0, 100, (num_images, num_channels, 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 5 * label : 5 * label + 4] += 120
    return images, labels


@pytest.mark.parametrize("num_channels", [1, 3])
def test_learns_what_tells_the_classes_apart(num_channels: int):
    network = train_classifier(*drawn(600, 0, num_channels), TEACHING)
    images, labels = drawn(200, 1, num_channels)
    assert (predicted_labels(network, images) == labels).mean() > 0.95


def test_the_same_lesson_gives_the_same_weights_whatever_was_drawn_before():
    weights = []
    for _ in range(2):
        torch.rand(3)  # moves the global generator
        weights.append(train_classifier(*drawn(200), TEACHING).state_dict())
    other = train_classifier(*drawn(200), Teaching(3, 4, seed=1)).state_dict()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["0.weight"], other["0.weight"])


def test_the_file_brings_the_same_classifier_back(tmp_path: Path):
    network = train_classifier(*drawn(200), TEACHING)
    save_classifier(network, tmp_path / "classifier.safetensors")
    again = load_classifier(tmp_path / "classifier.safetensors")
    images, _ = drawn(50, 2)
    assert np.array_equal(predicted_labels(network, images), predicted_labels(again, images))


def test_images_without_a_label_teach_nothing():
    images, labels = drawn(200)
    some = train_classifier(images[:150], labels[:150], TEACHING)
    labels[150:] = NO_LABEL
    with_others = train_classifier(images, labels, TEACHING)
    assert torch.equal(some.state_dict()["0.weight"], with_others.state_dict()["0.weight"])


def test_without_labels_there_is_nothing_to_learn():
    images, labels = drawn(5)
    with pytest.raises(NotComputableError, match="at least 2 labelled images; got 0"):
        train_classifier(images, np.full_like(labels, NO_LABEL), TEACHING)
