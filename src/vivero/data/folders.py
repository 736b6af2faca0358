"""A data set's folder is built beside its place and moved there when it is whole."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vivero.data.quarantine import QUARANTINE_NAME
from vivero.errors import DataError, ViveroError

LEFT_BY_FAILURE = {QUARANTINE_NAME}  # an import that found no image leaves its reasons


@contextlib.contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes its place, on error it is removed.

    Args:
        folder: Where the result shall be.
        overwrite: Whether a folder that is there may be replaced; it stays until the end.

    Raises:
        DataError: When folder is there and overwrite is False.
        ViveroError: When the disk is full.
    """
    check_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part_dir = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    part_dir.chmod(0o755)
    try:
        yield part_dir
        check_free(folder, overwrite)
        _swap_in(part_dir, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ViveroError(
                f"no space left on the disk while writing {folder}; what was there is untouched. "
                f"Free some space (work/ is safe to delete) and run the same command again"
            ) from error
        raise
    finally:
        shutil.rmtree(part_dir, ignore_errors=True)


def check_free(folder: Path, overwrite: bool) -> None:
    """Refuse a place that is taken.

    Raises:
        DataError: When folder is a file, or a folder with content and overwrite is False.
    """
    if folder.is_file():
        raise DataError(f"{folder} is a file; name a folder for the data set")
    taken = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if taken - LEFT_BY_FAILURE and not overwrite:
        raise DataError(
            f"{folder} is there already and is not overwritten; name another folder, or ask for "
            f"it with --overwrite"
        )


def _swap_in(part_dir: Path, folder: Path) -> None:
    """Put part_dir at folder; what was there goes away only after that has worked."""
    if not os.path.lexists(folder):
        part_dir.replace(folder)
        return
    old_dir = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".old", dir=folder.parent))
    folder.replace(old_dir)
    try:
        part_dir.replace(folder)
    except OSError:
        old_dir.replace(folder)
        raise
    shutil.rmtree(old_dir)
