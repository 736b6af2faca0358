"""What an import did that a person may not expect, a sentence for each thing. Pure."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

from vivero.data.class_names import alike_names, quoted, shown_names
from vivero.data.folder_layout import FolderLayout
from vivero.data.folder_metadata import STEM
from vivero.data.quarantine import QuarantineRow, reason_counts
from vivero.data.shards import SPLITS

CAPTION_EXTENSIONS = frozenset({".txt", ".caption", ".json"})
TABLE_EXTENSIONS = frozenset(
    {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".xls", ".xml", ".yaml", ".yml"}
)
LEFT_OUT = {  # reasons of good images that are not taken because of where they are
    "outside_splits": "in none of the split folders",
    "no_label": "without a class beside images that have one",
    "not_in_metadata": "without a row in the metadata",
    "missing_file": "named in the metadata but not there",
    "bad_metadata": "rows of the metadata that cannot be read",
    "path_traversal": "rows of the metadata that name a file outside their folder",
    "link_outside": "links to places outside the folder; copy the files into it",
    "link_to_folder": "links to folders; their files are imported under their own names only",
    "broken_link": "links to something that is not there",
    "link_loop": "links that lead to themselves",
    "unreadable": "that cannot be read; change the permissions",
    "extension_mismatch": "with an extension that does not fit the content; rename or convert them",
}


def import_warnings(
    layout: FolderLayout,
    imported: Collection[str],
    refused: Sequence[QuarantineRow],
    is_joining: bool,
    empty_folders: Sequence[str] = (),
    label_gaps: Sequence[str] = (),
) -> tuple[str, ...]:
    """The warnings.

    Args:
        layout: What the folders were taken for.
        imported: Keys of the images that were taken.
        refused: Everything else.
        is_joining: Whether the images join a data set, whose classes need no more images.
        empty_folders: Folders without a file.
        label_gaps: Which metadata gives no label, and why.
    """
    warnings = [*_left_out(refused), *_alike(layout), *_unread(imported, refused)]
    if empty_folders:
        warnings.append(f"folders without a file: {len(empty_folders)} ({_some(empty_folders)})")
    source = "the classes are the folders" if layout.class_names else "the images have no labels"
    warnings += [f"{gap}; {source}" for gap in label_gaps]
    if not is_joining:
        warnings += [*_lost_classes(layout, imported, refused), *_gaps(layout, imported)]
    return tuple(warnings)


def _left_out(refused: Sequence[QuarantineRow]) -> Iterator[str]:
    for reason, what in LEFT_OUT.items():
        paths = [row.path for row in refused if row.reason == reason]
        if paths:
            yield f"left out {what}: {len(paths)} ({_some(paths)})"


def _alike(layout: FolderLayout) -> Iterator[str]:
    for names in alike_names(layout.class_names):
        yield (
            f"the classes {shown_names(names)} read alike; if they are one class, give their "
            f"folders or labels one spelling and import again"
        )


def _lost_classes(
    layout: FolderLayout, imported: Collection[str], refused: Sequence[QuarantineRow]
) -> Iterator[str]:
    """Classes, and folders in the place of classes, of which no file was taken."""
    counts = Counter(name for name in layout.folders.values() if name is not None)
    taken = {layout.folders.get(key) for key in imported}
    for name, count in sorted(counts.items()):
        if name in taken:
            continue
        rows = [row for row in refused if layout.folders.get(row.path) == name]
        reasons = ", ".join(f"{reason} {number}" for reason, number in reason_counts(rows).items())
        example = f", such as {rows[0].path!r}: {rows[0].detail}" if rows else ""
        kind = "class" if name in layout.class_names else "folder"
        yield f"{kind} {quoted(name)} has no image: {count} files refused ({reasons}){example}"


def _gaps(layout: FolderLayout, imported: Collection[str]) -> Iterator[str]:
    """Classes that have images, but none in one of the splits."""
    splits: dict[int, set[str]] = {}
    for file in layout.files:
        if file.label is not None and file.key in imported:
            splits.setdefault(file.label, set()).add(file.split)
    for split in SPLITS:
        names = [layout.class_names[label] for label, found in splits.items() if split not in found]
        is_used = split == "train" or len(names) < len(splits)
        if names and is_used:
            where = "for training" if split == "train" else f"in {split}"
            yield f"without images {where}: {shown_names(sorted(names))}"


def _unread(imported: Collection[str], refused: Sequence[QuarantineRow]) -> Iterator[str]:
    """Files that may hold captions or labels, and are not read."""
    paths = [row.path for row in refused if row.reason == "not_an_image"]
    images = {_without_suffix(key) for key in imported}
    captions = [
        path
        for path in paths
        if PurePosixPath(path).suffix.lower() in CAPTION_EXTENSIONS
        and _without_suffix(path) in images
    ]
    if captions:
        yield (
            f"{len(captions)} files beside images of the same name are not read as captions "
            f"({_some(captions)}); put captions into metadata.csv, in a column text"
        )
    tables = [path for path in paths if _is_table(path) and path not in captions]
    if tables:
        yield (
            f"not read for labels: {_some(tables)}; labels come from folders, or from "
            f"metadata.csv, .tsv, .jsonl or .parquet"
        )


def _without_suffix(path: str) -> PurePosixPath:
    return PurePosixPath(path).with_suffix("")


def _is_table(path: str) -> bool:
    name = PurePosixPath(path.lower())
    is_table = bool(TABLE_EXTENSIONS.intersection(name.suffixes))  # also metadata.csv.txt
    return is_table or name.stem in (STEM, "labels")


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(quoted(path) for path in paths[:3])
    return shown + (", ..." if len(paths) > 3 else "")
