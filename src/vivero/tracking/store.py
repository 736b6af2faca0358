"""The door to MLflow: a client that fails fast, speaks low, and loads no pickle.

Importing this module imports MLflow, which takes seconds: do it where nobody waits.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from vivero.config.environment import local_artifacts_dir, tracking_uri
from vivero.config.paths import tracking_root
from vivero.errors import TrackingError
from vivero.integrity.records import shown
from vivero.tracking.server import is_reachable, without_credentials

# MLflow's own defaults wait about four minutes for a dead server, per call. What a person set
# in the environment wins, but for the pickles.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"

import mlflow  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from requests.exceptions import RequestException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

LOCK_TIMEOUT_S = 120.0
MAX_FILTER_CHARACTERS = 500

REFUSALS = (MlflowException, RequestException, SQLAlchemyError, OSError)


def open_client(root: Path) -> MlflowClient:
    """A client of the MLflow that the environment names; a fresh sqlite store is made first.

    Raises:
        TrackingError: When the server does not answer.
    """
    uri = tracking_uri(root)
    if not is_reachable(uri):
        raise TrackingError(unreachable(uri))
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with refusals(uri):
        _set_global_address(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if uri.startswith("sqlite:"):
            # Two processes that make the tables of one new file at once destroy each other's.
            with store_lock(root):
                client.search_experiments(max_results=1)
    return client


def _set_global_address(uri: str) -> None:
    """Tell MLflow's own global, which its registry and loaders ask, where it lies.

    MLflow also writes the address into the environment, where it would look as if a person had
    set it, for another repository too: that is undone.
    """
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ.get(name) for name in names}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def quoted(value: str) -> str:
    """A value for a filter of MLflow, which has no safe way to write a quote.

    Raises:
        TrackingError: When it could end the quotation.
    """
    if not value.isprintable() or set(value) & set("'\"`\\") or len(value) > MAX_FILTER_CHARACTERS:
        raise TrackingError(
            f"{shown(value)!r} cannot be searched for in MLflow; expected one line of at most "
            f"{MAX_FILTER_CHARACTERS} characters without quotes and backslashes"
        )
    return f"'{value}'"


def experiment_id(client: MlflowClient, root: Path, name: str) -> str:
    """Id of the experiment, made when it is missing.

    Without a server the artifacts go below the repository, not below the current folder.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        is_served = tracking_uri(root).startswith(("http:", "https:", "databricks"))
        location = None if is_served else local_artifacts_dir(root).resolve().as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # somebody was quicker, or it is a real refusal
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment '{name}' was deleted in MLflow; restore it (`mlflow experiments restore "
            f"-x {found.experiment_id}`) or give register.experiment in params.yaml another name, "
            f"and run the same command again"
        )
    return str(found.experiment_id)


@contextlib.contextmanager
def store_lock(root: Path) -> Iterator[None]:
    """Hold what only one process of this repository may do in MLflow at a time.

    A thread that holds it may take it again.

    Raises:
        TrackingError: When another process holds it for too long.
    """
    lock_path = tracking_root(root) / "mlflow.db.lock"
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_path.resolve(), timeout=LOCK_TIMEOUT_S, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrackingError(
            f"another process holds {lock_path} for more than {LOCK_TIMEOUT_S:.0f} s; "
            f"wait for it to end, and run the same command again"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Turn what MLflow, HTTP and the database raise into one clear TrackingError."""
    try:
        yield
    except REFUSALS as error:
        reason = without_password(str(error), uri).splitlines()
        raise TrackingError(
            f"MLflow at {without_credentials(uri)} refused or broke off: "
            f"{reason[0] if reason else type(error).__name__}. Check it with `vivero doctor`, "
            f"then run the same command again; nothing recorded locally is lost"
        ) from error


def unreachable(uri: str) -> str:
    """What to say when nobody answers at uri."""
    return (
        f"MLflow at {without_credentials(uri)} does not answer. Start it, or correct or unset "
        f"MLFLOW_TRACKING_URI (without it an sqlite file in the repository is used), then run "
        f"the same command again"
    )


def without_password(text: str, uri: str) -> str:
    """The text with the address that holds a password replaced by the one that holds none."""
    return text.replace(uri, without_credentials(uri))
