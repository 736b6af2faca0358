"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from vivero import files
from vivero.errors import ViveroError


def test_a_reader_never_sees_half_a_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with files.write_whole(path) as part_path:
            part_path.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ViveroError, match="no space left on the disk while writing"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_on_the_disk_before_and_its_folder_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    events = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append("folder" if path == tmp_path else path.read_text())
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        events.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    files.write_text(tmp_path / "a.txt", "new")
    assert events == ["new", "a.txt", "folder"]


def test_nan_never_reaches_a_report(tmp_path: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_the_hash_of_a_folder_sees_names_and_bytes(tmp_path: Path):
    (tmp_path / "a").write_text("1")
    first = files.sha256_of_dir(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = files.sha256_of_dir(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, files.sha256_of_dir(tmp_path)}) == 3
