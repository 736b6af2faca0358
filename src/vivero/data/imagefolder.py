"""Imports a folder that someone else made; every file ends in a shard or in quarantine.

Images that Vivero generated are refused unless the caller allows them: a model that learns from the
images of its predecessors loses what those never showed.
"""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vivero.data.card import DataCard
from vivero.data.class_names import shown_names
from vivero.data.cleaning import ImportedImage, import_file
from vivero.data.folder_files import FolderListing, list_folder, refusal, without_ignored
from vivero.data.folder_layout import FolderLayout, PlacedFile, folder_layout
from vivero.data.folder_metadata import read_metadata
from vivero.data.folder_structure import LayoutName
from vivero.data.folders import check_free, new_folder
from vivero.data.image_files import Refusal
from vivero.data.import_warnings import import_warnings
from vivero.data.isolation import Crash, Limits, map_isolated
from vivero.data.made_images import MadeImages
from vivero.data.progress import with_progress
from vivero.data.provenance import Origin
from vivero.data.quarantine import (
    QUARANTINE_NAME,
    QuarantineRow,
    reason_counts,
    worst_rows,
    write_quarantine,
)
from vivero.data.shards import (
    SPLITS,
    ImageRow,
    Split,
    write_data_set,
    write_split,
)
from vivero.errors import DataError

FILES_PER_BATCH = 8
GENERATED = "generated"  # the reason of an image that Vivero made


@dataclass(frozen=True)
class ImportChoice:
    """What a person says of a folder.

    Attributes:
        layout: What its levels mean; None = only one meaning may be possible.
        ignored: Patterns of files and folders that are left out, such as `preview*` or `a/b`.
        made: The record of generated images: an image that is in it, or that carries Vivero's
            record of having made it, is refused. None takes such images too.
    """

    layout: LayoutName | None = None
    ignored: tuple[str, ...] = ()
    made: MadeImages | None = None


