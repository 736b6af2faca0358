"""Adds new images to a data set that is there: what it holds stays as it is, row by row.

Taken is what `import_folder` takes, unless its pixels are there already or its class is none of the
data set's.

Where the data set has classes and the new folder no metadata, the class of an image is the nearest
folder above it, within the new folder, with the name of one of them. If there is no such folder at
all, but the new folder itself has such a name, all its images are of that class.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vivero.config.paths import work_dir
from vivero.data.card import read_card
from vivero.data.class_names import known_spelling, reading, shown_names
from vivero.data.folders import new_folder
from vivero.data.image_files import Refusal
from vivero.data.imagefolder import DEFAULT_CHOICE, ImportChoice, import_folder
from vivero.data.incoming import Source
from vivero.data.made_images import MadeImages
from vivero.data.manifest import inspect_data
from vivero.data.progress import with_progress
from vivero.data.quarantine import (
    QUARANTINE_NAME,
    QuarantineRow,
    read_quarantine,
    reason_counts,
    write_quarantine,
)
from vivero.data.shards import (
    SPLITS,
    ImageRow,
    Split,
    read_rows,
    shard_paths,
    write_data_set,
    write_split,
)
from vivero.errors import DataError
from vivero.plain_text import one_line

ALL_REFUSED_EXIT_CODE = 3  # of the command, so that a flow can tell it from other failures
NO_IMAGES = ("hidden", "metadata", "ignored")  # reasons of files that are not meant as images
PRESENT = "present"  # the reason of a file whose pixels are in the data set already


@dataclass(frozen=True)
class AppendReport:
    """What came of new files.

    Attributes:
        counts: Images that were added, by split.
        num_present: Images whose pixels were there already; they are dropped.
        reasons: Files that were refused, by reason.
        left_out_path: Table of them all where none was added and some were refused, else None.
        warnings: What a person may not expect.
    """

    counts: dict[Split, int]
    num_present: int
    reasons: dict[str, int]
    left_out_path: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_all_refused(self) -> bool:
        """Whether there were images to add, and each was refused."""
        num_refused = sum(n for reason, n in self.reasons.items() if reason not in NO_IMAGES)
        return bool(num_refused) and not self.counts and not self.num_present

    def text(self) -> str:
        """The report for a terminal."""
        said = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        added = sum(self.counts.values())
        kept = "" if added else "; the data is as it was"
        where = f"; {self.left_out_path} says why" if self.left_out_path else ""
        summary = (
            f"added {added} images, {self.num_present} were there already, "
            f"refused {said or 'none'}{kept}{where}"
        )
        return "\n".join([summary, *(f"warning: {warning}" for warning in self.warnings)])


@dataclass
class _Sorted:
    """New images by split, and what was not taken."""

    rows: dict[Split, list[ImageRow]] = field(default_factory=dict)
    refused: list[QuarantineRow] = field(default_factory=list)
    present: list[QuarantineRow] = field(default_factory=list)
    warnings: tuple[str, ...] = ()


def left_out_path(data_dir: Path) -> Path:
    """Where the reasons lie when nothing was added: data_dir, quarantine and all, is as it was."""
    return work_dir(data_dir.parent) / "left_out.parquet"


def read_left_out(data_dir: Path) -> list[QuarantineRow]:
    """What the last append left out and why, PRESENT among the reasons.

    Returns:
        The rows by path; none when the last append added an image or refused no file.
    """
    path = left_out_path(data_dir)
    return read_quarantine(path) if path.exists() else []


def bring_here(source: Source, prefix: str, folder: Path) -> None:
    """Copy all that a source holds into an empty folder, under its names below a prefix.

    Raises:
        DataError: When a name would lead out of the folder.
    """
    arrivals = source.arrivals()
    for arrival in with_progress(arrivals, len(arrivals), "fetching"):
        path = (folder / arrival.key.removeprefix(prefix).lstrip("/")).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise DataError(f"'{arrival.key}' leads out of its folder; remove it at the source")
        content = source.content(arrival.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"" if isinstance(content, Refusal) else content)


def append_folder(
    folder: Path,
    data_dir: Path,
    with_generated: bool = False,
    num_processes: int = 2,
    choice: ImportChoice = DEFAULT_CHOICE,
    root: Path | None = None,
) -> AppendReport:
    """Add the images of a folder to data_dir; without a new one data_dir is not touched.

    What was refused goes to data_dir's quarantine; when nothing was added, to left_out_path.

    Args:
        folder: Where the new images are, in folders named like the classes of data_dir or laid out
            as for `import_folder`; it is only read.
        data_dir: The data set; replaced by the larger one, whole or not at all.
        with_generated: Whether images that Vivero made are taken as well.
        num_processes: How many processes decode.
        choice: What a person said of the folder.
        root: Repository whose record of generated images is used; None = the parent of data_dir.

    Raises:
        DataError: When folder cannot be read, or data_dir is no data set.
    """
    shard_paths(data_dir)  # before any work: is there a data set at all?
    left_out_path(data_dir).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{data_dir.name}.", dir=data_dir.parent) as name:
        fresh_dir = Path(name) / "fresh"
        made = None if with_generated else MadeImages(root or data_dir.parent)
        choice = replace(choice, made=made)
        sorted_out = _sorted_out(folder, fresh_dir, data_dir, num_processes, choice)
    counts = {split: len(rows) for split, rows in sorted_out.rows.items()}
    if counts:
        _write_larger(data_dir, sorted_out)
    refused, present = sorted_out.refused, sorted_out.present
    path = None if counts or not refused else left_out_path(data_dir)
    if path is not None:
        write_quarantine(path, sorted([*refused, *present], key=lambda row: row.path))
    return AppendReport(counts, len(present), reason_counts(refused), path, sorted_out.warnings)


def _sorted_out(
    folder: Path,
    fresh_dir: Path,
    data_dir: Path,
    num_processes: int,
    choice: ImportChoice,
) -> _Sorted:
    result, known_names = _Sorted(), read_card(data_dir).class_names
    try:
        report = import_folder(
            folder,
            fresh_dir,
            num_processes=num_processes,
            known_names=known_names,
            choice=choice,
        )
        result.warnings = report.warnings
    except DataError:
        if not (fresh_dir / QUARANTINE_NAME).exists():
            raise
        result.refused = read_quarantine(fresh_dir / QUARANTINE_NAME)
        return result
    result.refused = read_quarantine(fresh_dir / QUARANTINE_NAME)
    present = set(_pixels_by_key(data_dir, num_processes).values())
    pixels = _pixels_by_key(fresh_dir, num_processes)
    for split, row in _placed_rows(fresh_dir, data_dir, result):
        if pixels[split, row.key] in present:
            detail = "its pixels are in the data set already"
            result.present.append(QuarantineRow(None, split, row.key, PRESENT, detail))
        else:
            sha256 = pixels[split, row.key]
            present.add(sha256)
            result.rows.setdefault(split, []).append(replace(row, key=f"added/{sha256[:24]}"))
    return result


def _pixels_by_key(data_dir: Path, num_processes: int) -> dict[tuple[str, str], str]:
    """Hash of the pixels of every image, by split and key."""
    rows = inspect_data(data_dir, num_processes).images
    return {(row.split, row.key): row.facts.pixel_sha256 for row in rows}


def _placed_rows(
    fresh_dir: Path, data_dir: Path, result: _Sorted
) -> Iterator[tuple[Split, ImageRow]]:
    """The new images with the data set's own number of their class; others are refused."""
    names, fresh_names = read_card(data_dir).class_names, read_card(fresh_dir).class_names
    for split, row in _all_rows(fresh_dir):
        name = None if row.label is None else fresh_names[row.label]
        known = None if name is None else known_spelling(name, names)
        if names and known is None:
            detail = _unknown_class(name, names)
            result.refused.append(QuarantineRow(None, split, row.key, "unknown_class", detail))
        else:
            label = None if known is None else names.index(known)
            yield split, replace(row, label=label)


