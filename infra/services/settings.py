"""Where the services of a clone lie, which ports they take, and the secrets made for them.

Everything is below one folder, `work/services/`. Its file `env` (mode 0600) is what a person, a
worker or a test sources to use the services: `set -a; . work/services/env; set +a`.
"""

import hashlib
import os
import secrets
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vivero.errors import ConfigError

HOST = "127.0.0.1"  # nothing here is meant for other machines
FIRST_PORT = 15400
SERVICES = ("postgres", "s3", "mlflow", "prefect", "worker")  # in the order in which they start
LISTENING = SERVICES[:4]  # take the ports from the first one on
BUCKETS = ("vivero-dvc", "vivero-mlflow", "vivero-incoming")
DATABASES = ("mlflow", "mlflow_auth", "prefect")
POOLS = {"local": "process", "docker": "docker", "kubernetes": "kubernetes"}
DATABASE_USER = "vivero"
DATABASE_PASSWORD = "VIVERO_POSTGRES_PASSWORD"  # noqa: S105  # the name of a variable
MLFLOW_SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105  # the name of a variable
OF_SERVERS = (DATABASE_PASSWORD, MLFLOW_SECRET_KEY)  # secrets that no run needs
USER = "vivero"  # who signs in at MLflow and Prefect
MARK = "VIVERO_SERVICES"  # in the environment of all that was started, and of its children
LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


@dataclass(frozen=True)
class Settings:
    """The services of one clone.

    Attributes:
        root: Top of the repository that is deployed.
        folder: Of everything the services write.
        first_port: PostgreSQL's; S3, MLflow and Prefect take the next three.
    """

    root: Path
    folder: Path
    first_port: int = FIRST_PORT

    def port(self, service: str) -> int:
        """Where a service listens."""
        return self.first_port + LISTENING.index(service)

    def address(self, service: str) -> str:
        """Where people and programs find a service; empty for the worker, which asks Prefect."""
        if service == "worker":
            return ""
        scheme = "postgresql" if service == "postgres" else "http"
        return f"{scheme}://{HOST}:{self.port(service)}"

    def log_path(self, service: str) -> Path:
        """What a service says."""
        return self.folder / "logs" / f"{service}.log"

    @property
    def env_path(self) -> Path:
        """The file that is sourced to use the services."""
        return self.folder / "env"

    @property
    def mlflow_auth_path(self) -> Path:
        """The file of MLflow's sign-in; it has the password of its database."""
        return self.folder / "mlflow_auth.ini"

    @property
    def socket_path(self) -> Path:
        """Where supervisord is spoken to; elsewhere when the folder's name is too long for it."""
        path = self.folder / "supervisor.sock"
        if len(str(path)) <= LONGEST_SOCKET_PATH:
            return path
        return Path(tempfile.gettempdir()) / f"vivero-{os.getuid()}-{self.digest}.sock"

    @property
    def digest(self) -> str:
        """A short name of the folder, for what must lie outside it."""
        return hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]

    def database_url(self, driver: str, database: str, password: str) -> str:
        """Address of a database for SQLAlchemy; holds the password, so it is never shown."""
        port = self.port("postgres")
        return f"postgresql+{driver}://{DATABASE_USER}:{password}@{HOST}:{port}/{database}"


def read_settings(root: Path) -> Settings:
    """The services of a clone: VIVERO_SERVICES_DIR and VIVERO_PORTS_FROM, as before, or defaults.

    Raises:
        ConfigError: When VIVERO_PORTS_FROM is no port.
    """
    folder = Path(os.environ.get("VIVERO_SERVICES_DIR") or root / "work" / "services").resolve()
    settings = Settings(root.resolve(), folder)
    given = os.environ.get("VIVERO_PORTS_FROM") or read_env(settings).get("VIVERO_PORTS_FROM")
    if given is None:
        return settings
    if not given.isdecimal() or not 1024 <= int(given) <= 65535 - len(LISTENING):
        raise ConfigError(
            f"VIVERO_PORTS_FROM is the first of {len(LISTENING)} ports, from 1024 on; got {given!r}"
        )
    return Settings(root.resolve(), folder, int(given))


def read_env(settings: Settings) -> dict[str, str]:
    """What the file `env` says; empty before the first start."""
    if not settings.env_path.exists():
        return {}
    lines = settings.env_path.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def write_env(settings: Settings) -> dict[str, str]:
    """Bring the file `env` up to date; secrets that it holds stay, missing ones are made."""
    before = read_env(settings)
    s3 = settings.address("s3")
    repository = os.environ.get("VIVERO_REPOSITORY") or before.get("VIVERO_REPOSITORY")
    values = {
        "MLFLOW_TRACKING_URI": settings.address("mlflow"),
        "PREFECT_API_URL": settings.address("prefect") + "/api",
        "PREFECT_HOME": str(settings.folder / "prefect"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # what the automation for dead runs expects
        "PREFECT_CLIENT_MAX_RETRIES": "7",  # four minutes: a server that comes back is waited for
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # its answer while PostgreSQL is away
        "AWS_ENDPOINT_URL": s3,
        "MLFLOW_S3_ENDPOINT_URL": s3,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": before.get("AWS_ACCESS_KEY_ID") or secrets.token_hex(10),
        "AWS_SECRET_ACCESS_KEY": before.get("AWS_SECRET_ACCESS_KEY") or secrets.token_hex(20),
        DATABASE_PASSWORD: before.get(DATABASE_PASSWORD) or secrets.token_hex(20),
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": before.get("MLFLOW_TRACKING_PASSWORD") or secrets.token_hex(20),
        MLFLOW_SECRET_KEY: before.get(MLFLOW_SECRET_KEY) or secrets.token_hex(32),
        "PREFECT_API_AUTH_STRING": before.get("PREFECT_API_AUTH_STRING")
        or f"{USER}:{secrets.token_hex(20)}",
        "VIVERO_DVC_REMOTE": "s3://vivero-dvc/store",
        "VIVERO_INCOMING": "s3://vivero-incoming",
        "VIVERO_REPOSITORY": repository or str(settings.root),
        "VIVERO_PORTS_FROM": str(settings.first_port),
    }
    if values != before:
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in values.items()]
        write_secret(settings.env_path, "".join(lines))
    return values


def write_mlflow_auth(settings: Settings, env: dict[str, str]) -> None:
    """Write the settings of MLflow's sign-in: without a password, nothing is allowed."""
    uri = settings.database_url("psycopg2", "mlflow_auth", env[DATABASE_PASSWORD])
    text = f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = {uri}\n"
    write_secret(settings.mlflow_auth_path, text)


def write_secret(path: Path, text: str) -> None:
    """Write text whole or not at all, at no moment readable for others."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # of mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)
