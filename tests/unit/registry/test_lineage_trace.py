"""`vivero lineage`: from a version, a bundle or an image back to what made it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.registry.test_registration import NAME, candidate_of
from vivero.config.schema import Config
from vivero.errors import BundleError, DataError
from vivero.evaluation.grids import save_image
from vivero.registry.lineage_trace import trace
from vivero.registry.registration import register_version


def test_a_version_and_its_bundle_tell_the_same(root: Path, tiny_config: Config):
    candidate = candidate_of(root, tiny_config, seed=4)
    version, _ = register_version(root, NAME, candidate)
    of_bundle = trace(str(candidate.bundle_dir), None)
    of_version = trace("models:/vivero/1", root)
    assert of_bundle["what"] == "bundle"
    assert of_version["what"] == "model version"
    assert of_version["verdict"] == "first"
    assert of_bundle["lineage"] == of_version["lineage"]
    assert of_bundle["lineage"]["seed"] == 4
    assert of_bundle["weights_sha256"] == version.weights_sha256


def test_an_image_tells_what_made_it(tmp_path: Path):
    made_by = {"weights_sha256": "w", "seed": 3, "index": 0, "lineage": {"data_digest": "d"}}
    save_image(tmp_path / "0.png", np.zeros((1, 8, 8), np.uint8), made_by)
    assert trace(str(tmp_path / "0.png"), None) == {"what": "image", **made_by}


def test_an_image_from_elsewhere_is_said_to_be_one(tmp_path: Path):
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"carries no record.*samples.json"):
        trace(str(tmp_path / "0.png"), None)


def test_what_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist; name an image"):
        trace(str(tmp_path / "nothing"), None)
    with pytest.raises(BundleError, match=r"manifest.json"):
        trace(str(tmp_path), None)
    with pytest.raises(BundleError, match="needs a clone"):
        trace("models:/vivero@champion", None)
