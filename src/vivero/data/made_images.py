"""The record of images made here: which model made the pixels of an image that lost its own record.

One sqlite file beside MLflow's, append-only (the database itself refuses changes), written in one
transaction for each call of `vivero sample`. It is the master; `registry.image_runs` mirrors it to
MLflow. It is asked for the origin of an image, and before an image is taken in as new data.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vivero.config.paths import tracking_root
from vivero.data.cleaning import file_content
from vivero.data.facts import pixel_hashes
from vivero.data.image_files import Refusal, decode
from vivero.errors import DataError, TrackingError
from vivero.files import read_json, sha256_of_json
from vivero.integrity.records import (
    UNREADABLE,
    BatchRecord,
    EntryRecord,
    read_known,
    read_record,
    shown,
)

DATABASE_NAME = "made_images.db"
SAMPLES_NAME = "samples.json"
MAX_BATCH_IMAGES = 200_000
WAIT_S = 30.0
Key = Literal["weights_sha256", "code_commit", "data_digest"]

TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    batch_id TEXT PRIMARY KEY, made_at TEXT NOT NULL, num_images INTEGER NOT NULL,
    weights_sha256 TEXT, code_commit TEXT, data_digest TEXT, made_with TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS images (
    pixels_sha256 TEXT NOT NULL, batch_id TEXT NOT NULL REFERENCES batches, entry TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sent (
    batch_id TEXT NOT NULL REFERENCES batches, address TEXT NOT NULL,
    PRIMARY KEY (batch_id, address));
CREATE INDEX IF NOT EXISTS images_by_pixels ON images (pixels_sha256);
CREATE INDEX IF NOT EXISTS images_by_batch ON images (batch_id);
"""
APPEND_ONLY = """
CREATE TRIGGER IF NOT EXISTS {table}_{action} BEFORE {action} ON {table}
BEGIN SELECT RAISE(ABORT, 'the record of made images only grows'); END;
"""


@dataclass(frozen=True)
class ImageBatch:
    """The images of one call of `vivero sample`.

    Attributes:
        batch_id: sha256 of how they were made and of their pixels; equal images, equal name.
        made_at: ISO 8601 in UTC.
        made_with: samples.json without its images: weights_sha256, lineage, seed, sampler, ...
        num_images: How many.
    """

    batch_id: str
    made_at: str
    made_with: dict[str, Any]
    num_images: int

    @property
    def lineage(self) -> dict[str, Any]:
        """Where they came from, by the names of `Lineage`."""
        lineage = self.made_with.get("lineage")
        known = dict(lineage) if isinstance(lineage, dict) else {}
        return {**known, "weights_sha256": self.made_with.get("weights_sha256")}


@dataclass(frozen=True)
class MadeImage:
    """One recorded image: its batch, and its index, label, seed, file and pixels_sha256."""

    batch: ImageBatch
    entry: dict[str, Any]


def pixel_hashes_of(path: Path) -> tuple[str, str]:
    """The hashes by which an image file is found in the record, however a lossless format keeps it.

    Grey kept as colour, a palette, or an alpha channel that hides nothing change nothing.

    Raises:
        DataError: When the file is no image that can be read.
    """
    content = file_content(path)
    image = content if isinstance(content, Refusal) else decode(content)
    if isinstance(image, Refusal):
        raise DataError(
            f"cannot read {path}: {image.detail}; expected an image made by `vivero sample`"
        )
    return pixel_hashes(image)


def read_batch(samples_dir: Path) -> tuple[ImageBatch, list[dict[str, Any]]]:
    """The batch that `vivero sample` wrote into a folder, and its images' entries.

    Raises:
        DataError: When samples.json or an image is missing or unreadable.
    """
    try:
        record = dict(read_json(samples_dir / SAMPLES_NAME))
        made_with, entries = parse_batch(record, record.pop("images"))
        for entry in entries:
            entry["pixels_sha256"] = pixel_hashes_of(samples_dir / entry["file"])[0]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{samples_dir} holds no whole record of `vivero sample`: {error}; make the images "
            f"again, into an empty folder"
        ) from error
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return new_batch(made_at, made_with, entries), entries


