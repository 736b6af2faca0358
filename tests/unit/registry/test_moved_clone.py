"""A copied or moved clone with an embedded store reads and writes its own files alone."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.mlflow_stores import empty_store
from tests.unit.registry.test_registration import NAME, candidate_of
from vivero.config.schema import Config
from vivero.registry.registration import register_version
from vivero.registry.versions import download, list_versions
from vivero.tracking.store import experiment_id, open_client

BUCKET = "s3://bucket/mlartifacts"


@pytest.fixture
def clone(tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with one registered version, and an experiment whose place a person chose."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "photos [old] é"
    root.mkdir()
    (root / "mlflow.db").write_bytes(empty_store())
    register_version(root, NAME, candidate_of(root, tiny_config))
    client = open_client(root)
    client.create_experiment("theirs", artifact_location=BUCKET)
    client.create_experiment("near", artifact_location=f"{root.as_uri()}/mlartifacts-of-mine")
    return root


def write_run(root: Path) -> Path:
    """Record a run with a file; returns the folder of the file."""
    client = open_client(root)
    run = client.create_run(experiment_id(client, root, "vivero"))
    note = root / "note.txt"
    note.write_text("a note")
    client.log_artifact(run.info.run_id, str(note))
    [path] = [p for p in root.rglob("mlartifacts/**/note.txt") if run.info.run_id in p.parts]
    return path.parent


def places_of(root: Path) -> dict[str, str]:
    """Where each experiment keeps its files, by name."""
    return {e.name: e.artifact_location for e in open_client(root).search_experiments()}


def is_file_of(root: Path, folder: Path) -> bool:
    """Whether a downloaded version is in this clone and complete."""
    return folder.is_relative_to(root) and (folder / "bundle" / "lineage.json").is_file()


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_moved_clone_leaves_its_old_folder_alone(clone: Path, tmp_path: Path):
    moved = clone.rename(tmp_path / "moved")
    write_run(moved)
    [version] = list_versions(moved, NAME)
    download(moved, version)
    assert not clone.exists()
    places = places_of(moved)
    assert places["theirs"] == BUCKET
    assert places["near"] == f"{clone.as_uri()}/mlartifacts-of-mine"


def test_a_copied_clone_uses_its_own_files(clone: Path, tmp_path: Path):
    copied = Path(shutil.copytree(clone, tmp_path / "copied"))
    before = files_below(clone)
    write_run(copied)
    assert files_below(clone) == before
    shutil.rmtree(clone / "mlartifacts")  # what is loaded now is the copy's own
    [version] = list_versions(copied, NAME)
    assert is_file_of(copied, download(copied, version))


def test_another_name_of_the_same_folder_changes_nothing(clone: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(clone)
    address = f"{link.as_uri()}/mlartifacts"
    open_client(link).create_experiment("linked", artifact_location=address)
    write_run(link)
    assert places_of(clone)["linked"] == address
    [version] = list_versions(clone, NAME)
    assert is_file_of(clone, download(clone, version))


def test_a_store_that_cannot_be_changed_whole_is_not_changed(clone: Path, tmp_path: Path):
    moved = clone.rename(tmp_path / "moved")
    with sqlite3.connect(moved / "mlflow.db") as database:
        database.execute(
            "CREATE TRIGGER stop BEFORE UPDATE ON model_versions "
            "BEGIN SELECT RAISE(ABORT, 'stopped'); END"
        )
    with pytest.raises(Exception, match="refused or broke off: stopped"):
        open_client(moved)
    with sqlite3.connect(moved / "mlflow.db") as database:
        places = database.execute("SELECT artifact_location FROM experiments").fetchall()
    assert (f"{clone.as_uri()}/mlartifacts",) in places
    assert (f"{moved.as_uri()}/mlartifacts",) not in places
