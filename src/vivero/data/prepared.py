"""Reader of `artifacts/prepare_data/images`: arrays of equal images, mapped into memory.

Shapes: N images, C channels, H x W pixels.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from vivero.data.shards import Split
from vivero.errors import DataError
from vivero.files import read_json, write_json

if TYPE_CHECKING:  # a worker that resizes images need not load torch
    from torch import Tensor

CARD_NAME = "card.json"
INDEX_NAME = "index.parquet"
NO_LABEL = -1
STD_CHUNK_IMAGES = 100


@dataclass(frozen=True)
class PreparedSplit:
    """One split.

    images: uint8, (N, C, H, W), memory-mapped and read-only.
    labels: int64, (N,), NO_LABEL where an image has none.
    keys: Of the raw images, in the order of the rows.
    """

    images: np.ndarray
    labels: np.ndarray
    keys: list[str]


@dataclass(frozen=True)
class PreparedCard:
    """What the prepared images are. counts: images per split. source_digest: sha256 of data/."""

    name: str
    licence: str
    class_names: list[str]
    num_channels: int
    image_size_px: int
    source_digest: str
    counts: dict[str, int]


def images_path(images_dir: Path, split: Split) -> Path:
    """Where the pixels of a split lie."""
    return images_dir / f"{split}.npy"


def labels_path(images_dir: Path, split: Split) -> Path:
    """Where the labels of a split lie."""
    return images_dir / f"{split}_labels.npy"


def open_split(images_dir: Path, split: Split) -> PreparedSplit:
    """Open one split; pixels are read from the disk as they are used.

    Raises:
        DataError: When a file is missing or damaged, or files of the split disagree.
    """
    try:
        images = np.load(images_path(images_dir, split), mmap_mode="r", allow_pickle=False)
        labels = np.load(labels_path(images_dir, split), allow_pickle=False)
        index = pq.read_table(
            images_dir / INDEX_NAME, columns=["key", "row"], filters=[("split", "==", split)]
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"split {split} in {images_dir} cannot be read ({error}); run `dvc repro prepare_data`"
        ) from error
    keys: list[str] = index.sort_by("row")["key"].to_pylist()
    if not len(images) == len(labels) == len(keys):
        raise DataError(
            f"split {split} in {images_dir} has {len(images)} images, {len(labels)} labels and "
            f"{len(keys)} keys; run `dvc repro --force prepare_data`"
        )
    return PreparedSplit(images, labels, keys)


def write_prepared_card(images_dir: Path, card: PreparedCard) -> None:
    """Write images_dir/card.json."""
    write_json(images_dir / CARD_NAME, dataclasses.asdict(card))


def read_card(images_dir: Path) -> PreparedCard:
    """Read images_dir/card.json.

    Raises:
        DataError: When it is missing or not such a card.
    """
    try:
        return PreparedCard(**read_json(images_dir / CARD_NAME))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{images_dir / CARD_NAME} cannot be read ({error}); run `dvc repro prepare_data`"
        ) from error


def to_model_range(images: "Tensor") -> "Tensor":
    """Images of uint8 as float32 in [-1, 1], the range that the model sees."""
    return images.float() / 127.5 - 1


def image_std(images: np.ndarray) -> float:
    """Standard deviation of all values of uint8 images in [-1, 1]; 0 when all are equal.

    Computed in integers, so it is the same on every machine.
    """
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, len(images), STD_CHUNK_IMAGES):
        chunk = np.asarray(images[start : start + STD_CHUNK_IMAGES])
        counts += np.bincount(chunk.reshape(-1), minlength=256)
    values = [(level, int(count)) for level, count in enumerate(counts)]
    n = sum(count for _, count in values)
    first = sum(level * count for level, count in values)
    second = sum(level**2 * count for level, count in values)
    return math.sqrt((n * second - first**2) / n**2) / 127.5
