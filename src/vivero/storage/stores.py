"""DVC's local cache and its remotes as stores of objects, each named by the md5 of its bytes.

The only door to DVC's own object database: it knows every kind of remote (folder, S3, ssh, ...).
"""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.config import ConfigError as DvcConfigError
from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB

from vivero.errors import ConfigError

CACHE = "cache"
IN_USE_S = 2.0
OBJECT_NAME = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Store:
    """One place that holds objects.

    Attributes:
        name: "cache", or the remote's name in quotes.
        fs: DVC's file system of it.
        path: Of the objects, in this file system.
        top: Below which a place for what is damaged is found, in this file system.
        odb: DVC's object database of it.
    """

    name: str
    fs: Any
    path: str
    top: str

    odb: HashFileDB

    @property
    def is_cache(self) -> bool:
        """Whether it is the local cache."""
        return self.name == CACHE

    def objects(self) -> list[str]:
        """The names of all objects; what an interrupted transfer has left is none."""
        if not self.fs.exists(self.path):
            return []
        names = ("".join(self.fs.parts(path)[-2:]) for path in self.fs.find(self.path))
        return sorted(name for name in names if OBJECT_NAME.fullmatch(name))

    def path_of(self, oid: str) -> str:
        """Where an object lies."""
        return str(self.fs.join(self.path, oid[:2], oid[2:]))

    def receive(self, oid: str, giver: "Store") -> None:
        """Copy an object from another store, whole or not at all.

        `dvc push` would not: where the list of a folder is there, it believes all its files to be.
        """
        self.odb.add(giver.path_of(oid), giver.fs, oid)


@contextlib.contextmanager
def open_stores(root: Path, *, with_remote: bool) -> Iterator[list[Store]]:
    """The local cache, and DVC's default remote where it is wanted.

    Raises:
        ConfigError: When there is no DVC here, or no default remote, or its settings are wrong.
    """
    try:
        with Repo(str(root)) as repo:
            odb = repo.cache.local
            stores = [Store(CACHE, odb.fs, odb.path, repo.cache.local_cache_dir, odb)]
            if with_remote:
                remote = repo.cloud.get_remote()
                odb = remote.odb
                name = f"remote '{remote.name}'"
                stores.append(Store(name, odb.fs, odb.path, remote.path, odb))
            yield stores
    except NoRemoteError as error:
        raise ConfigError(
            "DVC has no default remote here; `dvc remote add -d NAME s3://BUCKET/FOLDER` adds one, "
            "and without --remote only this machine is looked at"
        ) from error
    except (DvcConfigError, DvcException) as error:
        raise ConfigError(f"DVC cannot be opened in {root}: {error}") from error


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote here."""
    with Repo(str(root)) as repo:
        return bool(repo.config["core"].get("remote"))


def mend_run_cache(root: Path) -> None:
    """Remove the empty folders that a kill of `dvc repro` can leave in DVC's run cache.

    DVC takes the newest file of such a folder and fails for ever where there is none. A folder of
    the last moments may be another run's, which is about to fill it.
    """
    with Repo(str(root)) as repo:
        runs = Path(repo.stage_cache.cache_dir)
    for folder in runs.glob("*/*"):
        with contextlib.suppress(OSError):  # it holds files, or another run was quicker
            if time.time() - folder.stat().st_mtime > IN_USE_S:
                folder.rmdir()
