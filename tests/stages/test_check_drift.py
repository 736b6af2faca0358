"""The command check_drift on tiny images; a stand-in for the registry says who is champion."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prepared_images import write_prepared
from vivero.errors import DataError
from vivero.evaluation.drift_reference import load_drift_reference, save_drift_reference
from vivero.stages import check_drift, compute_reference

CLASS_NAMES = ["top", "middle", "low"]


@pytest.fixture
def root(tmp_path: Path, tiny_config, monkeypatch) -> Path:
    monkeypatch.setattr(check_drift, "champion_drift_reference", lambda _root, _name: None)
    monkeypatch.setattr(check_drift, "champion_folder", lambda _root, _name: None)
    write_prepared(tmp_path, CLASS_NAMES)
    compute_reference.run(tiny_config, tmp_path)
    return tmp_path


def own_reference(root: Path) -> Path:
    return root / "artifacts/compute_reference/reference/drift.safetensors"


def found(root: Path):
    return json.loads((root / "artifacts/check_drift/drift.json").read_text())


def darken(root: Path) -> None:
    path = root / "artifacts/prepare_data/images/validation.npy"
    np.save(path, np.load(path) // 4)


def test_without_champion_the_data_is_held_against_itself(root: Path, tiny_config):
    report = check_drift.run(tiny_config, root)
    assert not report.is_alarm
    assert "no champion yet" in found(root)["against"]
    with Image.open(root / "artifacts/check_drift/drift.png") as picture:
        assert min(picture.size) > 200
    summary = json.loads((root / "artifacts/check_drift/summary.json").read_text())
    assert summary["made"].startswith("against this data's own")
    assert "no drift in" in summary["made"]
    page = (root / "artifacts/check_drift/report.html").read_text()
    assert "No drift" in page
    assert "http" not in page, "it is read offline"


def test_darker_images_are_drift_from_the_champions_data(root: Path, tiny_config, monkeypatch):
    path = own_reference(root)
    monkeypatch.setattr(check_drift, "champion_drift_reference", lambda _root, _name: path)
    darken(root)
    assert check_drift.run(tiny_config, root).is_alarm
    report = found(root)
    assert report["against"] == "the champion's training data"
    assert report["auc"] > tiny_config.check_drift.min_auc
    assert any(test["is_alarm"] for test in report["tests"])


def test_a_champion_of_another_extractor_is_not_compared(
    root: Path, tiny_config, monkeypatch, tmp_path: Path
):
    reference = load_drift_reference(own_reference(root))
    path = tmp_path / "other.safetensors"
    save_drift_reference(path, type(reference)(reference.features, "f" * 64, "0" * 64))
    monkeypatch.setattr(check_drift, "champion_drift_reference", lambda _root, _name: path)
    with pytest.raises(DataError, match="another extractor"):
        check_drift.run(tiny_config, root)


def test_says_what_to_run_when_there_is_no_reference(tmp_path: Path, tiny_config, monkeypatch):
    monkeypatch.setattr(check_drift, "champion_drift_reference", lambda _root, _name: None)
    with pytest.raises(DataError, match="dvc repro compute_reference"):
        check_drift.run(tiny_config, tmp_path)
