"""Folders as people have them: every file ends in a shard or in quarantine."""

import json
import os
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.unit.data.pictures import animated_gif, encoded, picture, png_claiming
from vivero.data.card import read_card
from vivero.data.clean_png import is_clean_png
from vivero.data.folder_layout import folder_layout
from vivero.data.folder_metadata import FolderMetadata
from vivero.data.imagefolder import ImportReport, import_folder
from vivero.data.quarantine import read_quarantine
from vivero.data.shards import ImageRow, read_rows, shard_paths
from vivero.errors import DataError


def fill(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def png(seed: int, mode: str = "RGB") -> bytes:
    return encoded(picture(seed, mode=mode))


def imported(folder: Path, data_dir: Path) -> ImportReport:
    return import_folder(folder, data_dir, num_processes=1)


def rows_of(data_dir: Path) -> dict[str, ImageRow]:
    paths = [path for paths in shard_paths(data_dir).values() for path in paths]
    return {row.key: row for path in paths for row in read_rows(path)}


def reasons_of(data_dir: Path) -> dict[str, str]:
    return {row.path: row.reason for row in read_quarantine(data_dir / "quarantine.parquet")}


def test_class_folders_become_labels(tmp_path):
    folder = fill(
        tmp_path / "pets",
        {"dog/1.png": png(1), "cat/1.png": png(2), "cat/deep/2.jpg": encoded(picture(3), "JPEG")},
    )
    report = imported(folder, tmp_path / "data")
    rows = rows_of(tmp_path / "data")
    assert {key: row.label for key, row in rows.items()} == {
        "cat/1.png": 0,
        "cat/deep/2.jpg": 0,
        "dog/1.png": 1,
    }
    card = read_card(tmp_path / "data")
    assert (card.name, card.class_names, card.num_channels) == ("pets", ("cat", "dog"), 3)
    assert (report.counts, report.num_quarantined) == ({"train": 3}, 0)
    assert "imported 3 colour images (3 train), 2 classes" in report.text()
    assert "num_channels: 3" in report.text()


def test_every_bad_file_has_a_row_with_its_reason(tmp_path):
    big = encoded(picture(4, 64, 64))
    folder = fill(
        tmp_path / "mix",
        {
            "a/good.png": png(1),
            "b/good.png": png(2),
            "a/truncated.png": big[: len(big) // 2],
            "a/empty.png": b"",
            "a/notes.txt": "hello",
            "a/deep.png": encoded(Image.fromarray(np.ones((9, 9), np.uint16))),
            "a/print.jpg": encoded(picture(5, mode="CMYK"), "JPEG"),
            "a/moving.gif": animated_gif(3),
            "a/bomb.png": png_claiming(50_000, 50_000),
            "b/really_png.jpg": png(6),
            ".DS_Store": b"\0\0\0\1Bud1",
            "b/.hidden.png": png(7),
            "b/.cache/thumbnail.png": png(8),
            "b/odd name \U0001f600 <script>.png": png(9),
        },
    )
    imported(folder, tmp_path / "data")
    assert reasons_of(tmp_path / "data") == {
        "a/truncated.png": "truncated",
        "a/empty.png": "zero_bytes",
        "a/notes.txt": "not_an_image",
        "a/deep.png": "sixteen_bit",
        "a/print.jpg": "cmyk",
        "a/moving.gif": "animated",
        "a/bomb.png": "decompression_bomb",
        "b/really_png.jpg": "extension_mismatch",
        ".DS_Store": "hidden",
        "b/.hidden.png": "hidden",
        "b/.cache/thumbnail.png": "hidden",
    }
    assert set(rows_of(tmp_path / "data")) == {
        "a/good.png",
        "b/good.png",
        "b/odd name \U0001f600 <script>.png",
    }


def test_links_pipes_and_sockets_are_not_followed(tmp_path):
    fill(tmp_path, {"outside/secret.png": png(1), "outside/folder/x.png": png(2)})
    folder = fill(tmp_path / "in", {"a/1.png": png(3), "b/2.png": png(4)})
    (folder / "a" / "inside.png").symlink_to(folder / "b" / "2.png")
    (folder / "a" / "outside.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "a" / "gone_outside.png").symlink_to(tmp_path / "outside" / "gone.png")
    (folder / "outside_folder").symlink_to(tmp_path / "outside" / "folder")
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "b" / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket must be short
        listener.bind("socket.png")
        os.chdir(here)
    imported(folder, tmp_path / "data")
    assert reasons_of(tmp_path / "data") == {
        "a/outside.png": "link_outside",
        "a/gone_outside.png": "link_outside",
        "outside_folder": "link_outside",
        "broken.png": "broken_link",
        "loop.png": "link_loop",
        "b/up": "link_to_folder",
        "pipe.png": "not_a_file",
        "socket.png": "not_a_file",
    }
    assert set(rows_of(tmp_path / "data")) == {"a/1.png", "a/inside.png", "b/2.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_has_a_row(tmp_path):
    folder = fill(tmp_path / "in", {"1.png": png(1), "2.png": png(2), "shut/3.png": png(3)})
    (folder / "2.png").chmod(0)
    (folder / "shut").chmod(0)
    imported(folder, tmp_path / "data")
    (folder / "shut").chmod(0o755)
    assert reasons_of(tmp_path / "data") == {"2.png": "unreadable", "shut": "unreadable"}


def test_names_that_are_not_utf8_are_kept_readable(tmp_path):
    folder = fill(tmp_path / "in", {"ok.png": png(1)})
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(png(2))
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.txt")).write_bytes(b"no")
    imported(folder, tmp_path / "data")
    assert set(rows_of(tmp_path / "data")) == {"ok.png", "caf\\xe9.png"}
    assert reasons_of(tmp_path / "data") == {"bad\\xff.txt": "not_an_image"}


def test_metadata_csv_gives_labels_and_captions(tmp_path):
    folder = fill(
        tmp_path / "in",
        {
            "1.png": png(1),
            "sub/2.png": png(2),
            "3.png": png(3),
            "metadata.csv": "\ufefffile_name,label,text\n1.png,zebra,a zebra\n./sub/2.png,ape,\n"
            "missing.png,ape,x\n../secret.png,ape,x\n/etc/passwd,ape,x\n1.png,ape,again\n,ape,x\n",
        },
    )
    report = imported(folder, tmp_path / "data")
    rows = rows_of(tmp_path / "data")
    assert report.class_names == ("ape", "zebra")
    assert (rows["1.png"].label, rows["1.png"].caption) == (1, "a zebra")
    assert (rows["sub/2.png"].label, rows["sub/2.png"].caption) == (0, "")
    assert reasons_of(tmp_path / "data") == {
        "metadata.csv": "metadata",
        "3.png": "not_in_metadata",
        "missing.png": "missing_file",
        "metadata.csv:5": "path_traversal",
        "metadata.csv:6": "path_traversal",
        "metadata.csv:7": "duplicate_metadata",
        "metadata.csv:8": "bad_metadata",
    }


def test_metadata_jsonl_in_split_folders(tmp_path):
    lines = [
        {"file_name": "1.png", "label": 7},
        {"file_name": "2.png", "label": 10, "caption": "ten"},
        {"file_name": "3.png", "label": True},
        {"file_name": "4.png", "label": None},
    ]
    text = "\n".join(json.dumps(line) for line in lines) + "\n[1]\nnot json\n"
    images = {f"{i}.png": png(i) for i in range(1, 5)}
    folder = fill(
        tmp_path / "in",
        {
            **{f"train/{name}": content for name, content in images.items()},
            "train/metadata.jsonl": text,
            "test/9.png": png(9),
            "test/metadata.jsonl": json.dumps({"file_name": "9.png", "label": 7}),
        },
    )
    report = imported(folder, tmp_path / "data")
    assert report.counts == {"train": 2, "test": 1}
    assert report.class_names == ("7", "10")
    rows = rows_of(tmp_path / "data")
    assert {key: row.label for key, row in rows.items()} == {
        "train/1.png": 0,
        "train/2.png": 1,
        "test/9.png": 0,
    }
    assert reasons_of(tmp_path / "data") == {
        "train/metadata.jsonl": "metadata",
        "test/metadata.jsonl": "metadata",
        "train/metadata.jsonl:3": "bad_metadata",
        "train/metadata.jsonl:5": "bad_metadata",
        "train/metadata.jsonl:6": "bad_metadata",
        "train/3.png": "not_in_metadata",
        "train/4.png": "no_label",
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.csv": "name,label\n1.png,x\n"}, "needs a column file_name"),
        ({"metadata.csv": b"file_name\n\xff\xfe.png\n"}, "must be UTF-8"),
        ({"metadata.csv": "file_name\n", "metadata.jsonl": "{}"}, "keep one of them"),
    ],
)
def test_metadata_that_cannot_be_read_stops_the_import(tmp_path, files, message):
    folder = fill(tmp_path / "in", {"1.png": png(1), **files})
    with pytest.raises(DataError, match=message):
        imported(folder, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("names", "splits", "class_names"),
    [
        (["1.png", "2.png"], {"train": 2}, ()),
        (["photos/1.png", "photos/2.png"], {"train": 2}, ()),
        (["photos/a/1.png", "photos/b/2.png"], {"train": 2}, ("a", "b")),
        (["train/1.png", "test/2.png"], {"train": 1, "test": 1}, ()),
        (["Train/a/1.png", "val/b/2.png"], {"train": 1, "validation": 1}, ("a", "b")),
        (["x/train/a/1.png", "x/test/b/2.png"], {"train": 1, "test": 1}, ("a", "b")),
        (["10/1.png", "9/2.png"], {"train": 2}, ("9", "10")),
    ],
)
def test_folders_are_read_as_splits_and_classes(names, splits, class_names):
    layout = folder_layout(names, FolderMetadata())
    assert Counter(file.split for file in layout.files) == splits
    assert layout.class_names == class_names
    assert {file.key for file in layout.files} == set(names)


def test_an_image_beside_class_folders_has_no_label(tmp_path):
    folder = fill(tmp_path / "in", {"a/1.png": png(1), "b/1.png": png(2), "stray.png": png(3)})
    imported(folder, tmp_path / "data")
    assert reasons_of(tmp_path / "data") == {"stray.png": "no_label"}


def test_stored_images_are_clean_and_have_the_same_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    image = picture(1)
    folder = fill(
        tmp_path / "in",
        {"1.png": encoded(image, exif=exif), "2.bmp": encoded(image, "BMP"), "3.png": png(5)},
    )
    imported(folder, tmp_path / "data")
    for row in rows_of(tmp_path / "data").values():
        assert is_clean_png(row.image_bytes)
    every_byte = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert b"secret" not in every_byte
    assert rows_of(tmp_path / "data")["3.png"].image_bytes == png(5)


@pytest.mark.parametrize(("mode", "num_channels"), [("L", 1), ("RGB", 3)])
def test_channels_are_those_of_the_content(tmp_path, mode: str, num_channels: int):
    files = {"1.png": png(1, mode), "2.png": encoded(picture(2, mode="L").convert("RGB"))}
    report = imported(fill(tmp_path / "in", files), tmp_path / "data")
    assert report.num_channels == num_channels


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    folder = fill(tmp_path / "in", {f"{i % 3}/{i}.png": png(i) for i in range(20)})
    import_folder(folder, tmp_path / "one", num_processes=1)
    import_folder(folder, tmp_path / "two", num_processes=2)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_hugging_face_reads_an_import_with_its_quarantine(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = {"train/a/1.png": png(1), "train/b/2.png": png(2), "test/a/3.png": png(3), "no.txt": ""}
    data_dir = tmp_path / "data"
    imported(fill(tmp_path / "in", files), data_dir)
    assert pq.read_table(data_dir / "quarantine.parquet").column_names[2:4] == ["path", "reason"]
    loaded = datasets.load_dataset(
        "parquet", data_dir=str(data_dir), cache_dir=str(tmp_path / "cache")
    )
    assert {split: loaded[split].num_rows for split in loaded} == {"train": 2, "test": 1}
    assert loaded["train"].features["label"].names == ["a", "b"]
    assert np.asarray(loaded["train"][1]["image"]).tolist() == np.asarray(picture(2)).tolist()


def test_nothing_is_overwritten_unless_asked_for(tmp_path):
    folder = fill(tmp_path / "in", {"1.png": png(1)})
    data_dir = fill(tmp_path / "data", {"precious.txt": "mine"})
    with pytest.raises(DataError, match="--overwrite"):
        imported(folder, data_dir)
    assert (data_dir / "precious.txt").read_text() == "mine"
    import_folder(folder, data_dir, overwrite=True, num_processes=1)
    assert set(rows_of(data_dir)) == {"1.png"}
    assert not (data_dir / "precious.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "data"}


def test_a_folder_without_images_says_why_and_leaves_the_reasons(tmp_path):
    folder = fill(tmp_path / "in", {"1.png": b"", "2.txt": "x"})
    with pytest.raises(DataError, match=r"(?s)no image.*2 files were refused.*'1.png': zero_bytes"):
        imported(folder, tmp_path / "data")
    assert reasons_of(tmp_path / "data") == {"1.png": "zero_bytes", "2.txt": "not_an_image"}
    fill(folder, {"1.png": png(1)})
    imported(folder, tmp_path / "data")
    assert set(rows_of(tmp_path / "data")) == {"1.png"}


def test_an_import_without_images_replaces_nothing(tmp_path):
    data_dir = fill(tmp_path / "data", {"precious.txt": "mine"})
    folder = fill(tmp_path / "in", {"1.png": b""})
    with pytest.raises(DataError, match="untouched"):
        import_folder(folder, data_dir, overwrite=True, num_processes=1)
    assert (data_dir / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("places", [("in", "in/data"), ("data/in", "data"), ("in", "in")])
def test_folders_inside_one_another_are_refused(tmp_path, places: tuple[str, str]):
    folder = fill(tmp_path / places[0], {"1.png": png(1)})
    with pytest.raises(DataError, match="inside one another"):
        import_folder(folder, tmp_path / places[1], overwrite=True, num_processes=1)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        imported(tmp_path / "nowhere", tmp_path / "data")
