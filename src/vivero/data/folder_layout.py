"""What the names of folders and the metadata say of each file: its split, class and caption. Pure.

- Folders around everything are passed over: `photos/cat/1.png` alone is like `cat/1.png`.
- If all folders of the next level have the names of splits, they are splits.
- Without metadata the first folder below is the class; fewer than two classes are none.
- With metadata the labels are its own, and a file that it does not name is left out.
- Where the classes are known, because the images join a data set that has some, and there is no
  metadata, the class is the nearest folder with the name of one: `monday/cat/1.png` is a cat, and
  so is `cat/1.png` alone.
"""

import re
from collections.abc import Collection, Mapping, Sequence
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


def folder_layout(
    keys: Sequence[str],
    metadata: FolderMetadata,
    known_names: Collection[str] = (),
    folder_name: str = "",
) -> FolderLayout:
    """Give every file its split, label and caption.

    Args:
        keys: Of all files of the folder.
        metadata: Its metadata; the files of the metadata themselves are passed over.
        known_names: Classes of the data set that the files join; () = guess from the folders.
            Where there is metadata, they are not looked at.
        folder_name: Of the folder itself. It is the class of all files where it is one of
            known_names and no folder below it is.

    Returns:
        The layout. With known_names its classes are those that were found, and a file below none
        of them keeps the name of its own folder as class, which the data set will not know.
    """
    candidates = [key for key in keys if PurePosixPath(key).name not in METADATA_NAMES]
    place_keys = [key for key in candidates if _looks_like_image(key)]
    depth = _wrapper_depth(place_keys)
    has_splits = _has_splits(place_keys, depth)
    is_joining = bool(known_names) and not metadata.described_folders
    if is_joining:
        classes = _known_classes(candidates, place_keys, known_names, folder_name)
    else:
        classes = _guessed_classes(candidates, depth + has_splits, metadata)
    found = {classes[key] for key in place_keys if key in classes}
    class_names = _sorted_names(found) if is_joining else _class_names(found, metadata)
    labels = {name: label for label, name in enumerate(class_names)}
    files, refused = [], []
    for key in candidates:
        if key not in classes:
            refused.append(refusal(key, "not_in_metadata", "no row of the metadata names it"))
        elif _lacks_label(key, classes, labels) and not is_joining:
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


def _lacks_label(key: str, classes: Mapping[str, str | None], labels: Mapping[str, int]) -> bool:
    return bool(labels) and classes[key] not in labels and _looks_like_image(key)


def _known_classes(
    keys: Sequence[str], place_keys: Sequence[str], known_names: Collection[str], folder_name: str
) -> dict[str, str | None]:
    """The nearest folder of each file with a known name; else its own folder, which is unknown."""
    nearest = {key: _nearest_known(key, known_names) for key in keys}
    if folder_name in known_names and not any(nearest[key] for key in place_keys):
        return dict.fromkeys(keys, folder_name)
    return {key: name or PurePosixPath(key).parent.name or None for key, name in nearest.items()}


def _nearest_known(key: str, known_names: Collection[str]) -> str | None:
    names = (parent.name for parent in PurePosixPath(key).parents)
    return next((name for name in names if name in known_names), None)


def _guessed_classes(
    keys: Sequence[str], depth: int, metadata: FolderMetadata
) -> dict[str, str | None]:
    """The class of each file that has a place: of its metadata, or of its folder at this depth."""
    return {
        key: _class_of(key, depth, metadata)
        for key in keys
        if not metadata.covers(key) or key in metadata.descriptions
    }


def _class_of(key: str, depth: int, metadata: FolderMetadata) -> str | None:
    if key in metadata.descriptions:
        return metadata.descriptions[key].label
    parts = PurePosixPath(key).parts
    return parts[depth] if len(parts) > depth + 1 else None


def _class_names(classes: Collection[str | None], metadata: FolderMetadata) -> tuple[str, ...]:
    """Sorted names; none when one folder holds everything."""
    names = _sorted_names(classes)
    has_labels = any(description.label for description in metadata.descriptions.values())
    return names if len(names) >= 2 or has_labels else ()


def _sorted_names(classes: Collection[str | None]) -> tuple[str, ...]:
    """Each name once, whole numbers by their value."""
    names = {name for name in classes if name is not None}
    if all(WHOLE_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
