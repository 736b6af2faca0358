"""What the names of folders and the metadata say of each file: its split, class and caption. Pure.

- Folders around everything are passed over: `photos/cat/1.png` alone is like `cat/1.png`.
- If all folders of the next level have the names of splits, they are splits.
- Without metadata the first folder below is the class; fewer than two classes are none.
- With metadata the labels are its own, and a file that it does not name is left out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vivero.data.folder_files import refusal
from vivero.data.folder_metadata import METADATA_NAMES, FolderMetadata
from vivero.data.image_files import EXTENSIONS
from vivero.data.quarantine import QuarantineRow
from vivero.data.shards import SPLITS, Split

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
IMAGE_EXTENSIONS = frozenset().union(*EXTENSIONS.values())
WHOLE_NUMBER = re.compile(r"-?\d{1,18}")


@dataclass(frozen=True)
class PlacedFile:
    """A file that may be an image, and what the folder says of it."""

    key: str
    split: Split
    label: int | None
    caption: str | None


@dataclass(frozen=True)
class FolderLayout:
    """All files that may be images, by split and key; the class names; what has no place."""

    files: list[PlacedFile]
    class_names: tuple[str, ...]
    refused: list[QuarantineRow]


def folder_layout(keys: Sequence[str], metadata: FolderMetadata) -> FolderLayout:
    """Give every file its split, label and caption.

    Args:
        keys: Of all files of the folder.
        metadata: Its metadata; the files of the metadata themselves are passed over.
    """
    candidates = [key for key in keys if PurePosixPath(key).name not in METADATA_NAMES]
    place_keys = [key for key in candidates if _looks_like_image(key)]
    depth = _wrapper_depth(place_keys)
    has_splits = _has_splits(place_keys, depth)
    classes = {
        key: _class_of(key, depth + has_splits, metadata)
        for key in candidates
        if not metadata.covers(key) or key in metadata.descriptions
    }
    class_names = _class_names([classes[key] for key in place_keys if key in classes], metadata)
    labels = {name: label for label, name in enumerate(class_names)}
    files, refused = [], []
    for key in candidates:
        if key not in classes:
            refused.append(refusal(key, "not_in_metadata", "no row of the metadata names it"))
        elif class_names and classes[key] not in labels and _looks_like_image(key):
            refused.append(refusal(key, "no_label", "other images have a label, this one has none"))
        else:
            name = classes[key]
            label = labels.get(name) if name is not None else None
            description = metadata.descriptions.get(key)
            caption = description.caption if description else None
            files.append(PlacedFile(key, _split(key, depth, has_splits), label, caption))
    return FolderLayout(
        sorted(files, key=lambda file: (SPLITS.index(file.split), file.key)), class_names, refused
    )


def _looks_like_image(key: str) -> bool:
    """By its name, which decides nothing but the layout; the content is judged later."""
    suffix = PurePosixPath(key).suffix.lower()
    return not suffix or suffix in IMAGE_EXTENSIONS


def _wrapper_depth(keys: Sequence[str]) -> int:
    """How many folders stand around everything, but not those with the name of a split."""
    depth = 0
    while keys:
        names = {PurePosixPath(key).parts[depth] for key in keys}
        if len(names) > 1 or any(len(PurePosixPath(key).parts) <= depth + 1 for key in keys):
            return depth
        if names.pop().lower() in SPLIT_NAMES:
            return depth
        depth += 1
    return 0


def _has_splits(keys: Sequence[str], depth: int) -> bool:
    names = {PurePosixPath(key).parts[depth].lower() for key in keys}
    is_in_folders = all(len(PurePosixPath(key).parts) > depth + 1 for key in keys)
    return bool(keys) and is_in_folders and names <= set(SPLIT_NAMES)


def _split(key: str, depth: int, has_splits: bool) -> Split:
    parts = PurePosixPath(key).parts
    if not has_splits or len(parts) <= depth:
        return "train"
    return SPLIT_NAMES.get(parts[depth].lower(), "train")


def _class_of(key: str, depth: int, metadata: FolderMetadata) -> str | None:
    if key in metadata.descriptions:
        return metadata.descriptions[key].label
    parts = PurePosixPath(key).parts
    return parts[depth] if len(parts) > depth + 1 else None


def _class_names(classes: Sequence[str | None], metadata: FolderMetadata) -> tuple[str, ...]:
    """Sorted names, whole numbers by their value; none when one folder holds everything."""
    names = {name for name in classes if name is not None}
    has_labels = any(description.label for description in metadata.descriptions.values())
    if len(names) < 2 and not has_labels:
        return ()
    if all(WHOLE_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
