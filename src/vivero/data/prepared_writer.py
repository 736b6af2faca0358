"""Writer of `artifacts/prepare_data/images`; `data.prepared` reads it."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vivero.data.image_files import Refusal
from vivero.data.isolation import Crash, Limits, map_isolated
from vivero.data.manifest import images_per_batch
from vivero.data.placement import PlacedImage
from vivero.data.prepared import INDEX_NAME, NO_LABEL, images_path, labels_path
from vivero.data.progress import with_progress
from vivero.data.resizing import RawImage, prepare_image
from vivero.data.shards import SPLITS, Split, read_rows, shard_paths
from vivero.errors import DataError

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("row", pa.int64()),
        ("label", pa.int64()),
        ("pixel_sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class ImageForm:
    """What every prepared image looks like."""

    size_px: int
    num_channels: int


def write_arrays(
    images_dir: Path, placed: list[PlacedImage], raw_dir: Path, form: ImageForm, num_processes: int
) -> None:
    """Write the pixels and labels of every split; decoding happens in worker processes.

    Raises:
        DataError: When raw_dir does not hold what its manifest says.
    """
    arrays = {
        split: _empty_split(images_dir, split, [i for i in placed if i.split == split], form)
        for split in SPLITS
    }
    shards = shard_paths(raw_dir)
    limits = Limits(num_processes, images_per_batch(shards, len(placed)))
    waiting: deque[PlacedImage] = deque()
    results = map_isolated(prepare_image, _raw_images(shards, placed, form, waiting), limits)
    num_written = 0
    for pixels in with_progress(results, len(placed), "resizing"):
        image = waiting.popleft()
        if isinstance(pixels, Refusal | Crash):
            raise DataError(
                f"{image.key} passed validate_data and cannot be decoded now: {pixels.reason} "
                f"({pixels.detail}). Has data/ changed? Run `dvc repro validate_data`"
            )
        arrays[image.split][image.row] = pixels
        num_written += 1
    if num_written != len(placed):
        raise DataError(
            f"the manifest has {len(placed)} images and data/ only {num_written} of them; "
            f"run `dvc repro validate_data`"
        )
    for array in arrays.values():
        array.flush()


def _empty_split(
    images_dir: Path, split: Split, images: list[PlacedImage], form: ImageForm
) -> np.memmap:
    labels = [NO_LABEL if image.label is None else image.label for image in images]
    np.save(labels_path(images_dir, split), np.array(labels, np.int64), allow_pickle=False)
    path = images_path(images_dir, split)
    array = np.lib.format.open_memmap(
        path,
        mode="w+",
        dtype=np.uint8,
        shape=(len(images), form.num_channels, form.size_px, form.size_px),
    )
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here; while writing, a SIGBUS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _raw_images(
    shards: dict[Split, list[Path]],
    placed: list[PlacedImage],
    form: ImageForm,
    waiting: deque[PlacedImage],
) -> Iterator[RawImage]:
    """The bytes of all placed images in the order of the shards; their places go to waiting."""
    places = {(image.source_split, image.key): image for image in placed}
    for split, paths in shards.items():
        for path in paths:
            for row in read_rows(path):
                image = places.get((split, row.key))
                if image is not None:
                    waiting.append(image)
                    yield RawImage(row.image_bytes, form.size_px, form.num_channels)


def write_index(images_dir: Path, placed: list[PlacedImage]) -> None:
    """Write which image lies in which row of which split."""
    rows = [{name: getattr(image, name) for name in INDEX_SCHEMA.names} for image in placed]
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    pq.write_table(table, images_dir / INDEX_NAME, compression="zstd")
