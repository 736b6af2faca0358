"""Images from outside: listed, read and judged one by one, from a folder and from S3."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vivero.config.variables import own_variables
from vivero.data.image_files import Refusal
from vivero.data.incoming import FolderSource, Form, inspect_file, look_at, open_source
from vivero.data.incoming import IncomingFile as File
from vivero.errors import DataError

FORM = Form(size_px=16, num_channels=1, min_side_px=8, max_side_px=64, blank_max_std=1.0)


def png(seed: int, side_px: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero_bytes"),
        (b"rubbish", "not_an_image"),
        (png(0)[:-20], "truncated"),
        (png(0, 4), "too_small"),
        (png(0, 65), "too_large"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(content: bytes, reason: str):
    found = inspect_file(File("x.png", content, FORM))
    assert isinstance(found, Refusal)
    assert found.reason == reason


def test_a_folder_is_looked_through_and_copies_count_once(tmp_path: Path):
    for name, content in {"a.png": png(1), "b.png": png(2), "c.png": png(1), "d.png": b""}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / ".hidden.png").write_bytes(png(3))
    (tmp_path / "out.png").symlink_to("/etc/hostname")
    source = FolderSource(tmp_path)
    keys = sorted(arrival.key for arrival in source.arrivals())
    assert keys == ["a.png", "b.png", "c.png", "d.png"]
    looked = look_at(source, [*keys, "gone.png"], FORM, num_processes=1)
    assert looked.keys == ["a.png", "b.png"]
    assert looked.images.shape == (2, 1, 16, 16)
    assert {row.path: row.reason for row in looked.refused} == {
        "c.png": "duplicate",
        "d.png": "zero_bytes",
        "gone.png": "unreadable",
    }


def test_an_old_date_of_a_copy_does_not_hide_it(tmp_path: Path):
    path = tmp_path / "old.png"
    path.write_bytes(png(1))
    os.utime(path, (1.0, 1.0))
    (arrival,) = FolderSource(tmp_path).arrivals()
    assert arrival.arrived_at > 1e9


def test_an_address_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="neither a folder nor s3://"):
        open_source("ftp://there/x", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        open_source("file", tmp_path)


SERVICES = """
[profile team]
services = ours
[services ours]
s3 =
  endpoint_url = http://127.0.0.1:3
"""
KEY = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.mark.parametrize(
    ("variables", "reported"),
    [
        ({**KEY, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, 'URL: "http://127.0.0.1:1/bucket'),
        (
            {
                **KEY,
                "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
                "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2",
            },
            'URL: "http://127.0.0.1:2/bucket',
        ),
        ({**KEY, "AWS_PROFILE": "team"}, 'URL: "http://127.0.0.1:3/bucket'),
        ({**KEY, "AWS_PROFILE": "nobody"}, "profile (nobody) could not be found"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Unable to locate credentials"),
        ({**KEY, "AWS_ENDPOINT_URL": "http://[::1"}, "Invalid"),
        (
            {**KEY, "AWS_ENDPOINT_URL": "http://s3.internal", "HTTP_PROXY": "socks5://a:1"},
            "HTTPS_PROXY",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_server_of_s3_is_the_one_that_botos_client_finds(
    variables: dict[str, str], reported: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    (tmp_path / "config").write_text(SERVICES)
    always = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in own_variables({**always, **variables}).items():
        if not name.startswith("PYTHON"):
            monkeypatch.setenv(name, value)
    source = open_source("s3://bucket/incoming", tmp_path)
    for ask in (source.arrivals, lambda: source.content("bucket/incoming/1.png")):
        with pytest.raises(DataError, match="s3://bucket/incoming") as caught:
            ask()
        assert reported in str(caught.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_prefix_of_s3_is_a_source_like_a_folder(tmp_path: Path, monkeypatch):
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host if host != '0.0.0.0' else '127.0.0.1'}:{port}"  # noqa: S104
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        source = open_source("s3://bucket/incoming", tmp_path)
        with pytest.raises(DataError, match="cannot list s3://bucket/incoming"):
            source.arrivals()
        files = source.file_system  # type: ignore[attr-defined]
        files.mkdir("bucket")
        for seed in range(3):
            files.pipe_file(f"bucket/incoming/top/{seed}.png", png(seed))
        files.pipe_file("bucket/elsewhere/4.png", png(4))
        arrivals = source.arrivals()
        assert sorted(arrival.key for arrival in arrivals) == [
            f"bucket/incoming/top/{seed}.png" for seed in range(3)
        ]
        assert min(arrival.arrived_at for arrival in arrivals) > 1e9
        looked = look_at(source, [arrival.key for arrival in arrivals], FORM, num_processes=1)
        assert len(looked.keys) == 3
        assert isinstance(source.content("bucket/incoming/none.png"), Refusal)
    finally:
        server.stop()