DEFAULT_CHOICE = ImportChoice()


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        counts: Images per split.
        num_quarantined: Files that were not taken.
        reasons: Quarantined files per reason.
        class_names: By label.
        num_channels: 1 where every image is grey, else 3.
        seconds: Time that it took.
        layout: What the folders and the metadata were taken for.
        warnings: What a person may not expect.
    """

    counts: dict[Split, int]
    num_quarantined: int
    reasons: dict[str, int]
    class_names: tuple[str, ...]
    num_channels: int
    seconds: float
    layout: str = ""
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """The report for a terminal."""
        counts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        kind = "grey" if self.num_channels == 1 else "colour"
        classes = f"{len(self.class_names)} classes" if self.class_names else "no labels"
        lines = [
            f"imported {sum(self.counts.values())} {kind} images ({counts}), {classes}, "
            f"in {self.seconds:.1f} s",
            f"understood as: {self.layout}",
        ]
        if self.class_names:
            lines.append(f"classes: {shown_names(self.class_names)}")
        if self.num_quarantined:
            said = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
            lines.append(f"{self.num_quarantined} files in {QUARANTINE_NAME}: {said}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.num_channels == 3:
            lines.append("for colour, set prepare_data.num_channels: 3 in params.yaml")
        return "\n".join(lines)


@dataclass
class _Progress:
    """The files so far; `made` as in `ImportChoice`."""

    refused: list[QuarantineRow]
    made: MadeImages | None = None
    has_colour: bool = False
    imported: set[str] = field(default_factory=set)


def import_folder(
    folder: Path,
    data_dir: Path,
    overwrite: bool = False,
    num_processes: int = 2,
    known_names: Collection[str] = (),
    choice: ImportChoice = DEFAULT_CHOICE,
) -> ImportReport:
    """Make shards of a folder of images; it is only read.

    Taken are class folders, or metadata.csv or metadata.jsonl of the Hugging Face imagefolder
    convention, or images alone; in folders train, validation and test or without. Every file below
    folder ends as a row of a shard or as a row of data_dir/quarantine.parquet; keys are paths
    below folder. The same folder gives the same bytes.

    Args:
        folder: Where the images are.
        data_dir: Where the shards go; written whole or not at all.
        overwrite: Whether a data_dir with content may be replaced.
        num_processes: How many processes decode.
        known_names: Classes of the data set that the images shall join: without metadata an image
            is of the nearest folder with one of these names (`folder_layout`); () = guess.
        choice: What a person said of the folder.

    Raises:
        DataError: When a path is wrong or taken, the metadata cannot be read, the folders can have
            several meanings, or no file is an image that can be imported.
    """
    started_s = time.monotonic()
    _check_places(folder, data_dir, overwrite)
    listing = without_ignored(list_folder(folder), choice.ignored)
    metadata = read_metadata(listing)
    keys = [file.key for file in listing.files]
    layout = folder_layout(keys, metadata, known_names, folder.resolve().name, choice.layout)
    progress = _Progress([*listing.refused, *metadata.refused, *layout.refused], choice.made)
    with new_folder(data_dir, overwrite) as part_dir:
        counts = _write_splits(part_dir, folder, listing, layout, progress, num_processes)
        progress.refused.sort(key=lambda row: (row.path, row.reason))
        write_quarantine(part_dir / QUARANTINE_NAME, progress.refused)
        if sum(counts.values()):
            write_data_set(part_dir, _card(folder, layout, progress), counts)
        elif overwrite:
            raise _nothing_imported(folder, progress.refused, None)
    if not sum(counts.values()):
        raise _nothing_imported(folder, progress.refused, data_dir / QUARANTINE_NAME)
    return ImportReport(
        counts=counts,
        num_quarantined=len(progress.refused),
        reasons=reason_counts(progress.refused),
        class_names=layout.class_names,
        num_channels=3 if progress.has_colour else 1,
        seconds=time.monotonic() - started_s,
        layout="; ".join([layout.structure.text(), *metadata.notes]),
        warnings=import_warnings(
            layout,
            progress.imported,
            progress.refused,
            bool(known_names),
            listing.empty_folders,
            metadata.label_gaps,
        ),
    )


def _check_places(folder: Path, data_dir: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name the folder that holds the images")
    source, target = folder.resolve(), data_dir.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise DataError(
            f"{data_dir} and {folder} lie inside one another, so the import would read or replace "
            f"its own files; name an output folder elsewhere"
        )
    check_free(data_dir, overwrite)


def _write_splits(
    part_dir: Path,
    folder: Path,
    listing: FolderListing,
    layout: FolderLayout,
    progress: _Progress,
    num_processes: int,
) -> dict[Split, int]:
    paths = {file.key: file.path for file in listing.files}
    card = _card(folder, layout, progress)
    counts: dict[Split, int] = {}
    for split in SPLITS:
        files = [file for file in layout.files if file.split == split]
        if files:
            limits = Limits(num_processes, FILES_PER_BATCH)
            results = map_isolated(import_file, [paths[file.key] for file in files], limits)
            outcomes = with_progress(results, len(files), f"importing {split}")
            rows = _rows(files, outcomes, progress)
            counts[split] = write_split(part_dir, split, rows, card)
    return counts


def _rows(
    files: list[PlacedFile],
    outcomes: Iterator[ImportedImage | Refusal | Crash],
    progress: _Progress,
) -> Iterator[ImageRow]:
    for file, outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, ImportedImage) and file.problem:
            progress.refused.append(refusal(file.key, *file.problem))
        elif isinstance(outcome, ImportedImage) and (how := _recognised(outcome.origin, progress)):
            detail = f"{how}; --with-generated takes it"
            progress.refused.append(QuarantineRow(None, file.split, file.key, GENERATED, detail))
        elif isinstance(outcome, ImportedImage):
            progress.imported.add(file.key)
            progress.has_colour |= not outcome.is_grey
            yield ImageRow(file.key, outcome.content, file.key, file.label, file.caption)
        else:
            progress.refused.append(
                QuarantineRow(None, file.split, file.key, outcome.reason, outcome.detail)
            )


def _recognised(origin: Origin, progress: _Progress) -> str | None:
    """How an image was recognised as one that Vivero made; None when it was not, or is taken."""
    if progress.made is None:
        return None
    if origin.has_record:
        return "it carries Vivero's record of having made it"
    if progress.made.are_made([origin.pixel_hashes]) == [True]:
        return "its pixels are in the record of images that Vivero made"
    return None


def _card(folder: Path, layout: FolderLayout, progress: _Progress) -> DataCard:
    return DataCard(
        name=folder.resolve().name,
        source="imported from a folder",
        licence="unknown",
        class_names=layout.class_names,
        num_channels=3 if progress.has_colour else 1,
        collected_by="unknown",
    )


def _nothing_imported(folder: Path, refused: list[QuarantineRow], path: Path | None) -> DataError:
    lines = [f"  {row.path!r}: {row.reason}: {row.detail}" for row in worst_rows(refused)]
    where = f"; {path} lists them" if path else "; what was there is untouched"
    return DataError(
        f"no image in {folder} could be imported, {len(refused)} files were refused{where}. "
        f"PNG, JPEG, WebP, GIF, BMP and TIFF with 8 bits a channel are taken.\n" + "\n".join(lines)
    )
