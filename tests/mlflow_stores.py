"""A fresh MLflow in a folder, and a real server of it that can be killed.

A conftest.py imports the fixtures that its tests need.
"""

import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@functools.cache
def empty_store() -> bytes:
    """An sqlite store with its tables, made once: making the tables takes seconds."""
    from vivero.tracking.store import open_client

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_client(Path(folder))
        return (Path(folder) / "mlflow.db").read_bytes()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Top of a repository with an empty embedded store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(empty_store())
    return tmp_path


class Server:
    """A real `mlflow server` on loopback that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = 600.0) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self.folder / "served"), "--serve-artifacts"),
        ]
        env = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        env.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=env, start_new_session=True,
                stdout=output, stderr=output,
            )  # fmt: skip
        from vivero.tracking.store import find_fault  # imports MLflow, which takes seconds

        deadline = time.monotonic() + patience_s
        while find_fault(self.uri) is not None:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the store in root, not yet started; the environment names it."""
    made = Server(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    yield made
    made.kill()


class BrokenClient:
    """A client whose call number `fails_at` breaks off, before or after it had its effect."""

    def __init__(self, client: object, fails_at: int, has_effect: bool) -> None:
        self._client, self._fails_at, self._has_effect = client, fails_at, has_effect
        self.num_calls = 0

    def __getattr__(self, name: str):
        method = getattr(self._client, name)

        def call(*args: object, **kwargs: object) -> object:
            self.num_calls += 1
            if self.num_calls == self._fails_at:
                if self._has_effect:
                    method(*args, **kwargs)
                raise ConnectionError("the server went away")
            return method(*args, **kwargs)

        return call
