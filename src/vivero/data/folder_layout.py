"""What the names of folders and the metadata say of each file: its split, class and caption. Pure.

- The levels of the folder are splits, classes or neither (`folder_structure`).
- Without metadata a folder is a class; fewer than two classes are none.
- With metadata the labels are its own, or those of the folders if it has no column for them, and
  a file that it does not name is left out.
- Where the classes are known, because the images join a data set that has some, and there is no
  metadata, the class is the nearest folder with the name of one: `monday/cat/1.png` is a cat, and
  so is `cat/1.png` alone.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vivero.data.class_names import class_name, known_spelling, sorted_names
from vivero.data.folder_files import refusal
from vivero.data.folder_metadata import FolderMetadata, is_metadata
from vivero.data.folder_structure import LayoutName, Structure, understand
from vivero.data.image_files import EXTENSIONS
from vivero.data.other_formats import OTHER_IMAGE_EXTENSIONS
from vivero.data.quarantine import QuarantineRow
from vivero.data.shards import SPLITS, Split

IMAGE_EXTENSIONS = frozenset().union(*EXTENSIONS.values()) | OTHER_IMAGE_EXTENSIONS


@dataclass(frozen=True)
class PlacedFile:
    """A file that may be an image, and what the folder says of it.

    problem: Why it has no place, reason and detail, should it be an image in spite of its name.
    """

    key: str
    split: Split
    label: int | None
    caption: str | None
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class FolderLayout:
    """All files that may be images, by split and key; the class names; what has no place.

    folders: The class folder of each file, for messages. structure: What the levels mean.
    """

    files: list[PlacedFile]
    class_names: tuple[str, ...]
    refused: list[QuarantineRow]
    structure: Structure
    folders: Mapping[str, str | None]


def folder_layout(
    keys: Sequence[str],
    metadata: FolderMetadata,
    known_names: Collection[str] = (),
    folder_name: str = "",
    asked: LayoutName | None = None,
) -> FolderLayout:
    """Give every file its split, label and caption.

    Args:
        keys: Of all files of the folder.
        metadata: Its metadata; the files of the metadata themselves are passed over.
        known_names: Classes of the data set that the files join; () = guess from the folders.
            Where there is metadata, they are not looked at.
        folder_name: Of the folder itself. It is the class of all files where it is one of
            known_names and no folder below it is.
        asked: What the levels mean; None = only one meaning may be possible.

    Returns:
        The layout. With known_names its classes are those that were found, and a file below none
        of them keeps the name of its own folder as class, which the data set will not know.

    Raises:
        DataError: When the levels can have several meanings.
    """
    candidates = [key for key in keys if not is_metadata(key)]
    place_keys = _image_names(candidates)
    paths = [PurePosixPath(key).parts for key in candidates if key in place_keys]
    structure = understand(paths, asked, known_names, bool(metadata.described_folders))
    is_joining = bool(known_names) and not metadata.described_folders
    if is_joining:
        classes = _known_classes(candidates, place_keys, known_names, folder_name)
    else:
        classes = _guessed_classes(candidates, structure, metadata)
    found = {classes[key] for key in place_keys if key in classes}
    class_names = sorted_names(found) if is_joining else _class_names(found, metadata)
    labels = {name: label for label, name in enumerate(class_names)}
    files, refused = [], []
    for key in candidates:
        split = structure.split_of(PurePosixPath(key).parts)
        problem = None
        if key not in classes:
            problem = ("not_in_metadata", "no row of the metadata names it")
        elif split is None:
            problem = ("outside_splits", "it is in none of the split folders")
        elif labels and classes[key] not in labels and not is_joining:
            problem = ("no_label", "other images have a label, this one has none")
        if problem and (key in place_keys or key not in classes):
            refused.append(refusal(key, *problem))
        else:
            label = labels.get(classes[key] or "")
            caption = metadata.caption_of(key)
            files.append(PlacedFile(key, split or "train", label, caption, problem))
    files.sort(key=lambda file: (SPLITS.index(file.split), file.key))
    return FolderLayout(files, class_names, refused, structure, classes)


def _image_names(keys: Sequence[str]) -> set[str]:
    """Keys that look like images; they decide the layout, the content is judged later.

    Names without an extension count where no image has one, and where it has no other way in: a
    LICENSE beside images is none.
    """
    suffixes = {key: PurePosixPath(key).suffix.lower() for key in keys}
    named = {key for key, suffix in suffixes.items() if suffix in IMAGE_EXTENSIONS}
    return named or {key for key, suffix in suffixes.items() if not suffix}


def _known_classes(
    keys: Sequence[str], place_keys: Collection[str], known_names: Collection[str], folder_name: str
) -> dict[str, str | None]:
    """The nearest folder of each file with a known name; else its own folder, which is unknown."""
    nearest = {key: _nearest_known(key, known_names) for key in keys}
    own_name = known_spelling(folder_name, known_names)
    if own_name is not None and not any(nearest[key] for key in place_keys):
        return dict.fromkeys(keys, own_name)
    return {
        key: name or class_name(PurePosixPath(key).parent.name) or None
        for key, name in nearest.items()
    }


def _nearest_known(key: str, known_names: Collection[str]) -> str | None:
    names = (parent.name for parent in PurePosixPath(key).parents)
    return next((known for name in names if (known := known_spelling(name, known_names))), None)


def _guessed_classes(
    keys: Sequence[str], structure: Structure, metadata: FolderMetadata
) -> dict[str, str | None]:
    """The class of each file that has a place: of its metadata, or of its folder."""
    return {
        key: _class_of(key, structure, metadata)
        for key in keys
        if not metadata.covers(key) or key in metadata.descriptions
    }


def _class_of(key: str, structure: Structure, metadata: FolderMetadata) -> str | None:
    if key in metadata.descriptions and metadata.descriptions[key].has_label_column:
        return metadata.descriptions[key].label
    folder = structure.class_of(PurePosixPath(key).parts)
    return None if folder is None else class_name(folder)


def _class_names(classes: Collection[str | None], metadata: FolderMetadata) -> tuple[str, ...]:
    """Sorted names; none when one folder holds everything."""
    names = sorted_names(classes)
    has_labels = any(description.label for description in metadata.descriptions.values())
    return names if len(names) >= 2 or has_labels else ()
