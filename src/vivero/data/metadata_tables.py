"""Tables that describe images, from CSV, TSV, JSON Lines or Parquet files to rows of values.

What cannot be read as a table stops with an error that names the file and what to change.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vivero.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
EXTENSIONS = (*DELIMITERS, ".jsonl", ".parquet")
UTF16_STARTS = (b"\xff\xfe", b"\xfe\xff")
MAX_BYTES = 2_000_000_000
MAX_FIELD_CHARACTERS = 10_000_000


@dataclass(frozen=True)
class MetadataTable:
    """A table.

    Attributes:
        key: Name of the file.
        columns: As the file spells them.
        rows: Line number, and values by column; where a row is none, why.
        class_names: By number, where the file defines its labels so.
    """

    key: str
    columns: Sequence[str]
    rows: Sequence[tuple[int, Mapping[str, Any] | str]]
    class_names: Sequence[str] = ()


def read_table(key: str, path: Path) -> MetadataTable:
    """Read the file at path, whose name below the imported folder is key.

    Raises:
        DataError: When it cannot be read as a table.
    """
    suffix = PurePosixPath(key).suffix.lower()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{key} has more than {MAX_BYTES} bytes; split the folder into several")
        if suffix == ".parquet":
            return _parquet(key, path)
        with path.open("rb") as file:
            if file.read(2) in UTF16_STARTS:
                raise DataError(f"{key} is UTF-16 text; save it as UTF-8")
        return _json_lines(key, path) if suffix == ".jsonl" else _delimited(key, path, suffix)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{key} cannot be read ({error}); it must be UTF-8 text. Save it again as UTF-8"
        ) from error
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise DataError(
            f"{key} cannot be read ({error}); it must be a {suffix} table with a column "
            f"file_name, as Hugging Face's imagefolder has it"
        ) from error


def _delimited(key: str, path: Path, suffix: str) -> MetadataTable:
    delimiter = DELIMITERS[suffix]
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, delimiter=delimiter, strict=True)
        columns = list(reader.fieldnames or [])
        _check_header(key, columns, delimiter)
        rows: list[tuple[int, Mapping[str, Any] | str]] = []
        for values in reader:
            is_long = None in values  # where DictReader puts what no column has
            problem = f"it has more fields than the {len(columns)} columns; quote the text"
            rows.append((reader.line_num, problem if is_long else values))
    return MetadataTable(key, columns, rows)


def _check_header(key: str, columns: Sequence[str], delimiter: str) -> None:
    repeated = {name for name in columns if columns.count(name) > 1}
    if repeated:
        raise DataError(f"{key} has the column {sorted(repeated)[0]!r} twice; rename one of them")
    others = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}
    for mark, name in others.items():
        if len(columns) == 1 and mark != delimiter and mark in columns[0]:
            raise DataError(
                f"{key} is separated by {name}; separate it by {others[delimiter]}, or save tabs "
                f"as metadata.tsv"
            )


def _json_lines(key: str, path: Path) -> MetadataTable:
    columns: dict[str, None] = {}
    rows: list[tuple[int, Mapping[str, Any] | str]] = []
    with path.open(encoding="utf-8-sig") as text:
        for line, json_text in enumerate(text, start=1):
            if not json_text.strip():
                continue
            values = _json_object(json_text)
            rows.append((line, "the line is no JSON object" if values is None else values))
            columns.update(dict.fromkeys(values or {}))
    return MetadataTable(key, list(columns) or ["file_name"], rows)


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _parquet(key: str, path: Path) -> MetadataTable:
    with pq.ParquetFile(path) as file:
        columns = file.schema_arrow.names
        values = (row for batch in file.iter_batches() for row in batch.to_pylist())
        rows = list(enumerate(values, start=1))
        names = _class_names(file.schema_arrow.metadata or {})
    return MetadataTable(key, columns, rows, names)


def _class_names(metadata: Mapping[bytes, bytes]) -> list[str]:
    """Names of the labels by number, where Hugging Face's features give them."""
    features: Any = _json_object(metadata.get(b"huggingface", b"{}").decode("utf-8", "replace"))
    for part in ("info", "features", "label", "names"):
        features = features.get(part) if isinstance(features, dict) else None
    is_named = isinstance(features, list) and all(isinstance(name, str) for name in features)
    return features if is_named else []
