"""The stage compute_reference on tiny prepared images, with the real extractor."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.prepared_images import COUNTS, write_prepared
from vivero.data.prepared import open_split
from vivero.errors import DataError
from vivero.evaluation.drift_reference import load_drift_reference
from vivero.evaluation.extractors import build_extractor
from vivero.evaluation.frechet import moments
from vivero.evaluation.kernel import mean_kernel_of_pairs
from vivero.evaluation.reference import CLASSIFIER_NAME, DRIFT_NAME, load_reference
from vivero.files import sha256_of_dir
from vivero.stages.compute_reference import run

CLASS_NAMES = ["top", "middle", "low"]


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_config) -> Path:
    root = tmp_path_factory.mktemp("house")
    write_prepared(root, CLASS_NAMES)
    run(tiny_config, root)
    return root


def reference_dir(root: Path) -> Path:
    return root / "artifacts" / "compute_reference" / "reference"


def test_leaves_features_of_real_images_with_moments_and_facts(root: Path, tiny_config):
    reference = load_reference(reference_dir(root))
    settings = tiny_config.compute_reference
    extractor = build_extractor("efficientnet_lite0", settings.extractor_size_px, root, None)
    train = open_split(root / "artifacts/prepare_data/images", "train")
    expected, _ = extractor(np.asarray(train.images[: settings.num_images]))

    torch.testing.assert_close(reference.features, expected, atol=1e-3, rtol=1e-3)
    assert len(reference.features) == settings.num_images
    assert len(reference.held_out) == COUNTS["test"]
    assert reference.held_out_logits is not None
    torch.testing.assert_close(reference.moments.mean, moments(reference.features).mean)
    assert reference.mean_kernel == mean_kernel_of_pairs(reference.features)
    facts = reference.facts
    assert facts.extractor_sha256 == extractor.weights_sha256
    assert (facts.num_reference, facts.num_held_out) == (settings.num_images, COUNTS["test"])
    assert "32 px" in facts.resize


def test_leaves_a_reference_for_drift_and_a_summary(root: Path):
    drift = load_drift_reference(reference_dir(root) / DRIFT_NAME)
    assert torch.equal(drift.features, load_reference(reference_dir(root)).features)
    summary = json.loads((root / "artifacts/compute_reference/summary.json").read_text())
    assert summary["stage"] == "compute_reference"
    assert "efficientnet_lite0 features of 40 training and 24 test images" in summary["made"]


def test_equal_images_give_equal_bytes(root: Path, tmp_path: Path, tiny_config):
    write_prepared(tmp_path, CLASS_NAMES)
    run(tiny_config, tmp_path)
    assert sha256_of_dir(reference_dir(tmp_path)) == sha256_of_dir(reference_dir(root))


def test_images_without_labels_have_no_classifier(tmp_path: Path, tiny_config):
    write_prepared(tmp_path, [])
    run(tiny_config, tmp_path)
    assert not (reference_dir(tmp_path) / CLASSIFIER_NAME).exists()
    assert load_reference(reference_dir(tmp_path)).facts.real_accuracy is None


def test_says_what_to_run_when_images_are_missing(tmp_path: Path, tiny_config):
    with pytest.raises(DataError, match="dvc repro prepare_data"):
        run(tiny_config, tmp_path)


def test_a_damaged_reference_is_refused(root: Path, tmp_path: Path):
    with pytest.raises(DataError, match="dvc repro -f compute_reference"):
        load_reference(tmp_path)
