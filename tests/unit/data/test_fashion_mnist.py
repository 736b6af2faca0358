"""Fashion-MNIST from its package, from upstream, or not at all; tiny files in its format."""

import gzip
import hashlib
import http.server
import struct
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vivero.data import fashion_mnist, sources
from vivero.data.fashion_mnist import CARD, IdxPair, fetch_fashion_mnist, idx_array
from vivero.data.image_files import decode
from vivero.data.shards import read_rows, shard_paths
from vivero.data.sources import PackedFile, SourceError, download_files, read_packed
from vivero.errors import DataError

NUM_IMAGES = {"train": 30, "test": 12}


def idx_file(values: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def pixels(split: str) -> np.ndarray:
    generator = np.random.default_rng(NUM_IMAGES[split])
    return generator.integers(0, 256, (NUM_IMAGES[split], 28, 28), np.uint8)


@pytest.fixture
def packed_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four files in the format of the real ones, which stand in for them."""
    folder = tmp_path / "packed"
    folder.mkdir()
    files = {}
    for split, num_images in NUM_IMAGES.items():
        pair = []
        for kind, values in (
            ("images", pixels(split)),
            ("labels", (np.arange(num_images) % 10).astype(np.uint8)),
        ):
            content = idx_file(values)
            name = f"{split}-{kind}.gz"
            (folder / name).write_bytes(gzip.compress(content))
            pair.append(PackedFile(name, hashlib.sha256(content).hexdigest()))
        files[split] = IdxPair(*pair)
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    monkeypatch.setattr(fashion_mnist, "INSTALLED_DIR", Path("/nonexistent/fashion-mnist"))
    monkeypatch.setattr(fashion_mnist, "UPSTREAM_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(sources, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(sources.shutil, "which", lambda name: None)  # no apt on this machine
    return folder


@pytest.fixture
def server(packed_dir: Path) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(packed_dir))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_the_installed_package_comes_first(packed_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "INSTALLED_DIR", packed_dir)
    report = fetch_fashion_mnist(tmp_path / "data", tmp_path / "work")
    assert report.way == "installed Debian package"
    assert report.num_images == 42

    rows = list(read_rows(shard_paths(tmp_path / "data")["train"][0]))
    assert [row.key for row in rows][:2] == ["train-00000", "train-00001"]
    assert [row.label for row in rows][:12] == [*range(10), 0, 1]
    for row, expected in zip(rows, pixels("train"), strict=True):
        image = decode(row.image_bytes)
        assert isinstance(image, Image.Image)
        assert (np.asarray(image) == expected).all()
    assert not list((tmp_path).glob(".data*"))


def test_a_package_is_unpacked_without_root(packed_dir, tmp_path, monkeypatch):
    """The commands of apt and dpkg are the door; a fake stands there."""
    monkeypatch.setattr(fashion_mnist, "INSTALLED_DIR", Path("/share/fashion-mnist"))
    monkeypatch.setattr(sources.shutil, "which", lambda name: f"/bin/{name}")
    commands = []

    def fake_run(command, cwd, **options):
        commands.append(command)
        if command[:2] == ["apt-get", "download"]:
            return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package")
        if "download" in command:
            (Path(cwd) / "package.deb").touch()
        if command[0] == "dpkg-deb":
            folder = Path(command[-1]) / "share"
            folder.mkdir(parents=True)
            packed_dir.rename(folder / "fashion-mnist")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.subprocess, "run", fake_run)
    report = fetch_fashion_mnist(tmp_path / "data", tmp_path / "work")
    assert report.way == "downloaded Debian package"
    assert [command[0] for command in commands] == ["apt-get", "apt-get", "apt-get", "dpkg-deb"]
    assert "update" in commands[1]


def test_upstream_is_the_last_way(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "UPSTREAM_URL", server)
    assert fetch_fashion_mnist(tmp_path / "data", tmp_path / "work").way == "upstream download"


def test_every_way_gives_the_same_bytes(packed_dir, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "UPSTREAM_URL", server)
    fetch_fashion_mnist(tmp_path / "one", tmp_path / "work")
    monkeypatch.setattr(fashion_mnist, "INSTALLED_DIR", packed_dir)
    fetch_fashion_mnist(tmp_path / "two", tmp_path / "work")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_when_no_way_works_all_are_listed_with_what_to_do(packed_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sources._download_with_retries.retry, "sleep", lambda seconds: None)
    with pytest.raises(DataError) as caught:
        fetch_fashion_mnist(tmp_path / "data", tmp_path / "work")
    message = str(caught.value)
    assert "installed Debian package: /nonexistent" in message
    assert "no apt-get and dpkg-deb" in message
    assert "http://127.0.0.1:9/train-images.gz cannot be downloaded" in message
    assert "vivero data import FOLDER" in message
    assert not (tmp_path / "data").exists()


def test_files_put_there_by_hand_need_no_network(packed_dir, tmp_path):
    (tmp_path / "work" / "fashion_mnist").mkdir(parents=True)
    packed_dir.rename(tmp_path / "work" / "fashion_mnist" / "upstream")
    assert fetch_fashion_mnist(tmp_path / "data", tmp_path / "work").num_images == 42


def test_a_wrong_file_is_never_used(packed_dir):
    file = fashion_mnist.FILES["train"].labels
    (packed_dir / file.name).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(SourceError, match="was expected"):
        read_packed(packed_dir, file)
    (packed_dir / file.name).write_bytes(gzip.compress(bytes(9000))[:-9])
    with pytest.raises(SourceError, match="cannot be read"):
        read_packed(packed_dir, file)


def test_a_wrong_download_is_an_error_and_is_tried_again_next_time(packed_dir, server, tmp_path):
    file = PackedFile("train-labels.gz", "0" * 64)
    with pytest.raises(SourceError, match="was expected"):
        download_files(server, [file], tmp_path / "downloads")
    with pytest.raises(SourceError, match="404"):
        download_files(server, [PackedFile("absent.gz", "0" * 64)], tmp_path / "downloads")


def test_data_that_is_there_is_not_overwritten(packed_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "INSTALLED_DIR", packed_dir)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="--overwrite"):
        fetch_fashion_mnist(tmp_path / "data", tmp_path / "work")
    assert (tmp_path / "data" / "mine.txt").read_text() == "precious"
    fetch_fashion_mnist(tmp_path / "data", tmp_path / "work", overwrite=True)
    assert not (tmp_path / "data" / "mine.txt").exists()


@pytest.mark.parametrize("content", [b"", b"\0\0\x0d\3", b"\0\0"])
def test_an_idx_file_of_another_kind_is_refused(content: bytes):
    with pytest.raises(ValueError, match="idx"):
        idx_array(content)


def test_the_card_names_ten_classes_and_the_licence():
    assert len(set(CARD.class_names)) == 10
    assert CARD.licence == "MIT"
