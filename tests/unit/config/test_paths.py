"""Where things lie."""

from pathlib import Path

import pytest

from vivero.config.environment import tracking_uri
from vivero.config.paths import project_dir, tracking_root
from vivero.errors import ConfigError


def test_the_project_is_found_from_below(tmp_path: Path):
    (tmp_path / "params.yaml").touch()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert project_dir(below) == tmp_path


def test_outside_a_project_it_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="inside a clone"):
        project_dir(tmp_path)


def test_a_copy_made_by_dvc_keeps_the_store_of_the_repository(tmp_path: Path):
    assert tracking_root(tmp_path / ".dvc" / "tmp" / "exps" / "x1") == tmp_path
    assert tracking_root(tmp_path) == tmp_path


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(tmp_path) == "http://127.0.0.1:5000"