def parse_batch(made_with: object, images: object) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How a batch was made and its images' entries, from a JSON file that anybody may have written.

    Raises:
        ValueError: When a field has not its form, or there are more than MAX_BATCH_IMAGES.
    """
    if not isinstance(images, list) or len(images) > MAX_BATCH_IMAGES:
        raise ValueError(f"{UNREADABLE}: images: expected a list of at most {MAX_BATCH_IMAGES}")
    batch = read_record(BatchRecord, made_with)
    return batch.values(), [read_record(EntryRecord, entry).values() for entry in images]


def new_batch(made_at: str, made_with: dict[str, Any], entries: list[dict[str, Any]]) -> ImageBatch:
    """A batch, named by what it holds."""
    pixels = [entry["pixels_sha256"] for entry in entries]
    batch_id = sha256_of_json({"made_with": made_with, "pixels": pixels})
    return ImageBatch(batch_id, made_at, made_with, len(entries))


class MadeImages:
    """The record beside MLflow's sqlite file; many processes may use it at once."""

    def __init__(self, root: Path) -> None:
        """Use the record of this repository, made with the first batch."""
        self.path = tracking_root(root) / DATABASE_NAME

    def add(self, batch: ImageBatch, entries: list[dict[str, Any]]) -> bool:
        """Record a batch whole or not at all.

        Returns:
            Whether it is new; the same images made again are recorded once.

        Raises:
            TrackingError: When the file cannot be written.
        """
        lineage = batch.lineage
        row = (
            *(batch.batch_id, batch.made_at, batch.num_images),
            *(lineage.get(key) for key in ("weights_sha256", "code_commit", "data_digest")),
            json.dumps(batch.made_with, sort_keys=True, allow_nan=False),
        )
        images = [
            (entry["pixels_sha256"], batch.batch_id, json.dumps(entry, sort_keys=True))
            for entry in entries
        ]
        with self._connection() as database:
            added = database.execute("INSERT OR IGNORE INTO batches VALUES (?,?,?,?,?,?,?)", row)
            if added.rowcount:
                database.executemany("INSERT INTO images VALUES (?,?,?)", images)
        return bool(added.rowcount)

    def batches(self) -> list[ImageBatch]:
        """All batches, oldest first."""
        return self._batches("WHERE batch_id <> ?", "")

    def batches_with(self, key: Key, value: str) -> list[ImageBatch]:
        """Batches whose origin holds this, oldest first."""
        return self._batches(f"WHERE {key} = ?", value)  # key is one of three names

    def batches_not_sent(self, address: str) -> list[ImageBatch]:
        """Batches that this MLflow was not yet told of, oldest first."""
        return self._batches(
            "WHERE batch_id NOT IN (SELECT batch_id FROM sent WHERE address = ?)", address
        )

    def note_sent(self, batch_id: str, address: str) -> None:
        """Note that this MLflow has the batch."""
        with self._connection() as database:
            database.execute("INSERT OR IGNORE INTO sent VALUES (?,?)", (batch_id, address))

    def has(self, batch_id: str) -> bool:
        """Whether this batch is recorded here."""
        return bool(self._batches("WHERE batch_id = ?", batch_id))

    def entries(self, batch_id: str) -> list[dict[str, Any]]:
        """The images of a batch, in order."""
        query = "SELECT entry FROM images WHERE batch_id = ? ORDER BY rowid"
        return [_entry(entry) for (entry,) in self._rows(query, batch_id)]

    def images_with(self, hashes: Sequence[str]) -> list[MadeImage]:
        """Recorded images with these very pixels, the first made first.

        Args:
            hashes: See `data.facts.pixel_hashes`.
        """
        query = f"SELECT batch_id, entry FROM images WHERE {_any_of(hashes)} ORDER BY rowid"  # noqa: S608
        return [
            MadeImage(self._batches("WHERE batch_id = ?", batch_id)[0], _entry(entry))
            for batch_id, entry in self._rows(query, *hashes)
        ]

    def are_made(self, images: Sequence[Sequence[str]]) -> list[bool]:
        """Whether each image, given by the hashes of its pixels, is recorded here."""
        if not self.path.exists():
            return [False] * len(images)
        with self._connection() as database:
            return [
                bool(hashes)
                and database.execute(
                    f"SELECT 1 FROM images WHERE {_any_of(hashes)} LIMIT 1",  # noqa: S608
                    tuple(hashes),
                ).fetchone()
                is not None
                for hashes in images
            ]

    def _batches(self, condition: str, value: str) -> list[ImageBatch]:
        query = f"SELECT batch_id, made_at, made_with, num_images FROM batches {condition}"  # noqa: S608
        return [
            ImageBatch(batch_id, shown(made_at), _made_with(made_with), num_images)
            for batch_id, made_at, made_with, num_images in self._rows(
                f"{query} ORDER BY rowid", value
            )
        ]

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        with self._connection() as database:
            return database.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with (
                contextlib.closing(sqlite3.connect(self.path, timeout=WAIT_S)) as database,
                database,  # commits, or takes back
            ):
                if not database.execute("PRAGMA user_version").fetchone()[0]:
                    _make_tables(database)
                yield database
        except sqlite3.Error as error:
            raise TrackingError(
                f"the record of made images, {self.path}, cannot be used: {error}. Free some "
                f"space or repair the file; the images themselves carry their own record"
            ) from error


def _any_of(hashes: Sequence[str]) -> str:
    return f"pixels_sha256 IN ({', '.join('?' * len(hashes))})"


def _made_with(text: str) -> dict[str, Any]:
    """A batch as the database holds it; what has not its form is left out."""
    return read_known(BatchRecord, json.loads(text))[0].values()


def _entry(text: str) -> dict[str, Any]:
    return read_known(EntryRecord, json.loads(text))[0].values()


def _make_tables(database: sqlite3.Connection) -> None:
    actions = [(t, a) for t in ("batches", "images", "sent") for a in ("UPDATE", "DELETE")]
    triggers = "".join(APPEND_ONLY.format(table=table, action=action) for table, action in actions)
    database.executescript(f"BEGIN IMMEDIATE; {TABLES}{triggers} PRAGMA user_version = 1; COMMIT;")
