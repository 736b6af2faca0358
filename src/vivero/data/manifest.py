"""The manifest: one row per image, made by decoding all of a data set. Tables, no pixels."""

import dataclasses
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vivero.data.facts import ImageFacts, inspect_image
from vivero.data.image_files import Refusal
from vivero.data.isolation import Crash, Limits, map_isolated
from vivero.data.progress import with_progress
from vivero.data.quarantine import QuarantineRow
from vivero.data.shards import ImageRow, Split, count_rows, read_rows, shard_paths
from vivero.files import write_whole

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("split", pa.string()),
        ("label", pa.int64()),
        ("pixel_sha256", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("mode", pa.string()),
        ("num_bytes", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
    ]
)
BATCH_BYTES = 4_000_000  # of images sent to a worker at a time
MAX_BATCH_IMAGES = 256


@dataclass(frozen=True)
class ManifestRow:
    """One image of a shard that can be decoded. `path` is where it came from."""

    key: str
    split: Split
    label: int | None
    path: str
    facts: ImageFacts

    def refused(self, reason: str, detail: str) -> QuarantineRow:
        """The row as one that is kept out."""
        return QuarantineRow(self.key, self.split, self.path, reason, detail)


@dataclass(frozen=True)
class Inspection:
    """All rows of a data set, decoded: those that are images, and those that are not."""

    images: list[ManifestRow]
    refused: list[QuarantineRow]

    @property
    def num_rows(self) -> int:
        """Rows of the data set."""
        return len(self.images) + len(self.refused)


def inspect_data(data_dir: Path, num_processes: int) -> Inspection:
    """Decode every image of the shards in worker processes.

    Raises:
        DataError: When the shards are missing, incomplete or damaged.
    """
    shards = shard_paths(data_dir)
    total = sum(count_rows(path) for paths in shards.values() for path in paths)
    images: list[ManifestRow] = []
    refused: list[QuarantineRow] = []
    waiting: deque[tuple[Split, ImageRow]] = deque()

    def contents() -> Iterator[bytes]:
        for split, paths in shards.items():
            for path in paths:
                for row in read_rows(path):
                    waiting.append((split, dataclasses.replace(row, image_bytes=b"")))
                    yield row.image_bytes

    limits = Limits(num_processes, images_per_batch(shards, total))
    results = map_isolated(inspect_image, contents(), limits)
    for outcome in with_progress(results, total, "decoding"):
        split, row = waiting.popleft()
        path = row.path or row.key
        if isinstance(outcome, Refusal | Crash):
            refused.append(QuarantineRow(row.key, split, path, outcome.reason, outcome.detail))
        else:
            images.append(ManifestRow(row.key, split, row.label, path, outcome))
    return Inspection(images, refused)


def images_per_batch(shards: dict[Split, list[Path]], num_images: int) -> int:
    """How many images travel to a worker together: many small ones, few large ones."""
    num_bytes = sum(path.stat().st_size for paths in shards.values() for path in paths)
    mean_bytes = max(1, num_bytes // max(1, num_images))
    return max(1, min(MAX_BATCH_IMAGES, BATCH_BYTES // mean_bytes))


def write_manifest(path: Path, rows: list[ManifestRow]) -> None:
    """Write the rows as Parquet, in their order."""
    values = [
        {"key": row.key, "split": row.split, "label": row.label, **dataclasses.asdict(row.facts)}
        for row in rows
    ]
    with write_whole(path) as part_path:
        table = pa.Table.from_pylist(values, schema=SCHEMA)
        pq.write_table(table, part_path, compression="zstd")
