"""Real servers for tests: PostgreSQL, an S3 server on a folder, MLflow on both.

    from tests.services import rest_mlflow, servers, storage     # in a test or a conftest.py

    def test_that_registers(rest_mlflow): ...      # MLFLOW_TRACKING_URI names the REST server
    def test_that_pushes(storage): ...             # AWS_* name the S3 server; storage.client()

All three run once per module that imports them, on free ports, below a temporary folder. `servers`
starts lazily: `storage` alone costs a second, `rest_mlflow` about 15 s of CPU.
`Servers.kill(name)` ends one with SIGKILL and `Servers.start(name)` brings it back; what it had
acknowledged is still there. What one test writes another one sees: give experiments, models and
keys names of your own (`rest_mlflow` hands out a name that nobody else has).

PostgreSQL is what Debian ships as `postgresql`; without it tests of MLflow's REST server are
skipped, with that reason. The S3 server comes with the environment.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.services import postgres, programs, readiness
from infra.services.settings import (
    BUCKETS,
    DATABASE_PASSWORD,
    LISTENING,
    Settings,
    write_env,
    write_mlflow_auth,
)

PATIENCE_S = 600.0  # a busy machine is slow, not wrong; pytest has its own limit
NEEDS = {"postgres": (), "s3": (), "mlflow": ("postgres", "s3"), "prefect": ("postgres",)}


def free_ports(num_ports: int) -> int:
    """The first of so many consecutive ports that are free now."""
    for first in range(20_000 + secrets.randbelow(10_000), 60_000, num_ports):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + num_ports):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


@dataclass
class Servers:
    """Servers below one folder, each started when it is first asked for.

    Attributes:
        settings: Where they lie and listen.
        env: What a user of them has in the environment.
    """

    settings: Settings
    env: dict[str, str]
    _processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a server and what it needs, and wait until it answers; again after a kill."""
        for needed in NEEDS[name]:
            self.start(needed)
        if name in self._processes and self._processes[name].poll() is None:
            self._wait(name)  # who started it may have lost patience
            return
        self._prepare(name)
        secret = programs.secret_environment(self.settings, name, self.env)
        user = postgres.server_user() if name == "postgres" else None
        with self.settings.log_path(name).open("ab") as output:
            self._processes[name] = subprocess.Popen(
                programs.command(self.settings, name),
                env={**programs.bare_environment(self.settings), **secret},
                cwd="/",
                user=user,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait(name)
        if name == "postgres":
            postgres.make_databases(self.settings, self.env[DATABASE_PASSWORD])

    def kill(self, name: str) -> None:
        """End a server and its children at once, with SIGKILL."""
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End all, those that need others first."""
        for name in reversed(list(self._processes)):
            process = self._processes.pop(name)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _prepare(self, name: str) -> None:
        if name == "postgres":
            postgres.prepare(self.settings, self.env[DATABASE_PASSWORD])
        if name == "mlflow":
            write_mlflow_auth(self.settings, self.env)
        if name == "s3":
            for bucket in BUCKETS:
                (programs.s3_dir(self.settings) / bucket).mkdir(parents=True, exist_ok=True)

    def _wait(self, name: str) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not readiness.is_ready(self.settings, name, self.env):
            said = self.settings.log_path(name).read_text(errors="replace")
            assert self._processes[name].poll() is None, f"{name} ended: {said[-3000:]}"
            assert time.monotonic() < give_up_at, f"{name} did not start: {said[-3000:]}"
            time.sleep(0.2)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that user postgres goes through; every start of pytest closes pytest's."""
    with tempfile.TemporaryDirectory(prefix="vivero-services-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)
        yield folder


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers of this session, none of them started yet."""
    with open_folder() as folder:
        (folder / "logs").mkdir()
        (folder / "prefect").mkdir()
        settings = Settings(folder, folder, free_ports(len(LISTENING)))
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("VIVERO_REPOSITORY", raising=False)
            made = Servers(settings, write_env(settings))
        yield made
        made.stop()


@dataclass(frozen=True)
class Storage:
    """An S3 server that runs: its folder holds one folder a bucket, one file an object."""

    servers: Servers
    env: dict[str, str]
    dir: Path

    def client(self):
        """A boto3 client of it."""
        return readiness.s3_client(self.env)


@pytest.fixture
def storage(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The S3 server with its three buckets; the environment names it and holds its keys."""
    servers.start("s3")
    env = {name: value for name, value in servers.env.items() if name.startswith("AWS_")}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return Storage(servers, env, programs.s3_dir(servers.settings))


@pytest.fixture
def rest_mlflow(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> str:
    """An MLflow server over REST on PostgreSQL and S3, which MLFLOW_TRACKING_URI names.

    Returns:
        A name for an experiment or a model that no other test uses.
    """
    if postgres.bin_dir() is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    servers.start("mlflow")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, servers.env[name])
    return f"test-{uuid.uuid4().hex[:12]}"


def empty_mlflow(running: Servers) -> None:
    """Empty MLflow's database under the running server, as nobody should."""
    connection = postgres.connect(
        running.settings, running.env[DATABASE_PASSWORD], database="mlflow"
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE experiments, registered_models CASCADE")
    connection.close()
