"""The probe of MLflow sees what MLflow's client sees: proxies, certificates, users.

A gateway of our own stands before a real MLflow server, as a proxy or as its front door.
"""

import base64
import contextlib
import http.client
import http.server
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.mlflow_stores import Server, empty_store
from vivero.cli.doctor import tracking
from vivero.config.variables import own_variables
from vivero.errors import TrackingError
from vivero.tracking.store import find_fault, open_client

USER = "Basic " + base64.b64encode(b"ada:secret").decode()


@dataclass(frozen=True)
class Gateway:
    """A running gateway. asked: the path and address of each request that it passed on."""

    address: str
    asked: list[str]


@contextlib.contextmanager
def gateway(
    upstream: Server, authorization: str | None = None, certificate: Path | None = None
) -> Iterator[Gateway]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            if authorization is not None and self.headers.get("Authorization") != authorization:
                return self.reply(401, b"who are you?")
            asked.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)  # of a proxy the whole address is asked
            path = address.path + (f"?{address.query}" if address.query else "")
            connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=60)
            headers = {"Content-Type": self.headers.get("Content-Type") or "application/json"}
            connection.request(self.command, path, body, headers)
            answer = connection.getresponse()
            self.reply(answer.status, answer.read())
            connection.close()
            return None

        def reply(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # of a client that does not trust the certificate

    with Quiet(("127.0.0.1", 0), Handler) as running:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        scheme = "http" if certificate is None else "https"
        yield Gateway(f"{scheme}://127.0.0.1:{running.server_address[1]}", asked)
        running.shutdown()


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "mlflow.db").write_bytes(empty_store())
    server = Server(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def set_variables(monkeypatch: pytest.MonkeyPatch):
    """Set variables as a program of ours has them after its start."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "MLFLOW_TRACKING_URI"):
        for spelling in (name, name.lower()):
            monkeypatch.delenv(spelling, raising=False)

    def setting(**variables: str) -> None:
        for name, value in own_variables(variables).items():
            if not name.startswith("PYTHON"):
                monkeypatch.setenv(name, value)

    return setting


@pytest.mark.parametrize("spelling", ["HTTP_PROXY", "http_proxy"])
def test_a_server_that_only_the_proxy_reaches_is_used_through_it(
    spelling: str, mlflow_server: Server, set_variables, tmp_path: Path
):
    with gateway(mlflow_server) as proxy:
        uri = "http://mlflow.internal:8080"
        set_variables(MLFLOW_TRACKING_URI=uri, **{spelling: proxy.address})
        assert find_fault(uri) is None
        assert tracking(tmp_path).state == "ok"
        name = f"through-the-proxy-{spelling}"
        open_client(tmp_path).create_experiment(name)
        assert open_client(tmp_path).get_experiment_by_name(name) is not None
        assert all(path.startswith(uri) for path in proxy.asked)
        assert len(proxy.asked) >= 4


def test_a_proxy_that_is_away_is_named(set_variables, tmp_path: Path):
    uri = "http://ada:geheim@mlflow.internal:8080"
    set_variables(MLFLOW_TRACKING_URI=uri, HTTP_PROXY="http://127.0.0.1:9")
    with pytest.raises(TrackingError, match="the proxy before MLflow") as caught:
        open_client(tmp_path)
    assert "HTTP_PROXY" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert tracking(tmp_path).state == "note"


def test_loopback_is_not_asked_through_the_proxy(mlflow_server: Server, set_variables):
    set_variables(HTTP_PROXY="http://127.0.0.1:9", ALL_PROXY="http://127.0.0.1:9")
    assert find_fault(mlflow_server.uri) is None


def test_the_user_counts_for_the_probe(mlflow_server: Server, set_variables, tmp_path: Path):
    with gateway(mlflow_server, authorization=USER) as door:
        set_variables(MLFLOW_TRACKING_URI=door.address)
        with pytest.raises(TrackingError, match=r"status 401.*MLFLOW_TRACKING_USERNAME"):
            open_client(tmp_path)
        set_variables(MLFLOW_TRACKING_USERNAME="ada", MLFLOW_TRACKING_PASSWORD="secret")  # noqa: S106
        assert find_fault(door.address) is None
        set_variables(MLFLOW_TRACKING_PASSWORD="wrong")  # noqa: S106
        assert find_fault(door.address) is not None


def test_the_token_counts_for_the_probe(mlflow_server: Server, set_variables):
    with gateway(mlflow_server, authorization="Bearer secret") as door:
        assert find_fault(door.address) is not None
        set_variables(MLFLOW_TRACKING_TOKEN="secret")  # noqa: S106
        assert find_fault(door.address) is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody else signed, with its key."""
    folder = tmp_path_factory.mktemp("certificate")
    command = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
        *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-keyout", folder / "key.pem", "-out", folder / "certificate.pem"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


@pytest.mark.parametrize(
    "name",
    ["MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "MLFLOW_TRACKING_INSECURE_TLS"],
)
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_certificates_count_for_the_probe(
    name: str, mlflow_server: Server, certificate: Path, set_variables, tmp_path: Path
):
    with gateway(mlflow_server, certificate=certificate) as door:
        set_variables(MLFLOW_TRACKING_URI=door.address)
        with pytest.raises(TrackingError, match=r"certificate of .*is not trusted") as caught:
            open_client(tmp_path)
        assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in str(caught.value)
        set_variables(**{name: "true" if name.endswith("TLS") else str(certificate)})
        assert find_fault(door.address) is None


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://host:port", "http://host:99999", "http://", "http://a..b", "http://a b",
     "http://ada:geheim@[::1"],
)  # fmt: skip
def test_what_is_no_address_is_named(address: str, set_variables, tmp_path: Path):
    set_variables(MLFLOW_TRACKING_URI=address)
    with pytest.raises(TrackingError, match="this is no address") as caught:
        open_client(tmp_path)
    assert "Correct or unset MLFLOW_TRACKING_URI" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert tracking(tmp_path).state == "note"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "proxy",
    ["ftp://127.0.0.1:9", "socks5://127.0.0.1:9", "socks://127.0.0.1:9", "http://[::1",
     "http://127.0.0.1:port", "http://", "socks5h://ada:geheim@127.0.0.1:9"],
)  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_named(
    name: str, proxy: str, mlflow_server: Server, set_variables, tmp_path: Path
):
    set_variables(MLFLOW_TRACKING_URI="http://mlflow.internal", **{name: proxy})
    with pytest.raises(TrackingError, match=r"the proxy .* before MLflow .* cannot be used") as got:
        open_client(tmp_path)
    assert "ALL_PROXY" in str(got.value)
    assert "geheim" not in str(got.value)
    assert tracking(tmp_path).state == "note"
    assert find_fault(mlflow_server.uri) is None, "of the loopback no proxy is asked"
    set_variables(NO_PROXY="mlflow.internal", **{name: proxy})
    fault = find_fault("http://mlflow.internal:1")
    assert fault is not None
    assert "does not answer" in fault.what


