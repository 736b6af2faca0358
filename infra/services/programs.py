"""What each service is: its command, its environment, and supervisord's file that names them all.

No secret stands in a command or in supervisord's file: `program.py` adds them to the environment
just before it becomes the service.
"""

import os
import sys
from pathlib import Path

from infra.services import postgres
from infra.services.settings import (
    DATABASE_PASSWORD,
    HOST,
    MARK,
    MLFLOW_SECRET_KEY,
    OF_SERVERS,
    SERVICES,
    Settings,
)
from vivero.cli.quiet import QUIET
from vivero.config.variables import own_variables

# What a person set for another server must not reach ours.
FOREIGN = ("AWS_", "MLFLOW_", "PREFECT_", "PG", "RCLONE_", "VIVERO_DVC", "VIVERO_REPOSITORY")
BIN = Path(sys.executable).parent
LEASES_ON_DISK = "prefect.server.concurrency.lease_storage.filesystem"
STOP_S = {"postgres": 30, "s3": 10, "mlflow": 20, "prefect": 30, "worker": 90}  # a trainer saves


def command(settings: Settings, service: str) -> list[str]:
    """What is started."""
    if service == "postgres":
        return postgres.command(settings)
    if service == "worker":
        options = ("--pool", "local", "--name", "local", "--type", "process")
        return [str(BIN / "prefect"), "worker", "start", *options]
    port = str(settings.port(service))
    if service == "s3":
        address = ("--addr", f"{HOST}:{port}", "--config", os.devnull)
        return [str(BIN / "rclone"), "serve", "s3", str(s3_dir(settings)), *address]
    address = ("--host", HOST, "--port", port)
    if service == "mlflow":
        how = ("--app-name", "basic-auth", "--workers", "1", "--serve-artifacts")
        return [str(BIN / "mlflow"), "server", *address, *how]
    return [str(BIN / "prefect"), "server", "start", *address]


def secret_environment(settings: Settings, service: str, env: dict[str, str]) -> dict[str, str]:
    """What a service is told besides its command.

    Args:
        settings: Of all services.
        service: Which of them.
        env: What the file `env` says.
    """
    storage = {name: value for name, value in env.items() if name.startswith(("AWS_", "MLFLOW_S3"))}
    password = env[DATABASE_PASSWORD]
    home = {"PREFECT_HOME": env["PREFECT_HOME"]}
    return {
        "postgres": {},
        "s3": {"RCLONE_AUTH_KEY": f'"{env["AWS_ACCESS_KEY_ID"]},{env["AWS_SECRET_ACCESS_KEY"]}"'},
        "mlflow": {
            **storage,
            "MLFLOW_BACKEND_STORE_URI": settings.database_url("psycopg2", "mlflow", password),
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://vivero-mlflow/artifacts",
            "MLFLOW_AUTH_CONFIG_PATH": str(settings.mlflow_auth_path),
            "MLFLOW_AUTH_ADMIN_USERNAME": env["MLFLOW_TRACKING_USERNAME"],
            "MLFLOW_AUTH_ADMIN_PASSWORD": env["MLFLOW_TRACKING_PASSWORD"],
            MLFLOW_SECRET_KEY: env[MLFLOW_SECRET_KEY],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else ten processes, some undying
        },
        "prefect": {
            **home,
            "PREFECT_API_URL": env["PREFECT_API_URL"],
            "PREFECT_API_AUTH_STRING": env["PREFECT_API_AUTH_STRING"],  # its own clients
            "PREFECT_SERVER_API_AUTH_STRING": env["PREFECT_API_AUTH_STRING"],
            # in memory, its default, a restart of the server would leave slots taken for ever
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES_ON_DISK,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": settings.database_url(
                "asyncpg", "prefect", password
            ),
        },
        "worker": {
            **{name: value for name, value in env.items() if name not in OF_SERVERS},
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        },
    }[service]


def bare_environment(settings: Settings) -> dict[str, str]:
    """Ours without what is meant for other servers; with this Python first, and our mark."""
    inherited = own_variables(os.environ)
    own = {name: value for name, value in inherited.items() if not name.startswith(FOREIGN)}
    path = os.pathsep.join([str(BIN), own.get("PATH", os.defpath)])
    return {**own, **QUIET, "PATH": path, MARK: str(settings.folder)}


def s3_dir(settings: Settings) -> Path:
    """The folder whose folders are the buckets."""
    return settings.folder / "s3"


def supervisor_file(settings: Settings) -> str:
    """The file of supervisord: nothing starts by itself, all that was started comes back."""
    user = "user=root\n" if os.geteuid() == 0 else ""
    head = (
        f"[supervisord]\n{user}"
        f"logfile={_quoted(settings.log_path('supervisord'))}\n"
        f"pidfile={_quoted(settings.folder / 'supervisord.pid')}\n"
        f"directory={_quoted(settings.root)}\n"
        f"[unix_http_server]\nfile={_quoted(settings.socket_path)}\nchmod=0700\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    )
    return head + "".join(_program(settings, service) for service in SERVICES)


def _program(settings: Settings, service: str) -> str:
    if service == "postgres":  # its user may not be allowed to read our Python
        words = command(settings, service)
        user, stop_signal = postgres.server_user(), "INT"  # ends open connections
    else:
        words = [sys.executable, "-m", "infra.services.program", service]
        user, stop_signal = None, "TERM"
    as_user = f"user={user}\n" if user else ""
    quoted = " ".join(_shell_quoted(word) for word in words)
    return (
        f"[program:{service}]\ncommand={quoted}\n{as_user}"
        "autostart=false\nautorestart=true\nstartsecs=1\nstartretries=1000\n"
        f"stopsignal={stop_signal}\nstopwaitsecs={STOP_S[service]}\n"
        f"stopasgroup=false\nkillasgroup=true\npriority={SERVICES.index(service)}\n"
        f"redirect_stderr=true\nstdout_logfile={_quoted(settings.log_path(service))}\n"
        "stdout_logfile_maxbytes=10MB\nstdout_logfile_backups=2\n"
    )


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%%")


def _shell_quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
