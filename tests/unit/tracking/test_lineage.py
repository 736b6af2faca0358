"""Lineage: what is known is exact, what is not known is None, nothing raises."""

import os
import subprocess
from pathlib import Path

import pytest

from vivero.files import sha256_of_file
from vivero.tracking.lineage import Lineage, read_lineage

MD5 = "0123456789abcdef0123456789abcdef.dir"


def git(folder: Path, *arguments: str) -> str:
    who = {
        name: value
        for person in ("AUTHOR", "COMMITTER")
        for name, value in ((f"GIT_{person}_NAME", "t"), (f"GIT_{person}_EMAIL", "t@example.org"))
    }
    command = ["git", "-C", str(folder), "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **who}
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("train: {seed: 0}\n")
    (tmp_path / "requirements.lock").write_text("torch==2.13.0\n")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {MD5}\n  path: data\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "remote", "add", "origin", "https://ada:geheim@example.org/vivero.git")
    git(tmp_path, "add", "params.yaml", "data.dvc")
    git(tmp_path, "commit", "--quiet", "-m", "start")
    return tmp_path


def test_a_clean_repository_is_known_completely(repository: Path):
    lineage = read_lineage(repository, seed=3)
    assert lineage == Lineage(
        data_digest=MD5,
        code_commit=git(repository, "rev-parse", "HEAD"),
        is_dirty=False,
        dvc_lock_sha256=sha256_of_file(repository / "dvc.lock"),
        params_sha256=sha256_of_file(repository / "params.yaml"),
        requirements_sha256=sha256_of_file(repository / "requirements.lock"),
        seed=3,
    )
    assert lineage.missing() == ["weights_sha256"]
    assert lineage.with_weights("w").missing() == []
    assert "geheim" not in str(lineage.to_values()) + str(lineage.to_tags())


def test_a_changed_tracked_file_is_dirty_and_a_new_file_is_not(repository: Path):
    (repository / "new.txt").write_text("new")
    assert read_lineage(repository, seed=0).is_dirty is False
    (repository / "params.yaml").write_text("train: {seed: 1}\n")
    assert read_lineage(repository, seed=0).is_dirty is True


def test_without_a_repository_the_commit_is_unknown(tmp_path: Path):
    lineage = read_lineage(tmp_path, seed=0)
    assert lineage.code_commit is None
    assert lineage.is_dirty is None
    assert lineage.data_digest is None
    assert lineage.to_tags() == {"vivero.seed": "0"}


def test_without_git_the_commit_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(repository))
    lineage = read_lineage(repository, seed=0)
    assert lineage.code_commit is None
    assert lineage.is_dirty is None
    assert lineage.data_digest == MD5


def test_a_repository_without_a_commit_is_unknown(tmp_path: Path):
    git(tmp_path, "init", "--quiet")
    assert read_lineage(tmp_path, seed=0).code_commit is None


@pytest.mark.parametrize("content", ["", "outs: []", "{", "outs:\n- path: data\n", "\x00"])
def test_a_strange_data_dvc_gives_the_hash_of_the_folder(tmp_path: Path, content: str):
    (tmp_path / "data.dvc").write_text(content)
    assert read_lineage(tmp_path, seed=0).data_digest is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").write_bytes(b"a")
    digest = read_lineage(tmp_path, seed=0).data_digest
    assert digest is not None
    assert digest.startswith("sha256:")
    (tmp_path / "data" / "a.parquet").write_bytes(b"b")
    assert read_lineage(tmp_path, seed=0).data_digest != digest


def test_lineage_comes_back_from_its_file_and_tags_are_text(repository: Path):
    lineage = read_lineage(repository, seed=0).with_weights("w")
    assert Lineage.from_values(lineage.to_values()) == lineage
    assert lineage.to_tags()["vivero.is_dirty"] == "false"
    assert all(isinstance(value, str) for value in lineage.to_tags().values())
