"""A fresh MLflow in a folder, and a real server of it that can be killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vivero.tracking.server import is_reachable
from vivero.tracking.tracker import DatasetInput, RunSpec


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sqlite store with its tables, made once: making the tables takes seconds."""
    from vivero.tracking.store import open_client

    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_client(root)
    return root / "mlflow.db"


@pytest.fixture
def root(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Top of a repository with an empty embedded store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return tmp_path


@pytest.fixture
def spec_of(root: Path) -> Callable[..., RunSpec]:
    """Make the spec of a run of this repository."""

    def factory(run_key: str = "fingerprint-1", **changes: object) -> RunSpec:
        fields = {
            "experiment": "vivero",
            "run_key": run_key,
            "run_name": "train-fingerprint",
            "journal_path": root / "work" / run_key / "journal.jsonl",
            "params": {"learning_rate": "0.001", "seed": "0"},
            "tags": {"vivero.code_commit": "abc"},
            "dataset": DatasetInput("tiny", "0123456789abcdef0123456789abcdef.dir", "made here"),
            "model_name": "vivero",
        }
        return RunSpec(**{**fields, **changes})  # type: ignore[arg-type]

    return factory


class Server:
    """A real `mlflow server` on loopback that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, patience_s: float = 90.0) -> None:
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
        deadline = time.monotonic() + patience_s
        while not is_reachable(self.uri):
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
