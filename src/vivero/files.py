"""Files are written whole or not at all, and named by their hash.

A reader never sees half a file: what is written goes to a temporary name in the same folder, is
flushed to the disk, and is renamed. A kill leaves at most a `.*.part` file, which nobody reads.
"""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivero.errors import ViveroError


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on error it is removed.

    Raises:
        ViveroError: When the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part_path = Path(name)
    try:
        yield part_path
        part_path.chmod(0o644)
        sync(part_path)
        part_path.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise ViveroError(
                f"no space left on the disk while writing {path}; nothing was overwritten. "
                f"Free some space (work/ is safe to delete, `dvc gc -w` clears the cache) and "
                f"run the same command again"
            ) from error
        raise
    finally:
        part_path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all."""
    with write_whole(path) as part_path:
        part_path.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write value as readable JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_dir(folder: Path) -> str:
    """Hex sha256 over the sorted relative names and hashes of all files below folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hex sha256 of value as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
