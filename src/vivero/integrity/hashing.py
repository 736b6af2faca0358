"""Hashes of files and folders: sha256 as manifests hold it, md5 as DVC names its objects by."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vivero.files import sha256_of_file

Found = TypeVar("Found")
MAX_THREADS = 8  # hashing lets go of the interpreter's lock


@dataclass(frozen=True)
class FileHash:
    """What a file was when it was made."""

    sha256: str
    num_bytes: int


def files_below(path: Path) -> dict[str, Path]:
    """All files of a folder by their name relative to it; a file is the only one, named ""."""
    if not path.is_dir():
        return {"": path} if path.exists() else {}
    found = (entry for entry in path.rglob("*") if entry.is_file())
    return {entry.relative_to(path).as_posix(): entry for entry in sorted(found)}


def hashes_of(paths: Iterable[Path]) -> dict[Path, FileHash]:
    """Hash files, several at a time."""
    return _in_threads(lambda path: FileHash(sha256_of_file(path), path.stat().st_size), paths)


def md5_of_path(path: Path) -> str:
    """DVC's name of a file's or a folder's content."""
    files = files_below(path)
    md5s = _in_threads(md5_of_file, files.values())
    if not path.is_dir():
        return md5s[path]
    return listing_md5({name: md5s[file] for name, file in files.items()})


def md5_of_file(path: Path) -> str:
    """Hex md5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def listing_md5(md5s: Mapping[str, str]) -> str:
    """DVC's md5 of a folder: over the JSON of the names and md5s of its files, sorted by name."""
    listing = [{"md5": md5s[name], "relpath": name} for name in sorted(md5s, key=_parts)]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _parts(name: str) -> tuple[str, ...]:
    return tuple(name.split("/"))


def _in_threads(function: Callable[[Path], Found], paths: Iterable[Path]) -> dict[Path, Found]:
    paths = list(paths)
    num_threads = min(MAX_THREADS, os.cpu_count() or 1, len(paths))
    if num_threads < 2:
        return {path: function(path) for path in paths}
    with ThreadPoolExecutor(num_threads) as pool:
        return dict(zip(paths, pool.map(function, paths), strict=True))
