"""Lists a folder that someone else filled: every entry once, links only inside, nothing opened."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vivero.data.quarantine import QuarantineRow


@dataclass(frozen=True)
class FolderFile:
    """A regular file. key: its path below the folder, with slashes. path: where to open it."""

    key: str
    path: Path


@dataclass(frozen=True)
class FolderListing:
    """What lies below a folder, both ordered by key."""

    files: list[FolderFile]
    refused: list[QuarantineRow]

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys of the files."""
        return frozenset(file.key for file in self.files)

    @cached_property
    def refused_paths(self) -> frozenset[str]:
        """Paths of what was refused."""
        return frozenset(row.path for row in self.refused)


def printable_key(relative_path: str) -> str:
    r"""A path as text that UTF-8 can hold; bytes that are not UTF-8 become \xNN."""
    return os.fsencode(relative_path).decode("utf-8", "backslashreplace")


def list_folder(folder: Path) -> FolderListing:
    """All files below folder, hidden ones and special ones as rows of the quarantine.

    A link to a file inside the folder counts as that file under its own name; a link to a folder
    is not followed, because what lies inside is listed under its real name anyway.
    """
    root = folder.resolve()
    files: dict[str, FolderFile] = {}
    refused: list[QuarantineRow] = []
    for relative_path in sorted(_entries(root, refused), key=os.fsencode):
        key = printable_key(relative_path)
        outcome = _sorted_entry(root, relative_path, key)
        if isinstance(outcome, FolderFile) and key in files:
            outcome = refusal(key, "name_collision", "another file's name reads the same")
        if isinstance(outcome, FolderFile):
            files[key] = outcome
        else:
            refused.append(outcome)
    return FolderListing(
        [files[key] for key in sorted(files)], sorted(refused, key=lambda row: row.path)
    )


def refusal(path: str, reason: str, detail: str) -> QuarantineRow:
    """A row for something that never became a row of a shard."""
    return QuarantineRow(None, None, path, reason, detail)


def _entries(root: Path, refused: list[QuarantineRow]) -> Iterator[str]:
    """Paths below root of everything that is not a folder."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    relative_path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(relative_path)
                    else:
                        yield relative_path
        except OSError as error:
            refused.append(
                refusal(printable_key(folder) or ".", "unreadable", f"folder: {error.strerror}")
            )


def _sorted_entry(root: Path, relative_path: str, key: str) -> FolderFile | QuarantineRow:
    if any(part.startswith(".") for part in relative_path.split("/")):
        return refusal(key, "hidden", "hidden files and folders are not imported")
    path = root / relative_path
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return _sorted_link(root, path, key)
    except OSError as error:
        return refusal(key, "unreadable", str(error.strerror))
    if not stat.S_ISREG(mode):
        return refusal(key, "not_a_file", "a pipe, socket or device; it was not opened")
    return FolderFile(key, path)


def _sorted_link(root: Path, path: Path, key: str) -> FolderFile | QuarantineRow:
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        # Where it leads matters more than that nothing is there.
        if not path.resolve().is_relative_to(root):
            return refusal(key, "link_outside", "a link that leaves the folder is not followed")
        return refusal(key, "broken_link", "a link to something that is not there")
    except (OSError, RuntimeError):  # RuntimeError is Python 3.11's word for a loop
        return refusal(key, "link_loop", "a link that leads to itself")
    if not target.is_relative_to(root):
        return refusal(key, "link_outside", "a link that leaves the folder is not followed")
    if target.is_dir():
        return refusal(key, "link_to_folder", "its files are imported under their own names")
    if not target.is_file():
        return refusal(key, "not_a_file", "a link to a pipe, socket or device; it was not opened")
    return FolderFile(key, target)
