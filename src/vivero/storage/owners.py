"""Which tracked file an object belongs to: objects have no names but their hashes."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.integrity.records import OBJECT_NAME
from vivero.storage.examination import UNREADABLE, listing_of
from vivero.storage.stores import Store

UNKNOWN = "no file of the current dvc.lock (an older version, or an experiment)"


def owners_of_objects(root: Path, stores: Sequence[Store]) -> dict[str, str]:
    """The path of each object that data.dvc and dvc.lock name, in words for a person.

    The files of a folder are known where its list is readable in one of the stores.
    """
    owners: dict[str, str] = {}
    for path, oid in _tracked(root):
        owners.setdefault(oid, path)
        if oid.endswith(".dir"):
            owners[oid] = f"{path} (the list of its files)"
            for name, file_oid in _listing(stores, oid).items():
                owners.setdefault(file_oid, f"{path}/{name}")
    return owners


def _listing(stores: Sequence[Store], oid: str) -> dict[str, str]:
    for store in stores:
        with contextlib.suppress(*UNREADABLE), store.fs.open(store.path_of(oid), "rb") as file:
            listing = listing_of(file.read())
            if listing is not None:
                return listing
    return {}


def _tracked(root: Path) -> list[tuple[str, str]]:
    entries: list[dict[str, Any]] = list(_document(root / "data.dvc").get("outs") or [])
    for block in (_document(root / "dvc.lock").get("stages") or {}).values():
        entries += block.get("outs") or []
    tracked = [(entry["path"], str(entry["md5"])) for entry in entries if "md5" in entry]
    return [(path, oid) for path, oid in tracked if OBJECT_NAME.fullmatch(oid)]


def _document(path: Path) -> dict[str, Any]:
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, YAMLError):
        return {}
