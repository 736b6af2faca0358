"""Damaged files are moved aside, never deleted: somebody may want to see what became of them."""

import shutil
from pathlib import Path

from vivero.storage.stores import Store


def quarantine_file(path: Path, folder: Path, name: str) -> Path:
    """Move a file or folder of this machine to folder/name."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    return target


def quarantine_object(store: Store, oid: str, folder: Path, stamp: str) -> str:
    """Move an object out of DVC's sight: of the cache to folder, of a remote beside its objects.

    Returns:
        Where it lies now.
    """
    if store.is_cache:
        return str(quarantine_file(Path(store.path_of(oid)), folder, f"cache/{oid}"))
    target = str(store.fs.join(store.top, "quarantine", stamp, oid))
    store.fs.copy(store.path_of(oid), target)
    store.fs.remove(store.path_of(oid))
    return target
