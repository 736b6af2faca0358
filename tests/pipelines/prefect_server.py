"""A real Prefect server on a free port, for the tests that need one that several processes see."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import requests

PATIENCE_S = 240.0


@contextlib.contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """Start it, yield its address, kill it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).parent / "prefect", "server", "start", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, "PREFECT_HOME": str(folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    api = f"http://127.0.0.1:{port}/api"
    try:
        _wait_for(api, folder)
        yield api
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(api: str, folder: Path) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        with contextlib.suppress(requests.RequestException):
            requests.get(api + "/health", timeout=5).raise_for_status()
            return
        time.sleep(0.5)
    raise TimeoutError((folder / "server.log").read_text()[-2000:])
