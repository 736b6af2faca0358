"""Objects of DVC's cache and of a remote, struck one after the other; who sees it, and when."""

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from ruamel.yaml import YAML

from tests.proofs.corruption import OF_FILES, OF_LISTS, SWAPPED
from tests.proofs.s3_server import BUCKET
from vivero.errors import IntegrityError
from vivero.integrity.entry import verify_inputs
from vivero.integrity.hashing import md5_of_path
from vivero.storage.examination import examine_object, listing_of
from vivero.storage.stores import open_stores

REMOTE_FOLDER = "store"
DVC_SAW, ENTRY_SAW = "DVC itself", "the entry of the stage"
# DVC reads a folder's list from the remote where that of the cache is no list: then the stage reads
# whole bytes, nothing stops it, and `vivero verify` names the object.
VERIFY_SAW = "vivero verify, and the stage reads whole bytes"


@dataclass(frozen=True)
class Target:
    """An object that a stage reads.

    Attributes:
        oid: Its name.
        out: The out of DVC that it belongs to.
        reader: The first stage that reads it.
    """

    oid: str
    out: str
    reader: str


@dataclass(frozen=True)
class Trial:
    """An object that was struck. seen_by None = nobody stopped the stage."""

    target: Target
    way: str
    seen_by: str | None


def targets_of(root: Path, readers: dict[str, str]) -> list[Target]:
    """The objects of some outs, files and lists, that are not the same as another's.

    Args:
        root: Top of the workspace.
        readers: The stage that reads it, by the path of an out.
    """
    found: dict[str, Target] = {}
    for out, reader in readers.items():
        oid = locked_md5(root, out)
        found.setdefault(oid, Target(oid, out, reader))
        if oid.endswith(".dir"):
            listing = listing_of(cache_path(root, oid).read_bytes()) or {}
            for file_oid in listing.values():
                found.setdefault(file_oid, Target(file_oid, out, reader))
    return [target for target in found.values() if cache_path(root, target.oid).stat().st_size > 1]


def locked_md5(root: Path, out: str) -> str:
    documents = [
        YAML(typ="safe").load((root / name).read_text()) for name in ("data.dvc", "dvc.lock")
    ]
    entries = list(documents[0]["outs"])
    for stage in documents[1]["stages"].values():
        entries += stage.get("outs", [])
    return next(str(entry["md5"]) for entry in entries if entry["path"] == out)


def cache_path(root: Path, oid: str) -> Path:
    return root / ".dvc/cache/files/md5" / oid[:2] / oid[2:]


def remote_key(oid: str) -> str:
    return f"{REMOTE_FOLDER}/files/md5/{oid[:2]}/{oid[2:]}"


def ways_of(target: Target) -> list[str]:
    return [*OF_FILES, *(OF_LISTS if target.oid.endswith(".dir") else [SWAPPED])]


def struck(content: bytes, way: str, other: bytes, rng: random.Random) -> bytes:
    """Other bytes than before; a strike that changed nothing is tried again."""
    damaged = content
    while damaged == content:
        damaged = other if way == SWAPPED else {**OF_FILES, **OF_LISTS}[way](content, rng)
    return damaged


@contextmanager
def struck_cache(
    root: Path, target: Target, way: str, others: list[Target], rng: random.Random
) -> Iterator[None]:
    """Within, the object in the cache is bad, and as read-only as DVC trusts it to be."""
    path = cache_path(root, target.oid)
    content = path.read_bytes()
    other = cache_path(root, other_than(target, others, rng).oid).read_bytes()
    replace_read_only(path, struck(content, way, other, rng))
    forget(root, target.out)
    try:
        yield
    finally:
        replace_read_only(path, content)
        forget(root, target.out)
        with Repo(str(root)) as repo:
            repo.checkout([str(root / target.out)], force=True)


@contextmanager
def struck_remote(
    client: Any, root: Path, target: Target, way: str, others: list[Target], rng: random.Random
) -> Iterator[None]:
    """Within, the object in the remote is bad, and the cache has lost its own."""
    key, path = remote_key(target.oid), cache_path(root, target.oid)
    content = path.read_bytes()
    other = cache_path(root, other_than(target, others, rng).oid).read_bytes()
    client.put_object(Bucket=BUCKET, Key=key, Body=struck(content, way, other, rng))
    path.unlink()
    forget(root, target.out)
    try:
        yield
    finally:
        client.put_object(Bucket=BUCKET, Key=key, Body=content)
        path.parent.mkdir(exist_ok=True)
        replace_read_only(path, content)
        forget(root, target.out)
        with Repo(str(root)) as repo:
            repo.checkout([str(root / target.out)], force=True)


def other_than(target: Target, others: list[Target], rng: random.Random) -> Target:
    return rng.choice([other for other in others if other.oid != target.oid])


def replace_read_only(path: Path, content: bytes) -> None:
    """Write as bit rot does: DVC trusts what has mode 0444."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o444)


def forget(root: Path, out: str) -> None:
    """Take an out from the workspace, and all that DVC has noted elsewhere."""
    shutil.rmtree(root / ".dvc/site", ignore_errors=True)
    if (root / out).is_dir():
        shutil.rmtree(root / out)
    else:
        (root / out).unlink(missing_ok=True)


def seen_by(root: Path, target: Target, *, by_pull: bool, with_entry: bool = True) -> str | None:
    """Bring the out back as a run does, then enter the stage that reads it."""
    try:
        with Repo(str(root)) as repo:
            if by_pull:
                repo.pull([str(root / target.out)], force=True)
            else:
                repo.checkout([str(root / target.out)], force=True)
    except Exception:  # noqa: BLE001  # DVC raises many kinds, ValueError and KeyError among them
        return DVC_SAW
    if not with_entry:
        return None
    try:
        verify_inputs(root, target.reader)
    except IntegrityError:
        return ENTRY_SAW
    is_whole = md5_of_path(root / target.out) == locked_md5(root, target.out)
    return VERIFY_SAW if is_whole and is_named_by_verify(root, target) else None


def is_named_by_verify(root: Path, target: Target) -> bool:
    with open_stores(root, with_remote=False) as (cache,):
        return examine_object(cache, target.oid).problem is not None
