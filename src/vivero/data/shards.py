"""Parquet shards in the Hugging Face layout: the only form in which raw images enter Vivero.

`data/<split>-00000-of-0000N.parquet`, at most 64 MB each, with the columns key, image (a struct of
bytes and path, declared as an Image feature), label and caption. The same rows give the same bytes
under the same version of pyarrow: fixed order, fixed row groups, fixed compression, no timestamps.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from vivero.data.card import DataCard, write_card
from vivero.data.clean_png import MAX_IMAGE_BYTES
from vivero.errors import DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

ROWS_PER_GROUP = 1000
GROUP_BYTES = 16_000_000  # large images make smaller row groups: reading needs little memory
SHARD_NAME = re.compile(r"(train|validation|test)-(\d{5})-of-(\d{5})\.parquet")
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("label", pa.int64()),
        pa.field("caption", pa.string()),
    ]
)


@dataclass(frozen=True)
class ImageRow:
    """One image as it lies in a shard. `path` is its file name at the source, if it had one."""

    key: str
    image_bytes: bytes
    path: str | None
    label: int | None
    caption: str | None


def write_split(data_dir: Path, split: Split, rows: Iterable[ImageRow], card: DataCard) -> int:
    """Write one split as shards into data_dir, which should be a folder that nobody reads yet.

    Returns:
        The number of rows. No rows make no shard.
    """
    schema = SCHEMA.with_metadata({"huggingface": _features(card)})
    part_paths: list[Path] = []
    num_rows = 0
    for shard_rows in _shard_groups(rows):
        part_path = data_dir / f".{split}-{len(part_paths):05d}.part"
        with pq.ParquetWriter(
            part_path, schema, compression="zstd", compression_level=3, use_dictionary=False
        ) as writer:
            for group in shard_rows:
                writer.write_table(_table(group, schema), row_group_size=len(group))
                num_rows += len(group)
        part_paths.append(part_path)
    for index, part_path in enumerate(part_paths):
        part_path.replace(data_dir / f"{split}-{index:05d}-of-{len(part_paths):05d}.parquet")
    return num_rows


def write_data_set(data_dir: Path, card: DataCard, counts: dict[Split, int]) -> None:
    """Finish a data set: its card, and the header that tells `datasets` which files are shards.

    Without the header `load_dataset` would take quarantine.parquet for a part of train.
    """
    write_card(data_dir, card)
    files = "".join(
        f"  - split: {split}\n    path: {split}-*.parquet\n"
        for split in SPLITS
        if counts.get(split)
    )
    (data_dir / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"Images as Parquet shards; `card.json` says what they are and where they come from.\n",
        encoding="utf-8",
    )


def _features(card: DataCard) -> str:
    """The Hugging Face features of a shard, as its schema's metadata carries them."""
    label: dict[str, Any] = {"dtype": "int64", "_type": "Value"}
    if card.class_names:
        label = {"names": list(card.class_names), "_type": "ClassLabel"}
    text = {"dtype": "string", "_type": "Value"}
    features = {"key": text, "image": {"_type": "Image"}, "label": label, "caption": text}
    return json.dumps({"info": {"features": features}}, ensure_ascii=False)


def _table(rows: list[ImageRow], schema: pa.Schema) -> pa.Table:
    columns = {
        "key": [row.key for row in rows],
        "image": [{"bytes": row.image_bytes, "path": row.path} for row in rows],
        "label": [row.label for row in rows],
        "caption": [row.caption for row in rows],
    }
    return pa.Table.from_pydict(columns, schema=schema)


def _shard_groups(rows: Iterable[ImageRow]) -> Iterator[Iterator[list[ImageRow]]]:
    """Rows as shards of row groups; a shard must be consumed before the next is asked for."""
    groups = _row_groups(rows)
    waiting = next(groups, None)

    def one_shard() -> Iterator[list[ImageRow]]:
        nonlocal waiting
        room_bytes = MAX_IMAGE_BYTES
        while waiting is not None and _num_bytes(waiting) <= room_bytes:
            room_bytes -= _num_bytes(waiting)
            group, waiting = waiting, next(groups, None)
            yield group

    while waiting is not None:
        yield one_shard()


