"""Where a command writes: tried when the command line is read, before any work is done."""

from pathlib import Path

from vivero.errors import ConfigError
from vivero.files import check_writable_folder


def writable_folder(folder: Path) -> Path:
    """A folder that files can be written into; it need not be there yet."""
    check_writable_folder(folder)
    return folder


def replaceable_folder(folder: Path) -> Path:
    """A folder that is made beside its place and then moved there."""
    check_writable_folder(folder.absolute().parent if folder.is_dir() else folder)
    return folder


def writable_file(path: Path | None) -> Path | None:
    """A file in a folder that files can be written into; None stays None.

    Raises:
        ConfigError: When a folder is there.
    """
    if path is None:
        return None
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; add the name of a file")
    check_writable_folder(path.absolute().parent)
    return path
