"""The Prefect server of a run, ready before its flow starts, or one message that says why not.

PREFECT_API_URL names a server; without it a temporary one is started, with its own database in
PREFECT_HOME, which is work/prefect of the clone. Prefect's own client asks, so proxies,
certificates and keys count here as they do for the flow.
"""

import atexit
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import prefect
from prefect import get_client
from prefect.client.base import ServerType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from pipelines.commands import unnamed
from vivero.cli.proxies import proxy_fault
from vivero.errors import ConfigError, RemoteError

PROBE_TIMEOUT_S = 10.0
ASK_EVERY_S = 0.2
SHOW_EVERY_S = 10.0
NUM_PORTS_TRIED = 5
PORT_IS_TAKEN = "address already in use"
UNKNOWN_DATABASE = "Can't locate revision"
REFUSALS = {
    401: "refused the key: set PREFECT_API_KEY or PREFECT_API_AUTH_STRING as the server asks",
    403: "refused the key: set PREFECT_API_KEY or PREFECT_API_AUTH_STRING as the server asks",
    404: "answers, but not as Prefect's API: the address usually ends with /api",
    407: "was not asked, because the proxy wants a user: see HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
    422: "does not understand this version of Prefect",
}


def ensure_server() -> None:
    """Check the server that PREFECT_API_URL names, or start a temporary one.

    Raises:
        ConfigError: When Prefect's client cannot read the proxies or certificates.
        RemoteError: When no server can be used; with the address, the cause and what to do.
    """
    fault = proxy_fault()
    if fault is not None:
        raise ConfigError(unnamed(fault))
    url = get_current_settings().api.url
    if url is None:
        _start_temporary_server()
    else:
        _check_server(url)


def _check_server(url: str) -> None:
    brief = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: PROBE_TIMEOUT_S}
    with shown_wait(f"the Prefect server at {unnamed(url)} to answer", PROBE_TIMEOUT_S):
        try:
            with temporary_settings(brief), get_client(sync_client=True) as client:
                if client.server_type != ServerType.CLOUD:  # which suits every version
                    client.api_version()  # its errors name the cause, those of the next do not
                    client.raise_for_api_version_mismatch()
                client.read_flows(limit=1)
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            raise _unusable(url, REFUSALS.get(status, f"answers with status {status}")) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _unusable(url, f"does not answer ({_reason(error)})") from error
        except (ValueError, TypeError) as error:  # an answer that is no JSON, or of another shape
            raise _unusable(url, REFUSALS[404]) from error
        except RuntimeError as error:  # another version
            raise _unusable(url, f"cannot be used: {error}") from error


def _unusable(url: str, why: str) -> RemoteError:
    return RemoteError(
        f"PREFECT_API_URL names a server that cannot be used: {unnamed(url)} {why}. Start or "
        f"correct it, or run `unset PREFECT_API_URL` to use a temporary server"
    )


def lost_server(error: httpx.HTTPError) -> RemoteError:
    """What to say when the server of a run went away, or refused it, while the run worked."""
    url = get_current_settings().api.url
    where = "the temporary Prefect server" if url is None else f"the Prefect server at {url}"
    return RemoteError(
        f"the run lost {unnamed(where)} ({_reason(error)}). Stages that ended are kept: look after "
        f"the server, then run the same command again"
    )


def _reason(error: Exception) -> str:
    lines = unnamed(str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


class TemporaryServer(SubprocessASGIServer):
    """Prefect's temporary server, which writes what it reports into a file of work/prefect.

    Prefect's own start repeats a server that ends until the time is over, and shows nothing.
    """

    def __init__(self, port: int | None = None) -> None:
        super().__init__(port)
        self.log_path = get_current_settings().home / "temporary-server.log"

    def start(self, timeout: int | None = None) -> None:
        """Start it once and wait until it answers.

        Raises:
            RemoteError: When it ends, or does not answer in time.
        """
        if self.running:
            return
        patience_s = timeout or PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        give_up_at = time.monotonic() + patience_s
        for _ in range(NUM_PORTS_TRIED):
            self.port = self.find_available_port()
            self.server_process = self._run_uvicorn_command()
            atexit.register(self.stop)
            try:
                if self._answers(give_up_at - time.monotonic()):
                    self.running = True
                    return
            except BaseException:
                self.stop()
                raise
            if PORT_IS_TAKEN not in self.said():
                break
        exit_code = self.server_process.poll() if self.server_process else None
        self.stop()
        raise RemoteError(self._failure(exit_code, patience_s))

    def said(self) -> str:
        """What the server reported since it was started."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def _answers(self, patience_s: float) -> bool:
        """Whether it answers; False as soon as its process has ended."""

        def look() -> bool | None:
            if self.server_process is None or self.server_process.poll() is not None:
                return False
            with contextlib.suppress(httpx.HTTPError):
                return client.get(f"{self.api_url}/health").is_success or None
            return None

        waiting = Retrying(
            retry=retry_if_result(lambda found: found is None),
            stop=stop_after_delay(patience_s),
            wait=wait_fixed(ASK_EVERY_S),
        )
        # On loopback no proxy is asked, whatever the environment says.
        with httpx.Client(trust_env=False, timeout=PROBE_TIMEOUT_S) as client:
            try:
                return bool(waiting(look))
            except RetryError:
                return False

    def _failure(self, exit_code: int | None, patience_s: float) -> str:
        database = get_current_settings().home / "prefect.db"
        where = f"the temporary Prefect server on {self.address}"
        if exit_code is None:
            return (
                f"{where} does not answer within {patience_s:.0f} s. Its report is "
                f"{self.log_path}. A busy machine needs longer: set "
                f"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS to more seconds"
            )
        if UNKNOWN_DATABASE in self.said():
            cause = f"another version of Prefect made its database {database}"
        else:
            lines = self.said().strip().splitlines()
            cause = f"it last reported: {lines[-1].strip()}" if lines else "it reported nothing"
        return (
            f"{where} ended with exit code {exit_code}: {cause}. Its report is {self.log_path}. "
            f"Move {database} away, which holds nothing but the history of runs, and run the same "
            f"command again"
        )

    def _run_uvicorn_command(self) -> "subprocess.Popen[Any]":
        command = [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent)),
            *("--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"),
            *("--port", str(self.port), "--log-level", "error", "--lifespan", "on"),
        ]
        env = {
            **os.environ,
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
            **get_current_settings().to_environment_variables(exclude_unset=True),
        }
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def _start_temporary_server() -> None:
    """Start the server that Prefect's clients of this process find as theirs."""
    server = TemporaryServer()
    patience_s = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    with shown_wait("a temporary Prefect server to start", patience_s):
        server.start()


@contextlib.contextmanager
def shown_wait(what: str, patience_s: float) -> Iterator[None]:
    """Say within this context what is waited for, and every few seconds for how long."""
    is_over = threading.Event()
    started_at = time.monotonic()

    def show() -> None:
        while not is_over.wait(SHOW_EVERY_S):
            passed_s = time.monotonic() - started_at
            _say(f"still waiting for {what}: {passed_s:.0f} s of at most {patience_s:.0f} s")

    _say(f"waiting for {what} (at most {patience_s:.0f} s)")
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _say(text: str) -> None:
    sys.stderr.write(f"vivero: {text}\n")
    sys.stderr.flush()
