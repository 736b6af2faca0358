"""The embedded MLflow store follows its clone to another folder.

MLflow keeps an absolute address of every artifact. In a clone that was copied or moved, these
addresses name the folder that the clone came from: a run would write there.
"""

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from vivero.config.environment import local_artifacts_dir
from vivero.config.paths import tracking_root

# Every column in which the store of MLflow keeps the address of a file.
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
BUSY_S = 60.0

log = logging.getLogger(__name__)


def embedded_store(root: Path) -> Path:
    """The sqlite file of the store that needs no server."""
    return tracking_root(root) / "mlflow.db"


def artifacts_address(root: Path) -> str:
    """Address of the folder in which the embedded store of this clone keeps its files."""
    return local_artifacts_dir(root).resolve().as_uri()


def adopt_store(root: Path) -> None:
    """Let the addresses in the embedded store of a copied or moved clone name this clone.

    Only addresses below the artifact folder of another clone change, all of them in one
    transaction. Addresses that a person chose, such as a bucket, stay. Hold `store_lock`.

    Args:
        root: Top of the clone; its store has its tables.
    """
    here = artifacts_address(root)
    database = sqlite3.connect(embedded_store(root), timeout=BUSY_S)
    with contextlib.closing(database):
        found = database.execute("SELECT experiment_id, artifact_location FROM experiments")
        # `vivero mlflow` adds the number of an experiment that is made in its pages.
        folders = {str(address).removesuffix(f"/{number}") for number, address in found}
        olds = sorted(folder for folder in folders if _is_of_another_clone(folder, here))
        if not olds:
            return
        with database:  # all of it, or nothing
            for old in olds:
                for table, column in ADDRESSES:
                    database.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                        (here, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
    for old in olds:
        log.warning("this clone was at %s: its MLflow store now names files in %s", old, here)


def _is_of_another_clone(address: str, here: str) -> bool:
    """Whether experiments of ours were made with this address, in another folder."""
    if address == here or not address.startswith("file:///"):
        return False
    folder = Path(url2pathname(urlsplit(address).path))
    if folder.name != Path(url2pathname(urlsplit(here).path)).name:
        return False
    return folder.resolve().as_uri() != here  # another name of this folder serves as well
