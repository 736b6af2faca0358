"""Lists a folder that someone else filled: every entry once, links only inside, nothing opened."""

import fnmatch
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from vivero.data.quarantine import QuarantineRow

# What operating systems and storage devices leave in folders, in lower case.
SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found"}
    | {"$recycle.bin", "system volume information"}
)
HIDDEN = "hidden"  # the reason in the quarantine


@dataclass(frozen=True)
class FolderFile:
    """A regular file. key: its path below the folder, with slashes. path: where to open it."""

    key: str
    path: Path


@dataclass(frozen=True)
class FolderListing:
    """What is below a folder, ordered by key.

    empty_folders: Folders without a file at any depth, but for hidden ones; the outermost of each.
    """

    files: list[FolderFile]
    refused: list[QuarantineRow]
    empty_folders: tuple[str, ...] = ()

    @cached_property
    def keys(self) -> frozenset[str]:
        """Keys of the files."""
        return frozenset(file.key for file in self.files)

    def key_read_as(self, key: str) -> str | None:
        """The key of the file that reads as key does, in either Unicode form; None for none."""
        return self._keys_by_form.get(unicodedata.normalize("NFC", key))

    @cached_property
    def _keys_by_form(self) -> dict[str, str]:
        return {unicodedata.normalize("NFC", key): key for key in self.keys}

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
    folders: list[str] = []
    for relative_path in sorted(_entries(root, refused, folders), key=os.fsencode):
        key = printable_key(relative_path)
        outcome = _sorted_entry(root, relative_path, key)
        if isinstance(outcome, FolderFile) and key in files:
            outcome = refusal(key, "name_collision", "another file's name reads the same")
        if isinstance(outcome, FolderFile):
            files[key] = outcome
        else:
            refused.append(outcome)
    used = [*files, *(row.path for row in refused if row.reason != HIDDEN)]
    return FolderListing(
        [files[key] for key in sorted(files)],
        sorted(refused, key=lambda row: row.path),
        _empty_folders(folders, used),
    )


def _empty_folders(folders: Sequence[str], used: Sequence[str]) -> tuple[str, ...]:
    """The outermost of the folders without a used path below them; hidden folders count not."""
    with_content = {".", *used, *(str(up) for path in used for up in PurePosixPath(path).parents)}
    return tuple(
        sorted(
            printable_key(folder)
            for folder in folders
            if printable_key(folder) not in with_content
            and printable_key(str(PurePosixPath(folder).parent)) in with_content
            and _hidden_reason(folder) is None
        )
    )


def without_ignored(listing: FolderListing, patterns: Sequence[str]) -> FolderListing:
    """The listing without files whose path, or a folder above them, fits a pattern of a shell.

    A pattern without a slash fits names at any depth.
    """
    if not patterns:
        return listing
    kept = [file for file in listing.files if not _is_ignored(file.key, patterns)]
    detail = "left out by --ignore"
    ignored = [refusal(key, "ignored", detail) for key in listing.keys - {f.key for f in kept}]
    return FolderListing(
        kept,
        sorted([*listing.refused, *ignored], key=lambda row: row.path),
        tuple(path for path in listing.empty_folders if not _is_ignored(path, patterns)),
    )


def _is_ignored(key: str, patterns: Sequence[str]) -> bool:
    paths = [PurePosixPath(key), *list(PurePosixPath(key).parents)[:-1]]
    return any(
        fnmatch.fnmatchcase(str(path) if "/" in pattern else path.name, pattern)
        for pattern in (_plain_pattern(pattern) for pattern in patterns)
        for path in paths
    )


def _plain_pattern(pattern: str) -> str:
    return pattern.removeprefix("./").rstrip("/")


def refusal(path: str, reason: str, detail: str) -> QuarantineRow:
    """A row for something that never became a row of a shard."""
    return QuarantineRow(None, None, path, reason, detail)


def _entries(root: Path, refused: list[QuarantineRow], folders: list[str]) -> Iterator[str]:
    """Paths below root of everything that is not a folder; the folders are added to the list."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    relative_path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(relative_path)
                        folders.append(relative_path)
                    else:
                        yield relative_path
        except OSError as error:
            refused.append(
                refusal(printable_key(folder) or ".", "unreadable", f"folder: {error.strerror}")
            )


def _sorted_entry(root: Path, relative_path: str, key: str) -> FolderFile | QuarantineRow:
    hidden_reason = _hidden_reason(relative_path)
    if hidden_reason is not None:
        return refusal(key, HIDDEN, hidden_reason)
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


def _hidden_reason(relative_path: str) -> str | None:
    """Why an entry counts as hidden; None for one that does not."""
    parts = relative_path.split("/")
    if any(part.startswith(".") for part in parts):
        return "hidden files and folders are not imported"
    if any(part.lower() in SYSTEM_NAMES for part in parts):
        return "left by an operating system; not imported"
    return None


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
