"""The stand-in judges: the same bytes again, classes or quarter turns, kept on the disk."""

import numpy as np
import pytest
import torch

from bench import judging
from bench.judging import QUARTER_TURNS, RealImages, judge_samples, taught_judge
from vivero.data.prepared import PreparedSplit


def split(num_images, has_labels=True):
    """Images whose bright half says their class."""
    random = np.random.default_rng(0)
    labels = np.arange(num_images) % 2
    images = random.integers(0, 60, (num_images, 1, 16, 16), dtype=np.uint8)
    images[labels == 0, :, :8] += 150
    images[labels == 1, :, :, :8] += 150
    return PreparedSplit(images, labels if has_labels else np.full(num_images, -1), [])


@pytest.mark.parametrize("name", judging.JUDGES)
def test_a_judge_learns_its_classes_and_is_kept(name, tmp_path):
    data = RealImages("halves", split(512), split(64), 2, tmp_path)
    first = taught_judge(name, data)
    assert first.accuracy > 0.9
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    assert taught_judge(name, data).weights_sha256 == first.weights_sha256
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert taught_judge(name, data).weights_sha256 == first.weights_sha256
    assert path.read_bytes() == content
    features, answers = first.look(data.test.images)
    assert features.shape == (64, judging.NUM_FEATURES)
    assert answers.dtype == torch.int64


def test_without_labels_a_judge_learns_quarter_turns(tmp_path):
    data = RealImages("halves", split(256, False), split(64, False), 0, tmp_path)
    assert data.num_answers == QUARTER_TURNS
    assert taught_judge("strided", data).network.head.out_features == QUARTER_TURNS


def test_samples_of_another_shape_are_refused(tmp_path):
    data = RealImages("halves", split(256), split(64), 2, tmp_path)
    with pytest.raises(ValueError, match="must be uint8"):
        judge_samples(np.zeros((10, 3, 16, 16), np.uint8), data)
