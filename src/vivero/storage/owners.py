"""Which tracked file an object belongs to: objects have no names but their hashes."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.storage.examination import listing_of
from vivero.storage.stores import Store

UNKNOWN = "no file of the current dvc.lock (an older version, or an experiment)"


def owners_of_objects(root: Path, store: Store) -> dict[str, str]:
    """The path of each object that data.dvc and dvc.lock name, in words for a person.

    The files of a folder are known where its list is whole in the store.
    """
    owners: dict[str, str] = {}
    for path, oid in _tracked(root):
        owners.setdefault(oid, path)
        if oid.endswith(".dir"):
            owners[oid] = f"{path} (the list of its files)"
            for name, file_oid in _listing(store, oid).items():
                owners.setdefault(file_oid, f"{path}/{name}")
    return owners


def _listing(store: Store, oid: str) -> dict[str, str]:
    path = store.path_of(oid)
    try:
        with store.fs.open(path, "rb") as file:
            return listing_of(file.read()) or {}
    except OSError:
        return {}


def _tracked(root: Path) -> list[tuple[str, str]]:
    entries: list[dict[str, Any]] = list(_document(root / "data.dvc").get("outs") or [])
    for block in (_document(root / "dvc.lock").get("stages") or {}).values():
        entries += block.get("outs") or []
    return [(entry["path"], str(entry["md5"])) for entry in entries if "md5" in entry]


def _document(path: Path) -> dict[str, Any]:
    try:
        return YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, YAMLError):
        return {}
