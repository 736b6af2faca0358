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

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FREE_SPACE = (
    "Free some space (work/ is safe to delete, `dvc gc -w` clears the cache) and run the same "
    "command again"
)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)


def os_error_message(error: OSError) -> str:
    """One sentence for a person: what the system refused, for which path, and what to do."""
    path = error.filename2 or error.filename
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    where = f": {path}" if path is not None else ""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in NO_SPACE:
        return f"no space left on the disk{where}. {FREE_SPACE}"
    if error.errno in REFUSED:
        return f"{reason}{where}. Choose another place, or change its owner or permissions"
    if error.errno in NO_FOLDER:
        return f"{reason}{where}. A file is where a folder is needed: choose another name"
    if error.errno == errno.ENAMETOOLONG:
        return f"{reason}{where}. Choose a shorter name"
    return f"{reason}{where}"


def check_writable_folder(folder: Path) -> None:
    """Try whether files can be written into a folder; it is made only for the trial.

    Trying is the only sure way: a permission, a read-only or full disk, a file in the way, and a
    name that is too long all show, for the user who asks.

    Raises:
        ViveroError: When they cannot; with the reason, before any work is done.
    """
    made: list[Path] = []
    try:
        os.fsencode(folder).decode("utf-8")
        for part in [*reversed(folder.absolute().parents), folder.absolute()]:
            if not part.is_dir():
                part.mkdir()
                made.append(part)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except UnicodeDecodeError as error:
        raise ViveroError(f"{folder!s:.200} is not a UTF-8 name. Choose another name") from error
    except OSError as error:
        error.filename, error.filename2 = str(folder), None
        raise ViveroError(f"cannot write there: {os_error_message(error)}") from error
    finally:
        for part in reversed(made):
            part.rmdir()


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
        if error.errno in NO_SPACE:
            raise ViveroError(
                f"no space left on the disk while writing {path}; nothing was overwritten. "
                f"{FREE_SPACE}"
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


def read_bounded_json(path: Path, max_bytes: int) -> Any:
    """The value of a JSON file that may come from anyone; no more than max_bytes are read.

    Raises:
        OSError: When the file cannot be read.
        ValueError: When it is larger, or is not JSON.
    """
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"the file is too large: expected at most {max_bytes} bytes")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


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
