"""A Prefect server that cannot be used ends a run at once, in one sentence with the cause."""

import http.server
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from pipelines import server
from vivero.cli import doctor
from vivero.cli.proxies import CERTIFICATES, PROXIES, proxy_fault
from vivero.config.variables import own_variables
from vivero.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
# As `vivero run`: the variables first, then Prefect, which reads them when it is imported.
ENSURES = """
import sys
from vivero.processes import one_sentence_errors, start_program
start_program()
with one_sentence_errors("experiment", "stopped"):
    from pipelines.server import ensure_server
    ensure_server()
    from prefect import get_client
    with get_client(sync_client=True) as client:
        assert client.read_flows() == []
        print(client.api_url)
"""
NOBODY = "http://127.0.0.1:9"
SLOW = pytest.mark.slow  # each starts a process that imports Prefect, which takes seconds


def ensure(home: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-c", ENSURES],
        cwd=REPOSITORY,
        env={
            **own,
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "280",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )


@contextmanager
def answering(status: int, body: str, version: str = "3.8.8", wait_s: float = 0.0) -> Iterator[str]:
    """A server that gives one answer to everything, but for its version."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            time.sleep(wait_s)
            is_version = self.path == "/api/admin/version"
            content = (json.dumps(version) if is_version else body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


def assert_one_sentence(done: "subprocess.CompletedProcess[str]", *said: str) -> None:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for words in ("experiment: ", *said):
        assert words in last
    assert "waiting for" in done.stderr, "nobody waits in silence"


@pytest.mark.parametrize(
    ("url", "shown", "cause"),
    [
        pytest.param(f"{NOBODY}/api", f"{NOBODY}/api", "Connection refused", marks=SLOW),
        ("http://ada:secret@127.0.0.1:9/api", "http://***@127.0.0.1:9/api", "Connection refused"),
        pytest.param("prefect.internal/api", "prefect.internal/api", "protocol", marks=SLOW),
    ],
)
def test_a_server_that_is_away_is_named_with_what_to_type(
    url: str, shown: str, cause: str, tmp_path: Path
):
    done = ensure(tmp_path, PREFECT_API_URL=url)
    assert_one_sentence(done, shown, cause, "unset PREFECT_API_URL")
    assert "secret" not in done.stderr + done.stdout


@pytest.mark.parametrize("url", [None, f"{NOBODY}/api"])
@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        ({"HTTP_PROXY": "ftp://ada:geheim@127.0.0.1:9"}, "Unknown scheme"),
        ({"all_proxy": "socks5://127.0.0.1:9"}, "needs the package socksio"),
        ({"ALL_PROXY": "socks://127.0.0.1:9"}, "Unknown scheme"),
        ({"HTTPS_PROXY": "http://[::1"}, "Invalid port"),
        ({"NO_PROXY": "::1/128"}, "Invalid port"),
        ({"SSL_CERT_FILE": "/no/such/file"}, "No such file"),
    ],
)
def test_proxies_that_prefects_client_cannot_read_are_named(
    url: str | None, variables: dict[str, str], cause: str, monkeypatch: pytest.MonkeyPatch
):
    for name in (*PROXIES, *CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in own_variables(variables).items():
        if not name.startswith("PYTHON"):
            monkeypatch.setenv(name, value)
    settings = {PREFECT_API_URL: url} if url else {}
    with temporary_settings(settings), pytest.raises(ConfigError, match=cause) as caught:
        server.ensure_server()
    assert next(iter(variables)) in str(caught.value)
    assert "geheim" not in str(caught.value)
    finding = doctor.proxies(REPOSITORY)
    assert finding.state == "fail"
    assert cause in finding.advice


@pytest.mark.parametrize("hosts", ["[::1]", "[::1],[2001:db8::1]:8080,mlflow.internal"])
def test_addresses_in_brackets_are_understood(hosts: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in own_variables({"NO_PROXY": hosts, "HTTP_PROXY": NOBODY}).items():
        if not name.startswith("PYTHON"):
            monkeypatch.setenv(name, value)
    assert proxy_fault() is None


@pytest.mark.parametrize(
    ("status", "body", "version", "cause"),
    [
        (401, '{"detail": "Unauthorized"}', "3.8.8", "PREFECT_API_AUTH_STRING"),
        pytest.param(404, "<html>no such page</html>", "3.8.8", "ends with /api", marks=SLOW),
        (200, "<html>hello</html>", "3.8.8", "ends with /api"),
        (200, "[]", "2.20.0", "incompatible versions"),
        pytest.param(503, "{}", "3.8.8", "status 503", marks=SLOW),
    ],
)
def test_a_refusal_is_named_with_its_cause(
    status: int, body: str, version: str, cause: str, tmp_path: Path
):
    with answering(status, body, version) as url:
        assert_one_sentence(ensure(tmp_path, PREFECT_API_URL=url), url, cause)


def test_a_server_that_takes_connections_and_never_answers_is_given_up(tmp_path: Path):
    with answering(200, "[]", wait_s=30) as url:
        assert_one_sentence(ensure(tmp_path, PREFECT_API_URL=url), url, "does not answer")


def test_a_database_of_another_version_is_named(tmp_path: Path):
    database = tmp_path / "prefect.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    assert_one_sentence(ensure(tmp_path), str(database), "another version of Prefect")


def test_the_temporary_server_is_asked_directly_and_by_our_settings_alone(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    theirs = f"sqlite+aiosqlite:///{elsewhere}/prefect.db"
    proxies = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    done = ensure(
        tmp_path / "home",
        **dict.fromkeys(proxies, NOBODY),
        NO_PROXY="",
        no_proxy="",
        PREFECT_SERVER_DATABASE_CONNECTION_URL=theirs,
        PREFECT_API_DATABASE_CONNECTION_URL=theirs,
        PREFECT_SERVER_EPHEMERAL_ENABLED="false",
        PREFECT_PROFILE="theirs",
        PREFECT_API_KEY="secret",
        PREFECT_LOCAL_STORAGE_PATH=str(elsewhere),
    )
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stdout
    assert (tmp_path / "home" / "prefect.db").exists()
    assert not elsewhere.exists()
