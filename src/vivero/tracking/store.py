"""The door to MLflow: a client that fails fast, speaks low, and loads no pickle.

Importing this module imports MLflow, which takes seconds: do it where nobody waits.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vivero.config.environment import tracking_uri
from vivero.config.paths import tracking_root
from vivero.errors import TrackingError
from vivero.integrity.records import shown
from vivero.tracking.locations import adopt_store, artifacts_address, embedded_store
from vivero.tracking.server import is_server, without_credentials

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
from mlflow.utils.credentials import get_default_host_creds  # noqa: E402
from mlflow.utils.rest_utils import http_request  # noqa: E402
from requests.exceptions import ProxyError, RequestException, SSLError  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

LOCK_TIMEOUT_S = 120.0
MAX_FILTER_CHARACTERS = 500

PROBE_TIMEOUT_S = 5.0
REFUSED, PROXY_REFUSES = (401, 403), 407
ADDRESS = (
    "Correct or unset MLFLOW_TRACKING_URI (without it an sqlite file in the repository is used)"
)
SIGN_IN = (
    "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what "
    "the server knows"
)
PROXY = "Correct HTTP_PROXY or HTTPS_PROXY, or name the server in NO_PROXY"
CERTIFICATE = "Set MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE to what signed it"

REFUSALS = (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError)


@dataclass(frozen=True)
class Fault:
    """Why a server cannot be used.

    Attributes:
        what: What was found, with the address.
        advice: What to do.
        cause: What the network, the proxy or the server reported; empty when `what` says it.
    """

    what: str
    advice: str
    cause: str = ""

    @property
    def message(self) -> str:
        """All of it, for an error."""
        cause = f" Reported: {self.cause}" if self.cause else ""
        return f"{self.what}. {self.advice}, then run the same command again.{cause}"


def find_fault(uri: str, timeout_s: float = PROBE_TIMEOUT_S) -> Fault | None:
    """Ask a server once; None when it can be used.

    MLflow's own client asks a real question, so proxies, certificates, users and tokens count as
    they do for every later call, from the same variables. An sqlite file is always there, and a
    database is asked by MLflow itself.
    """
    if not is_server(uri):
        return None
    where = f"MLflow at {without_credentials(uri)}"
    try:
        answer = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/search",
            "POST",
            json={"max_results": 1},
            timeout=timeout_s,
            max_retries=0,
            raise_on_status=False,
        )
    except (MlflowException, RequestException, OSError) as error:
        return _fault_of_network(where, error, uri)
    what = f"{where} answers with status {answer.status_code}"
    if answer.status_code in REFUSED:
        return Fault(f"{what} and refuses the user", SIGN_IN)
    if answer.status_code == PROXY_REFUSES:
        return Fault(f"the proxy before {where} wants a user", PROXY)
    if not answer.ok:
        return Fault(what, ADDRESS)
    try:
        is_mlflow = isinstance(answer.json(), dict)
    except ValueError:
        is_mlflow = False
    return None if is_mlflow else Fault(f"{where} answers, but not as an MLflow server", ADDRESS)


def _fault_of_network(where: str, error: Exception, uri: str) -> Fault:
    """The fault, from what requests raised below MLflow's own error."""
    below: BaseException = error
    while not isinstance(below, RequestException) and below.__context__ is not None:
        below = below.__context__
    reason = getattr(below.args[0] if below.args else below, "reason", below)
    lines = without_password(str(reason), uri).splitlines() or [type(below).__name__]
    cause = lines[0].rpartition(": ")[2].rstrip("')")
    if isinstance(below, SSLError):
        return Fault(f"the certificate of {where} is not trusted", CERTIFICATE, cause)
    if isinstance(below, ProxyError):
        return Fault(f"the proxy before {where} does not lead there", PROXY, cause)
    return Fault(
        f"{where} does not answer", f"Start it, or {ADDRESS[0].lower()}{ADDRESS[1:]}", cause
    )


def open_client(root: Path) -> MlflowClient:
    """A client of the MLflow that the environment names; a fresh sqlite store is made first.

    Raises:
        TrackingError: When the server does not answer.
    """
    uri = tracking_uri(root)
    fault = find_fault(uri)
    if fault is not None:
        raise TrackingError(fault.message)
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with refusals(uri):
        _set_global_address(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if uri.startswith("sqlite:"):
            # Two processes that make the tables of one new file at once destroy each other's.
            with store_lock(root):
                client.search_experiments(max_results=1)
                if uri == f"sqlite:///{embedded_store(root)}":
                    adopt_store(root)
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
        location = None if is_served else artifacts_address(root)
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


def without_password(text: str, uri: str) -> str:
    """The text with the address that holds a password replaced by the one that holds none."""
    return text.replace(uri, without_credentials(uri))
