"""Lineage: what is known is recorded, what is not known is None, and nothing fails."""

import json
import subprocess
from pathlib import Path

import pytest

from vivero.files import sha256_of_file
from vivero.tracking.lineage import data_digest, digest_in_pointer, read_lineage


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    (folder / "params.yaml").write_text("train: {}\n")
    (folder / "data.dvc").write_text("outs:\n- md5: 0123abcd.dir\n  path: data\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_clean_tree_is_recorded_by_its_commit(tmp_path: Path):
    lineage = read_lineage(repository(tmp_path), seed=7)
    assert lineage.code_commit == git(tmp_path, "rev-parse", "HEAD")
    assert lineage.is_dirty is False
    assert lineage.data_digest == "0123abcd.dir"
    assert lineage.params_sha256 == sha256_of_file(tmp_path / "params.yaml")
    assert lineage.seed == 7
    assert lineage.dvc_lock_sha256 is None


def test_a_dirty_tree_is_allowed_and_recorded(tmp_path: Path):
    repository(tmp_path)
    (tmp_path / "params.yaml").write_text("train: {seed: 1}\n")
    assert read_lineage(tmp_path, seed=0).is_dirty is True


def test_a_new_file_beside_the_code_is_not_dirt(tmp_path: Path):
    repository(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert read_lineage(tmp_path, seed=0).is_dirty is False


def test_new_code_and_a_new_lock_are_told_apart(tmp_path: Path):
    repository(tmp_path)
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    assert read_lineage(tmp_path, seed=0).is_dirty is False
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "new.py").write_text("1\n")
    assert read_lineage(tmp_path, seed=0).is_dirty is True


def test_without_git_the_code_is_unknown(tmp_path: Path):
    (tmp_path / "params.yaml").write_text("train: {}\n")
    lineage = read_lineage(tmp_path, seed=0)
    assert lineage.code_commit is None
    assert lineage.is_dirty is None
    assert lineage.params_sha256


def test_the_repository_of_a_folder_above_is_not_ours(tmp_path: Path):
    inner = repository(tmp_path) / "inner"
    inner.mkdir()
    assert read_lineage(inner, seed=0).code_commit is None


def test_an_unreadable_pointer_is_an_unknown_digest(tmp_path: Path):
    for text in ["outs: [", "outs: []", "- 1", ""]:
        (tmp_path / "data.dvc").write_text(text)
        assert data_digest(tmp_path) is None


def test_only_what_is_known_becomes_a_tag(tmp_path: Path):
    tags = read_lineage(repository(tmp_path), seed=0).as_tags()
    assert tags["lineage.seed"] == "0"
    assert "lineage.weights_sha256" not in tags


@pytest.mark.parametrize("md5", ["--output=x", "../../x.dir", "a'b", "", "A" * 32])
def test_a_pointer_whose_digest_has_not_its_form_names_no_data(md5: str):
    assert digest_in_pointer(f"outs:\n- md5: {json.dumps(md5)}\n  path: data\n") is None
    assert digest_in_pointer(f"outs:\n- md5: {'a' * 32}.dir\n") == f"{'a' * 32}.dir"
