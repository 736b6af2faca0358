"""Reads metadata.csv and metadata.jsonl, the Hugging Face imagefolder convention.

A row names a file by `file_name`, relative to the folder of the metadata, and may carry `label`
(text or a whole number) and `text` or `caption`. A bad row goes to the quarantine; a file that
cannot be read as a whole stops the import, since every label would be in doubt.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vivero.data.folder_files import FolderFile, FolderListing, printable_key, refusal
from vivero.data.quarantine import QuarantineRow
from vivero.errors import DataError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
CAPTION_COLUMNS = ("text", "caption")


@dataclass(frozen=True)
class Description:
    """What the metadata says of one image."""

    label: str | None
    caption: str | None


@dataclass
class FolderMetadata:
    """All metadata below a folder: descriptions by key, folders that have some, bad rows."""

    descriptions: dict[str, Description] = field(default_factory=dict)
    described_folders: set[str] = field(default_factory=set)
    refused: list[QuarantineRow] = field(default_factory=list)

    def covers(self, key: str) -> bool:
        """Whether metadata lies in the folder of key or above it."""
        parents = (str(parent) for parent in PurePosixPath(key).parents)
        return any(parent in self.described_folders for parent in parents)


class _BadRowError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def read_metadata(listing: FolderListing) -> FolderMetadata:
    """Read every metadata file of a folder.

    Raises:
        DataError: When one cannot be read, has no column file_name, or shares its folder with
            another one.
    """
    metadata = FolderMetadata()
    for file in listing.files:
        path = PurePosixPath(file.key)
        if path.name not in METADATA_NAMES:
            continue
        if str(path.parent) in metadata.described_folders:
            raise DataError(
                f"{path.parent} has both metadata.csv and metadata.jsonl; keep one of them"
            )
        metadata.described_folders.add(str(path.parent))
        metadata.refused.append(refusal(file.key, "metadata", "read for its labels and captions"))
        try:
            for line, values in _lines(file):
                _add(metadata, listing, file.key, line, values)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{file.key} cannot be read ({error}); it must be UTF-8 text with a column "
                f"file_name, as Hugging Face's imagefolder has it"
            ) from error
    return metadata


def _lines(file: FolderFile) -> Iterator[tuple[int, Any]]:
    """(line number, values); values is None where a line is not a JSON object."""
    with file.path.open(encoding="utf-8-sig", newline="") as text:
        if file.key.endswith(".csv"):
            reader = csv.DictReader(text)
            if "file_name" not in (reader.fieldnames or []):
                raise DataError(
                    f"{file.key} needs a column file_name; it has {reader.fieldnames or 'nothing'}"
                )
            for values in reader:
                yield reader.line_num, values
            return
        for line, json_text in enumerate(text, start=1):
            if json_text.strip():
                yield line, _json_object(json_text)


def _json_object(text: str) -> Any:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _add(
    metadata: FolderMetadata, listing: FolderListing, metadata_key: str, line: int, values: Any
) -> None:
    place = f"{metadata_key}:{line}"
    try:
        key = _key(PurePosixPath(metadata_key).parent, values)
        description = _description(values)
    except _BadRowError as error:
        metadata.refused.append(refusal(place, error.reason, str(error)))
        return
    if key in metadata.descriptions:
        detail = f"{key} is described a second time"
        metadata.refused.append(refusal(place, "duplicate_metadata", detail))
    elif key in listing.keys:
        metadata.descriptions[key] = description
    elif key not in listing.refused_paths:
        metadata.refused.append(refusal(key, "missing_file", f"named in {place}, but not there"))


def _key(folder: PurePosixPath, values: Any) -> str:
    """The key of the file that a row names; it must lie in the folder of the metadata."""
    name = values.get("file_name") if isinstance(values, dict) else None
    if not isinstance(name, str) or not name:
        raise _BadRowError("bad_metadata", "the row has no file_name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _BadRowError("path_traversal", f"file_name {name!r} leaves the folder")
    return printable_key(str(folder / path))


def _description(values: dict[str, Any]) -> Description:
    label = values.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, str | int)):
        raise _BadRowError("bad_metadata", f"label must be text or a whole number; it is {label!r}")
    captions = [values[name] for name in CAPTION_COLUMNS if values.get(name) is not None]
    if any(not isinstance(caption, str) for caption in captions):
        raise _BadRowError("bad_metadata", "text or caption must be text")
    try:
        name = str(label).strip() if label is not None else ""
    except ValueError as error:  # a number of thousands of digits
        raise _BadRowError("bad_metadata", f"label: {error}") from error
    return Description(name or None, captions[0] if captions else None)