@pytest.mark.parametrize(
    ("variables", "reported"),
    [
        ({"MLFLOW_TRACKING_INSECURE_TLS": "maybe"}, "MLFLOW_TRACKING_INSECURE_TLS value must be"),
        ({"MLFLOW_TRACKING_AWS_SIGV4": "true"}, "No module named 'requests_auth_aws_sigv4'"),
        ({"REQUESTS_CA_BUNDLE": "/none"}, "certificates for MLflow at https://127.0.0.1:1 cannot"),
        ({"MLFLOW_TRACKING_TOKEN": "geheim\n"}, "MLFLOW_TRACKING_TOKEN, to what the server knows"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    variables: dict[str, str], reported: str, set_variables, tmp_path: Path
):
    set_variables(MLFLOW_TRACKING_URI="https://127.0.0.1:1", **variables)
    with pytest.raises(TrackingError) as caught:
        open_client(tmp_path)
    assert reported in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "reported"),
    [
        ("postgresql://ada:geheim@127.0.0.1:1/mlflow", "Connection refused"),
        ("mysql://ada:geheim@127.0.0.1:1/mlflow", "a driver that is not installed"),
    ],
)
def test_a_database_that_is_away_is_asked_once(
    address: str, reported: str, set_variables, tmp_path: Path
):
    set_variables(MLFLOW_TRACKING_URI=address)
    began_at = time.monotonic()
    with pytest.raises(TrackingError, match=reported) as caught:
        open_client(tmp_path)
    assert time.monotonic() - began_at < 20
    assert "geheim" not in str(caught.value)


def test_an_address_of_something_else_is_named(mlflow_server: Server):
    fault = find_fault(mlflow_server.uri + "/no/such/place")
    assert fault is not None
    assert fault.what.startswith(f"MLflow at {mlflow_server.uri}/no/such/place answers")
    assert "MLFLOW_TRACKING_URI" in fault.advice


def test_the_probe_is_bounded():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began_at = time.monotonic()
        fault = find_fault(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=0.5)
        assert time.monotonic() - began_at < 20
        server.shutdown()
    assert fault is not None
    assert "does not answer" in fault.what


class Silent(http.server.BaseHTTPRequestHandler):
    """Takes a question and gives no answer."""

    def do_POST(self) -> None:
        time.sleep(30)

    def log_message(self, *_: object) -> None:
        pass
