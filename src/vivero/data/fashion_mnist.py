"""Fashion-MNIST, the built-in data set: 70,000 grey images of 28 x 28 pixels in ten classes.

The shards are the same to the byte wherever the files come from, so `data.dvc` holds everywhere.
"""

import logging
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vivero.data.card import DataCard
from vivero.data.clean_png import stored_png
from vivero.data.folders import check_free, new_folder
from vivero.data.shards import ImageRow, Split, write_data_set, write_split
from vivero.data.sources import (
    PackedFile,
    SourceError,
    download_files,
    read_packed,
    unpack_debian_package,
)
from vivero.errors import DataError

log = logging.getLogger(__name__)

DEBIAN_PACKAGE = "dataset-fashion-mnist"
INSTALLED_DIR = Path("/usr/share/datasets/fashion-mnist")
UPSTREAM_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
CARD = DataCard(
    name="fashion-mnist",
    source="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    class_names=(
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
    num_channels=1,
    collected_by="Zalando Research (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747)",
)


@dataclass(frozen=True)
class IdxPair:
    """The images and the labels of one split, in MNIST's idx format."""

    images: PackedFile
    labels: PackedFile


FILES: dict[Split, IdxPair] = {
    "train": IdxPair(
        PackedFile(
            "train-images-idx3-ubyte.gz",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        PackedFile(
            "train-labels-idx1-ubyte.gz",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
    "test": IdxPair(
        PackedFile(
            "t10k-images-idx3-ubyte.gz",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        PackedFile(
            "t10k-labels-idx1-ubyte.gz",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}


@dataclass(frozen=True)
class FetchReport:
    """What a fetch did: the way that worked, how many images came in, how long it took."""

    way: str
    num_images: int
    seconds: float


def fetch_fashion_mnist(data_dir: Path, work_dir: Path, overwrite: bool = False) -> FetchReport:
    """Bring Fashion-MNIST in as shards: from the Debian package, or else from upstream.

    Args:
        data_dir: Where the shards go; written whole or not at all.
        work_dir: Where downloads are kept; safe to delete.
        overwrite: Whether a data_dir with content may be replaced.

    Raises:
        DataError: When data_dir is taken, or when no way leads to the files; the message lists
            each way and why it failed.
    """
    check_free(data_dir, overwrite)
    started_s = time.monotonic()
    failures = []
    for way, find_folder in _ways(work_dir / "fashion_mnist").items():
        try:
            contents = _read_all(find_folder())
        except SourceError as error:
            log.info("Fashion-MNIST not from the %s (%s); trying the next way", way, error)
            failures.append(f"  {way}: {error}")
            continue
        log.info("Fashion-MNIST comes from the %s", way)
        with new_folder(data_dir, overwrite) as part_dir:
            counts = {split: _write(part_dir, split, pair) for split, pair in contents.items()}
            write_data_set(part_dir, CARD, counts)
        return FetchReport(way, sum(counts.values()), time.monotonic() - started_s)
    names = ", ".join(file.name for pair in FILES.values() for file in (pair.images, pair.labels))
    raise DataError(
        "Fashion-MNIST could not be brought in; tried:\n" + "\n".join(failures) + "\n"
        f"What to do: connect this machine to a Debian mirror or to {UPSTREAM_URL}, or put the "
        f"files {names} into {work_dir / 'fashion_mnist' / 'upstream'} and run "
        f"`vivero data fetch` again; or use images of your own with `vivero data import FOLDER`"
    )


def _ways(work_dir: Path) -> dict[str, Callable[[], Path]]:
    files = [file for pair in FILES.values() for file in (pair.images, pair.labels)]

    def unpacked() -> Path:
        root_dir = unpack_debian_package(DEBIAN_PACKAGE, work_dir)
        return root_dir / INSTALLED_DIR.relative_to("/")

    return {
        "installed Debian package": lambda: INSTALLED_DIR,
        "downloaded Debian package": unpacked,
        "upstream download": lambda: download_files(UPSTREAM_URL, files, work_dir / "upstream"),
    }


@dataclass(frozen=True)
class _Content:
    images: np.ndarray  # uint8 (N, 28, 28)
    labels: np.ndarray  # uint8 (N,)


def _read_all(folder: Path) -> dict[Split, _Content]:
    return {
        split: _Content(
            idx_array(read_packed(folder, pair.images)), idx_array(read_packed(folder, pair.labels))
        )
        for split, pair in FILES.items()
    }


def idx_array(content: bytes) -> np.ndarray:
    """The array of an idx file of unsigned bytes.

    Raises:
        ValueError: When the content is not such a file.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError("not an idx file of unsigned bytes")
    num_dimensions = content[3]
    shape = struct.unpack_from(f">{num_dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_dimensions).reshape(shape)


def _write(part_dir: Path, split: Split, content: _Content) -> int:
    bar = tqdm(
        _rows(split, content), total=len(content.labels), desc=split, unit="image", disable=None
    )
    return write_split(part_dir, split, bar, CARD)


def _rows(split: Split, content: _Content) -> Iterator[ImageRow]:
    for index, (pixels, label) in enumerate(zip(content.images, content.labels, strict=True)):
        key = f"{split}-{index:05d}"
        yield ImageRow(key, stored_png(pixels), f"{key}.png", int(label), None)
