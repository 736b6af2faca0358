"""Reads metadata files, the Hugging Face imagefolder convention: .csv, .tsv, .jsonl or .parquet.

A row names a file by `file_name`, relative to the folder of the metadata, and may carry a label
(text or a whole number) and a caption. A bad row goes to the quarantine; a file that cannot be read
as a whole stops the import, since every label would be in doubt.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vivero.data.class_names import class_name
from vivero.data.folder_files import FolderListing, printable_key, refusal
from vivero.data.metadata_tables import EXTENSIONS, MetadataTable, read_table
from vivero.data.quarantine import QuarantineRow
from vivero.data.split_names import is_numbered_split, split_of_name
from vivero.errors import DataError

STEM = "metadata"
FILE_COLUMN = "file_name"
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category")
CAPTION_COLUMNS = ("text", "caption", "captions", "prompt", "description")
SPLIT_COLUMNS = ("split", "splits", "subset", "fold", "partition", "data_split", "dataset_split")
UNREAD_LABEL_COLUMNS = ("target", "targets", "class_id", "label_id", "category_id", "classes", "y")
WINDOWS_ROOT = re.compile(r"[A-Za-z]:|[\\/]")


@dataclass(frozen=True)
class Description:
    """What the metadata says of one image.

    has_label_column: Whether its table names classes; without, the folder does.
    """

    label: str | None
    caption: str | None
    has_label_column: bool = True


@dataclass
class FolderMetadata:
    """All metadata below a folder: descriptions by key, folders that have some, bad rows.

    notes: What was read of each file, in words. label_gaps: Which files give no label, and why.
    """

    descriptions: dict[str, Description] = field(default_factory=dict)
    described_folders: set[str] = field(default_factory=set)
    refused: list[QuarantineRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    label_gaps: list[str] = field(default_factory=list)

    def covers(self, key: str) -> bool:
        """Whether metadata is in the folder of key or above it."""
        parents = (str(parent) for parent in PurePosixPath(key).parents)
        return any(parent in self.described_folders for parent in parents)

    def caption_of(self, key: str) -> str | None:
        """The caption of a file."""
        description = self.descriptions.get(key)
        return description.caption if description else None


@dataclass(frozen=True)
class _Columns:
    """The columns that are read, as the file spells them."""

    file: str
    label: str | None
    captions: tuple[str, ...]
    unread: tuple[str, ...]


class _BadRowError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def is_metadata(key: str) -> bool:
    """Whether a file is metadata by its name, in any case of its letters."""
    path = PurePosixPath(key.lower())
    return path.stem == STEM and path.suffix in EXTENSIONS


def read_metadata(listing: FolderListing) -> FolderMetadata:
    """Read every metadata file of a folder.

    Raises:
        DataError: When one cannot be read, has no column file_name or two columns with labels, or
            shares its folder with another one.
    """
    metadata = FolderMetadata()
    files = [file for file in listing.files if is_metadata(file.key)]
    _check_one_per_folder([file.key for file in files])
    for file in files:
        folder = PurePosixPath(file.key).parent
        metadata.described_folders.add(str(folder))
        metadata.refused.append(refusal(file.key, "metadata", "read for its labels and captions"))
        table = read_table(file.key, file.path)
        columns = _columns(table)
        metadata.notes.append(_note(file.key, columns))
        before = set(metadata.descriptions)
        for line, values in table.rows:
            _add(metadata, listing, table, columns, line, values)
        added = [of for key, of in metadata.descriptions.items() if key not in before]
        if columns.label is None:
            names = ", ".join(LABEL_COLUMNS)
            metadata.label_gaps.append(f"{file.key} has no column with labels ({names})")
        elif added and not any(description.label for description in added):
            metadata.label_gaps.append(f"{file.key}: the column {columns.label} holds no label")
    return metadata


def _check_one_per_folder(keys: Sequence[str]) -> None:
    found: dict[str, str] = {}
    for key in keys:
        path = PurePosixPath(key)
        other = found.setdefault(str(path.parent), path.name)
        if other != path.name:
            folder = "the folder" if str(path.parent) == "." else f"{path.parent}/"
            raise DataError(
                f"{folder} has both {other} and {path.name}; keep one of them, or leave one out "
                f"with --ignore {path.name}"
            )


def _columns(table: MetadataTable) -> _Columns:
    """Find the columns by the names of the convention, in any case of their letters."""
    names: dict[str, str] = {}
    for name in table.columns:
        names.setdefault(name.strip().lower(), name)
    others = [name for name in names if name.endswith(f"_{FILE_COLUMN}")]
    if FILE_COLUMN not in names and len(others) == 1:  # such as image_file_name
        names[FILE_COLUMN] = names[others[0]]
    if FILE_COLUMN not in names:
        raise DataError(
            f"{table.key} needs a column {FILE_COLUMN}; it has "
            f"{', '.join(table.columns) or 'nothing'}. Rename the column that holds the file names"
        )
    labels = [names[name] for name in LABEL_COLUMNS if name in names]
    splits = [spelling for name, spelling in names.items() if _is_split_column(name)]
    unread_labels = [names[name] for name in UNREAD_LABEL_COLUMNS if name in names]
    if len(labels) > 1:
        raise DataError(
            f"{table.key} has several columns that may be the label: {', '.join(labels)}. Keep the "
            f"name of one and rename the others"
        )
    if unread_labels and not labels:
        raise DataError(
            f"{table.key} has a column {unread_labels[0]}, which may be the label and is not read. "
            f"Rename it to label, or remove it"
        )
    if splits:
        raise DataError(
            f"{table.key} has a column {splits[0]}, which is not read, so test images would be "
            f"trained on. Put the files into folders train/ and test/ with metadata in each, or "
            f"remove the column"
        )
    captions = tuple(names[name] for name in CAPTION_COLUMNS if name in names)
    read = {names[FILE_COLUMN], *labels, *captions}
    unread = tuple(name for name in table.columns if name not in read)
    return _Columns(names[FILE_COLUMN], labels[0] if labels else None, captions, unread)


def _is_split_column(name: str) -> bool:
    """Whether a column says which split a row is in, such as `split`, `is_test` or `train`."""
    words = [word for word in re.split(r"[\W_]+", name) if word not in ("is", "in", "for")]
    is_split = len(words) == 1 and split_of_name(words[0]) is not None
    return name in SPLIT_COLUMNS or "split" in words or is_split or is_numbered_split(name)


def _note(key: str, columns: _Columns) -> str:
    label = f"labels from {columns.label}" if columns.label else "no column with labels"
    captions = f"captions from {', '.join(columns.captions)}" if columns.captions else "no captions"
    unread = f"; not read: {', '.join(columns.unread)}" if columns.unread else ""
    return f"{key}: {label}, {captions}{unread}"


def _add(
    metadata: FolderMetadata,
    listing: FolderListing,
    table: MetadataTable,
    columns: _Columns,
    line: int,
    values: Mapping[str, Any] | str,
) -> None:
    place = f"{table.key}:{line}"
    try:
        if isinstance(values, str):
            raise _BadRowError("bad_metadata", values)  # noqa: TRY301
        key = _key(PurePosixPath(table.key).parent, values.get(columns.file), listing)
        description = _description(values, columns, table.class_names)
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


def _key(folder: PurePosixPath, name: Any, listing: FolderListing) -> str:
    r"""The key of the file that a row names; it must be in the folder of the metadata.

    Understood are also Windows' separators (`pics\1.png`), and a name in the other of the two
    Unicode forms of an accent than the file has.
    """
    if not isinstance(name, str) or not name:
        raise _BadRowError("bad_metadata", "the row has no file_name")
    key = _checked_key(folder, name)
    if key in listing.keys or key in listing.refused_paths:
        return key
    slashed = _checked_key(folder, name.replace("\\", "/"))
    return listing.key_read_as(slashed) or slashed


def _checked_key(folder: PurePosixPath, name: str) -> str:
    path = PurePosixPath(name)
    if WINDOWS_ROOT.match(name) or ".." in re.split(r"[\\/]", name):
        raise _BadRowError("path_traversal", f"file_name {name!r} leaves the folder")
    return printable_key(str(folder / path))


def _description(
    values: Mapping[str, Any], columns: _Columns, class_names: Sequence[str]
) -> Description:
    label = values.get(columns.label) if columns.label else None
    if isinstance(label, float) and label.is_integer():
        label = int(label)  # as tables have whole numbers beside missing ones
    if label is not None and (isinstance(label, bool) or not isinstance(label, str | int)):
        raise _BadRowError("bad_metadata", f"label must be text or a whole number; it is {label!r}")
    captions = [values[name] for name in columns.captions if values.get(name) is not None]
    if any(not isinstance(caption, str) for caption in captions):
        raise _BadRowError("bad_metadata", "text or caption must be text")
    if class_names and isinstance(label, int) and 0 <= label < len(class_names):
        label = class_names[label]
    try:
        name = class_name(str(label)).strip() if label is not None else ""
    except ValueError as error:  # a number of thousands of digits
        raise _BadRowError("bad_metadata", f"label: {error}") from error
    return Description(name or None, captions[0] if captions else None, columns.label is not None)