def _unknown_class(name: str | None, names: Sequence[str]) -> str:
    """Why a class is none of the data set's."""
    alike = [known for known in names if name is not None and reading(known) == reading(name)]
    advice = f", of which {shown_names(alike)} reads alike: use that spelling" if alike else ""
    shown = "not given" if name is None else one_line(name)
    return f"its class is {shown}; the data set has {', '.join(map(one_line, names))}{advice}"


def _all_rows(data_dir: Path) -> Iterator[tuple[Split, ImageRow]]:
    for split, paths in shard_paths(data_dir).items():
        for path in paths:
            for row in read_rows(path):
                yield split, row


def _write_larger(data_dir: Path, new: _Sorted) -> None:
    card = read_card(data_dir)
    quarantine_path = data_dir / QUARANTINE_NAME
    kept = read_quarantine(quarantine_path) if quarantine_path.exists() else []
    with new_folder(data_dir, overwrite=True) as part_dir:
        counts: dict[Split, int] = {}
        for split in SPLITS:
            before = (row for place, row in _all_rows(data_dir) if place == split)
            count = write_split(part_dir, split, _chained(before, new.rows.get(split, [])), card)
            if count:
                counts[split] = count
        refused = [row for row in new.refused if row not in kept]
        write_quarantine(part_dir / QUARANTINE_NAME, [*kept, *refused])
        write_data_set(part_dir, card, counts)


def _chained(before: Iterator[ImageRow], added: list[ImageRow]) -> Iterator[ImageRow]:
    yield from before
    yield from added
