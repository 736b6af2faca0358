"""Only the bytes of a regular file of a bearable size are read, whatever a path has become."""

import os
import threading
from pathlib import Path

import pytest

from vivero.data import cleaning
from vivero.data.cleaning import MAX_FILE_BYTES, file_content
from vivero.data.image_files import Refusal

AT_ONCE_S = 20.0


def test_a_regular_file_is_read_completely(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"\x00content\xff")
    assert file_content(tmp_path / "a.png") == b"\x00content\xff"


@pytest.mark.parametrize("target", ["secret", "nowhere", "."])
def test_a_link_is_not_followed(tmp_path: Path, target: str):
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "a.png").symlink_to(target)
    found = file_content(tmp_path / "a.png")
    assert isinstance(found, Refusal)
    assert found.reason == "unreadable"


def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path):
    path, found = tmp_path / "a.png", []
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: found.append(file_content(path)), daemon=True)
    thread.start()
    thread.join(AT_ONCE_S)
    if thread.is_alive():  # it waits for a writer: be one, so that the thread ends
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    assert [answer.reason for answer in found] == ["not_a_file"]


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("/dev")])
def test_a_device_and_a_folder_are_refused(path: Path):
    found = file_content(path)
    assert isinstance(found, Refusal)
    assert found.reason == "not_a_file"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: it takes no space
    found = file_content(path)
    assert isinstance(found, Refusal)
    assert found.reason == "too_large"
    assert f"{MAX_FILE_BYTES + 1} bytes; at most {MAX_FILE_BYTES}" in found.detail


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cleaning, "MAX_FILE_BYTES", 4)
    (tmp_path / "a.png").write_bytes(b"four")
    (tmp_path / "b.png").write_bytes(b"five!")
    assert file_content(tmp_path / "a.png") == b"four"
    assert isinstance(file_content(tmp_path / "b.png"), Refusal)
