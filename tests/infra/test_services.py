"""The services on one machine: their settings, their secrets, their files, and the real servers."""

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import psycopg2
import pytest
from mlflow.tracking import MlflowClient

from infra.services import postgres, programs, readiness
from infra.services.settings import (
    BUCKETS,
    DATABASE_PASSWORD,
    FIRST_PORT,
    LISTENING,
    SERVICES,
    Settings,
    read_env,
    read_settings,
    write_env,
)
from tests.services import Servers, Storage, free_ports, rest_mlflow, servers, storage
from vivero.errors import ConfigError

__all__ = ["rest_mlflow", "servers", "storage"]  # fixtures

SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    DATABASE_PASSWORD,
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "PREFECT_API_AUTH_STRING",
)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("VIVERO_SERVICES_DIR", "VIVERO_PORTS_FROM", "VIVERO_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work" / "services").mkdir(parents=True)
    return read_settings(tmp_path)


def test_ports_follow_each_other_from_the_first_one(settings: Settings):
    assert settings.first_port == FIRST_PORT
    assert [settings.port(name) for name in SERVICES[:4]] == [15400, 15401, 15402, 15403]
    assert settings.address("mlflow") == "http://127.0.0.1:15402"


@pytest.mark.parametrize("given", ["80", "65535", "many", "-1"])
def test_ports_that_cannot_be_are_refused(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIVERO_PORTS_FROM", given)
    with pytest.raises(ConfigError, match="first of 4 ports, from 1024 on"):
        read_settings(Path.cwd())


def test_secrets_are_made_once_and_only_we_may_read_them(settings: Settings):
    first = write_env(settings)
    assert write_env(settings) == first == read_env(settings)
    assert stat.S_IMODE(settings.env_path.stat().st_mode) == 0o600
    assert len({first[name] for name in SECRETS}) == len(SECRETS)
    assert all(len(first[name]) >= 40 for name in SECRETS)


def test_the_ports_of_the_first_start_are_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIVERO_PORTS_FROM", "17000")
    write_env(read_settings(settings.root))
    monkeypatch.delenv("VIVERO_PORTS_FROM")
    assert read_settings(settings.root).first_port == 17000


def test_a_shell_reads_the_file_as_we_do(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VIVERO_REPOSITORY", "/srv/it's a $HOME of spaces")
    written = write_env(settings)
    script = f"set -a; . '{settings.env_path}'; set +a; exec env -0"
    shell = subprocess.run(["sh", "-c", script], env={"PATH": os.defpath}, capture_output=True)
    got = dict(pair.split("=", 1) for pair in shell.stdout.decode().split("\0") if pair)
    assert {name: got[name] for name in written} == written == read_env(settings)


def test_no_secret_stands_in_a_command_or_in_the_file_of_supervisord(settings: Settings):
    env = write_env(settings)
    secrets = [env[name] for name in SECRETS]
    shown = programs.supervisor_file(settings) + str(
        [programs.command(settings, service) for service in SERVICES]
    )
    assert not [secret for secret in secrets if secret in shown]


def test_a_run_does_not_get_the_secrets_of_the_servers(settings: Settings):
    given = programs.secret_environment(settings, "worker", write_env(settings))
    assert DATABASE_PASSWORD not in given
    assert "MLFLOW_FLASK_SERVER_SECRET_KEY" not in given
    assert given["PREFECT_API_AUTH_STRING"]
    assert given["AWS_SECRET_ACCESS_KEY"]


def test_what_is_meant_for_other_servers_does_not_reach_ours(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFECT_API_KEY", "of the company")
    monkeypatch.setenv("AWS_PROFILE", "company")
    env = programs.bare_environment(settings)
    assert "PREFECT_API_KEY" not in env
    assert "AWS_PROFILE" not in env


def test_a_long_folder_does_not_make_a_socket_that_the_kernel_refuses(tmp_path: Path):
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    assert len(str(Settings(tmp_path, folder).socket_path)) < 107


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_data_lies_where_user_postgres_can_go(tmp_path: Path, mode: int):
    for path in (tmp_path, *tmp_path.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(0o711)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    settings = Settings(home, home / "clone" / "work" / "services")
    is_inside = postgres.data_dir(settings).is_relative_to(home)
    assert is_inside == (mode == 0o755)
    assert postgres.data_dir(settings) == postgres.data_dir(settings)


def test_a_taken_port_is_named_before_anything_is_started(tmp_path: Path):
    first = free_ports(4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 2))
        taken.listen()
        env = {
            **os.environ,
            "VIVERO_PORTS_FROM": str(first),
            "VIVERO_SERVICES_DIR": str(tmp_path),
        }
        command = [sys.executable, "-m", "infra.services", "up"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"taken: port {first + 2} (mlflow) by process {os.getpid()}" in done.stderr
    assert f"VIVERO_PORTS_FROM={first + 100} make services" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}


def test_without_services_there_is_nothing_to_end(tmp_path: Path):
    env = {**os.environ, "VIVERO_SERVICES_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "infra.services", "down"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "services: none is running\n")


def test_the_s3_server_keeps_what_it_acknowledged_through_a_kill(
    servers: Servers, storage: Storage
):
    client = storage.client()
    assert {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} == set(BUCKETS)
    client.put_object(Bucket="vivero-dvc", Key="kept/object", Body=b"bytes")
    servers.kill("s3")
    servers.start("s3")
    assert client.get_object(Bucket="vivero-dvc", Key="kept/object")["Body"].read() == b"bytes"


def test_the_s3_server_knows_who_asks(storage: Storage):
    stranger = readiness.s3_client({**storage.env, "AWS_SECRET_ACCESS_KEY": "guessed"})
    with pytest.raises(stranger.exceptions.ClientError):
        stranger.list_buckets()


def test_the_s3_server_takes_objects_in_parts(storage: Storage, tmp_path: Path):
    (tmp_path / "large").write_bytes(os.urandom(17_000_000))  # two parts of 8 MiB and a rest
    storage.client().upload_file(str(tmp_path / "large"), "vivero-dvc", "large")
    storage.client().download_file("vivero-dvc", "large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


@pytest.mark.slow
def test_mlflow_keeps_rows_in_postgresql_and_files_in_s3(
    rest_mlflow: str, servers: Servers, storage: Storage, tmp_path: Path
):
    client = MlflowClient(tracking_uri=servers.env["MLFLOW_TRACKING_URI"])
    run_id = client.create_run(client.create_experiment(rest_mlflow)).info.run_id
    client.log_metric(run_id, "loss", 0.5)
    (tmp_path / "note.txt").write_text("kept")
    client.log_artifact(run_id, str(tmp_path / "note.txt"))

    password = servers.env[DATABASE_PASSWORD]
    connection = postgres.connect(servers.settings, password, "mlflow")
    with connection.cursor() as cursor:
        cursor.execute("SELECT value FROM metrics WHERE run_uuid = %s", (run_id,))
        assert cursor.fetchall() == [(0.5,)]
    connection.close()
    kept = list(storage.dir.glob(f"vivero-mlflow/artifacts/**/{run_id}/artifacts/note.txt"))
    assert [path.read_text() for path in kept] == ["kept"]


@pytest.mark.skipif(postgres.bin_dir() is None, reason="no PostgreSQL here")
def test_postgresql_asks_for_the_password(servers: Servers):
    servers.start("postgres")
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        postgres.connect(servers.settings, "guessed")
    env = {**servers.env, DATABASE_PASSWORD: "guessed"}
    assert "older than that file" in (postgres.refuses(servers.settings, env) or "")


def answer(url: str, headers: dict[str, str], body: object = None) -> tuple[int, str]:
    """Status and text of an answer, of a refusal as well."""
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data, given)  # noqa: S310  # an address of ours
    try:
        with urllib.request.urlopen(request, timeout=60) as found:  # noqa: S310
            return found.status, found.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


WRONG = readiness.authorization("vivero:guessed")


@pytest.mark.slow
@pytest.mark.skipif(postgres.bin_dir() is None, reason="no PostgreSQL here")
def test_mlflow_answers_nobody_without_the_password(servers: Servers):
    servers.start("mlflow")
    address = servers.env["MLFLOW_TRACKING_URI"]
    questions: list[tuple[str, object]] = [
        ("/api/2.0/mlflow/experiments/search", {"max_results": 1}),
        ("/api/2.0/mlflow/experiments/create", {"name": "of a stranger"}),
        ("/api/2.0/mlflow/registered-models/create", {"name": "of a stranger"}),
        ("/ajax-api/2.0/mlflow/experiments/search", {"max_results": 1}),
        ("/api/2.0/mlflow-artifacts/artifacts?path=", None),
        ("/graphql", {"query": "{ test { output } }"}),
        ("/v1/traces", {}),
        ("/gateway/mlflow/v1/models", None),
        ("/", None),
    ]
    for path, body in questions:
        for headers in ({}, WRONG):
            assert answer(address + path, headers, body)[0] == 401, path
    path, body = questions[0]
    assert answer(address + path, readiness.of_mlflow(servers.env), body)[0] == 200
    assert stat.S_IMODE(servers.settings.mlflow_auth_path.stat().st_mode) == 0o600


@pytest.mark.slow
@pytest.mark.skipif(postgres.bin_dir() is None, reason="no PostgreSQL here")
def test_prefect_answers_nobody_without_the_password(servers: Servers):
    servers.start("prefect")
    address = servers.env["PREFECT_API_URL"]
    questions: list[tuple[str, object]] = [
        ("/flow_runs/filter", {}),
        ("/flows/", {"name": "of-a-stranger"}),
        ("/deployments/filter", {}),
        ("/work_pools/", {"name": "of-a-stranger", "type": "process"}),
        ("/admin/version", None),
        ("/work_pools/local/workers/health", {}),
    ]
    for path, body in questions:
        for headers in ({}, WRONG):
            assert answer(address + path, headers, body)[0] == 401, path
    assert answer(address + "/flow_runs/filter", readiness.of_prefect(servers.env), {})[0] == 200
    assert (
        '"of-a-stranger"'
        not in answer(address + "/flows/filter", readiness.of_prefect(servers.env), {})[1]
    )
    command = [sys.executable, "-m", "prefect", "work-pool", "create", "local", "--type", "process"]
    env = programs.bare_environment(servers.settings)
    known = ("PREFECT_API_URL", "PREFECT_HOME")
    without = {**env, **{name: servers.env[name] for name in known}}
    assert subprocess.run(command, env=without, capture_output=True).returncode != 0
    done = subprocess.run(command, env={**env, **servers.env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(postgres.bin_dir() is None, reason="no PostgreSQL here")
def test_every_server_listens_on_loopback_alone(servers: Servers):
    """All that started in this session so far, by the kernel's own table of sockets."""
    for name in ("postgres", "s3"):
        servers.start(name)
    ports = {servers.settings.port(name) for name in LISTENING}
    listening = [
        found.laddr
        for found in psutil.net_connections("inet")
        if found.status == psutil.CONN_LISTEN and found.laddr.port in ports
    ]
    assert len(listening) >= 2
    assert {address.ip for address in listening} == {"127.0.0.1"}
