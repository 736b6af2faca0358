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
from vivero.errors import ConfigError, TrackingError
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
from mlflow.store.db.utils import create_sqlalchemy_engine  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from mlflow.utils.credentials import get_default_host_creds  # noqa: E402
from mlflow.utils.rest_utils import http_request  # noqa: E402
from requests import Request, Response  # noqa: E402
from requests.adapters import HTTPAdapter  # noqa: E402
from requests.exceptions import (  # noqa: E402
    InvalidHeader,
    ProxyError,
    RequestException,
    SSLError,
)
from requests.utils import (  # noqa: E402
    get_environ_proxies,
    prepend_scheme_if_needed,
    select_proxy,
)
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
PROXY = "Correct HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, or name the server in NO_PROXY"
SETTING = "Correct or unset the MLFLOW_* variable that asks for it"
WRITABLE = (
    "Work in a clone that you may write to, or set MLFLOW_TRACKING_URI to the address of an MLflow "
    "server"
)
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
    they do for every later call, from the same variables. A database is asked for a connection
    once, where MLflow itself would try for minutes; an sqlite file is always there.
    """
    where = f"MLflow at {without_credentials(uri)}"
    if not is_server(uri):
        return _fault_of_database(where, uri) if _is_database(uri) else None
    fault = _fault_of_address(where, uri)
    if fault is not None:
        return fault
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
    except (ValueError, ImportError) as error:  # of a setting, or of a package that one needs
        return Fault(f"{where} cannot be asked", SETTING, _first_line(error, uri))
    return _fault_of_answer(where, answer)


def _fault_of_answer(where: str, answer: Response) -> Fault | None:
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


def _is_database(uri: str) -> bool:
    """Whether the address names a database on a server, such as postgresql://."""
    scheme = uri.partition(":")[0].partition("+")[0]
    return scheme in ("postgresql", "mysql", "mssql")


def _fault_of_database(where: str, uri: str) -> Fault | None:
    try:
        engine = create_sqlalchemy_engine(uri)
        with engine.connect():
            pass
        engine.dispose()
    except ImportError as error:
        return Fault(f"{where} needs a driver that is not installed", ADDRESS, str(error))
    except (SQLAlchemyError, ValueError) as error:
        return Fault(f"{where} cannot be used", ADDRESS, _first_line(error, uri))
    return None


def _fault_of_address(where: str, uri: str) -> Fault | None:
    """What is wrong with an address, or with the proxy that the environment names for it.

    Both are read as requests, which is below MLflow, will read them; nobody is asked.
    """
    try:
        Request("GET", uri).prepare()
    except (RequestException, ValueError) as error:
        return Fault(f"{where}: this is no address", ADDRESS, _first_line(error, uri))
    proxy = None
    try:
        proxy = select_proxy(uri, get_environ_proxies(uri, no_proxy=None))
        if proxy is not None:
            address = prepend_scheme_if_needed(proxy, "http")
            Request("GET", address).prepare()  # it has a host
            HTTPAdapter().proxy_manager_for(address).clear()
    except (RequestException, ValueError) as error:
        shown_proxy = "" if proxy is None else f" {without_credentials(proxy)}"
        what = f"the proxy{shown_proxy} before {where} cannot be used"
        cause = _first_line(error, uri)
        return Fault(what, PROXY, cause if proxy is None else without_password(cause, proxy))
    return None


def _fault_of_network(where: str, error: Exception, uri: str) -> Fault:
    """The fault, from what requests raised below MLflow's own error."""
    below: BaseException = error
    while not isinstance(below, RequestException) and below.__context__ is not None:
        below = below.__context__
    if isinstance(below, InvalidHeader):  # its message holds the password
        return Fault(f"{where} cannot be asked with this user, password or token", SIGN_IN)
    if isinstance(below, UnicodeError):  # a name that no server can have
        return Fault(f"{where}: this is no address", ADDRESS, _first_line(below, uri))
    if not isinstance(below, OSError):  # nothing of the network: a setting of MLflow
        return Fault(f"{where} cannot be asked", SETTING, _first_line(below, uri))
    if not isinstance(below, RequestException):  # requests found no file
        what = f"the certificates for {where} cannot be read"
        return Fault(what, CERTIFICATE, _first_line(below, uri))
    reason = getattr(below.args[0] if below.args else below, "reason", below)
    lines = without_password(str(reason), uri).splitlines() or [type(below).__name__]
    cause = lines[0].rpartition(": ")[2].rstrip("')\"")
    if isinstance(below, SSLError):
        return Fault(f"the certificate of {where} is not trusted", CERTIFICATE, cause)
    if isinstance(below, ProxyError):
        return Fault(f"the proxy before {where} does not lead there", PROXY, cause)
    return Fault(
        f"{where} does not answer", f"Start it, or {ADDRESS[0].lower()}{ADDRESS[1:]}", cause
    )


def _first_line(error: BaseException, uri: str) -> str:
    lines = without_password(str(error), uri).splitlines()
    return lines[0] if lines else type(error).__name__


def open_client(root: Path) -> MlflowClient:
    """A client of the MLflow that the environment names; a fresh sqlite store is made first.

    An sqlite store that cannot be written is read as it is.

    Raises:
        TrackingError: When the server does not answer, or no store is there and none can be made.
    """
    uri = tracking_uri(root)
    fault = find_fault(uri)
    if fault is not None:
        raise TrackingError(fault.message)
    is_read_only = _is_read_only(uri)
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with refusals(uri):
        _set_global_address(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if uri.startswith("sqlite:"):
            # Two processes that make the tables of one new file at once destroy each other's.
            with contextlib.nullcontext() if is_read_only else store_lock(root):
                client.search_experiments(max_results=1)
                if uri == f"sqlite:///{embedded_store(root)}" and not is_read_only:
                    adopt_store(root)
    return client


def _is_read_only(uri: str) -> bool:
    """Whether an sqlite store is there and can only be read.

    Raises:
        TrackingError: When none is there and none can be made; MLflow would try for minutes.
    """
    path = _sqlite_file(uri)
    if path is None:
        return False
    if not path.exists():
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise TrackingError(
                f"there is no MLflow store {path} yet, and it cannot be made: you cannot write to "
                f"{folder}. {WRITABLE}"
            )
    return path.exists() and not all(os.access(part, os.W_OK) for part in (path, path.parent))


def _sqlite_file(uri: str) -> Path | None:
    """The file of an sqlite store; None for a database in memory, and for all else."""
    scheme, _, name = uri.partition(":///")
    name = name.partition("?")[0]
    is_file = scheme.partition("+")[0] == "sqlite" and name not in ("", ":memory:")
    return Path(name) if is_file else None


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
        ConfigError: When the clone cannot be written.
    """
    lock_path = tracking_root(root) / "mlflow.db.lock"
    lock = FileLock(lock_path.resolve(), timeout=LOCK_TIMEOUT_S, is_singleton=True)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrackingError(
            f"another process holds {lock_path} for more than {LOCK_TIMEOUT_S:.0f} s; "
            f"wait for it to end, and run the same command again"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"nothing can be recorded in MLflow from here: {lock_path} cannot be written "
            f"({error.strerror or error}). {WRITABLE}"
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