def _num_bytes(rows: list[ImageRow]) -> int:
    return sum(len(row.image_bytes) for row in rows)


def _row_groups(rows: Iterable[ImageRow]) -> Iterator[list[ImageRow]]:
    group: list[ImageRow] = []
    num_bytes = 0
    for row in rows:
        if len(row.image_bytes) > MAX_IMAGE_BYTES:
            raise ValueError(f"{row.key} has {len(row.image_bytes)} bytes > {MAX_IMAGE_BYTES}")
        if group and (
            len(group) == ROWS_PER_GROUP or num_bytes + len(row.image_bytes) > GROUP_BYTES
        ):
            yield group
            group, num_bytes = [], 0
        group.append(row)
        num_bytes += len(row.image_bytes)
    if group:
        yield group


def shard_paths(data_dir: Path) -> dict[Split, list[Path]]:
    """The shards of every split, in order.

    Raises:
        DataError: When there are none, or one of a split is missing.
    """
    shards: dict[Split, list[Path]] = {}
    totals: dict[Split, int] = {}
    for path in sorted(data_dir.glob("*.parquet")):
        match = SHARD_NAME.fullmatch(path.name)
        if match:
            split: Split = match[1]  # type: ignore[assignment]
            shards.setdefault(split, []).append(path)
            totals[split] = int(match[3])
    if not shards:
        raise DataError(
            f"{data_dir} holds no shards named like train-00000-of-00001.parquet; bring data in "
            f"with `vivero data fetch` or `vivero data import FOLDER --out {data_dir}`"
        )
    for split, paths in shards.items():
        expected = [f"{split}-{i:05d}-of-{totals[split]:05d}.parquet" for i in range(totals[split])]
        names = [path.name for path in paths]
        if names != expected:
            odd = sorted(set(names) ^ set(expected))
            raise DataError(
                f"split {split} in {data_dir} should be {totals[split]} shards; missing or too "
                f"many: {', '.join(odd[:5])}. Run `vivero data verify`, or bring the data in again"
            )
    return {split: shards[split] for split in SPLITS if split in shards}


def count_rows(path: Path) -> int:
    """The number of rows of a shard, from its footer."""
    return int(_open(path).metadata.num_rows)


def read_rows(path: Path, rows_per_batch: int = 256) -> Iterator[ImageRow]:
    """The rows of one shard in order; few are in memory at a time.

    Raises:
        DataError: When the file is damaged or its columns are not those of a shard.
    """
    file = _open(path)
    try:
        for batch in file.iter_batches(batch_size=rows_per_batch):
            for values in batch.to_pylist():
                image = values["image"] or {}
                yield ImageRow(
                    key=values["key"] or "",
                    image_bytes=image.get("bytes") or b"",
                    path=image.get("path"),
                    label=values["label"],
                    caption=values["caption"],
                )
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _open(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    schema = file.schema_arrow.remove_metadata()
    if schema != SCHEMA:
        raise DataError(
            f"{path} must have the columns {_columns(SCHEMA)}; it has {_columns(schema)}. "
            f"`vivero data import FOLDER` writes shards of the right form"
        )
    return file


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is not a readable Parquet file ({error}); `vivero data verify` names what differs "
        f"from data.dvc, `dvc checkout data.dvc --force` or `vivero data fetch` brings it back"
    )


def rows_with_keys(data_dir: Path, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """The bytes of the images with these (split, key); only shards that hold some are read."""
    found: dict[tuple[str, str], bytes] = {}
    for split, paths in shard_paths(data_dir).items():
        keys = [key for wanted_split, key in wanted if wanted_split == split]
        for path in paths if keys else []:
            table = pq.read_table(path, columns=["key", "image"], filters=[("key", "in", keys)])
            for row in table.to_pylist():
                found[split, row["key"]] = row["image"]["bytes"] or b""
    return found
