"""`python -m infra.services up | down | status`: the services of this clone (`make services`)."""

import argparse
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.services import postgres, programs, readiness, supervision
from infra.services.settings import (
    BUCKETS,
    DATABASE_PASSWORD,
    HOST,
    LISTENING,
    SERVICES,
    Settings,
    read_env,
    read_settings,
    write_env,
    write_mlflow_auth,
)
from vivero.config.paths import project_dir
from vivero.errors import ConfigError, ViveroError
from vivero.processes import run_program

PATIENCE_S = 240.0  # a busy machine is slow, not wrong
WAVES = (("postgres", "s3"), ("mlflow", "prefect"), ("worker",))  # each needs those before it


def up(settings: Settings, console: Console) -> None:
    """Start what is not running, in the order in which they need each other, and wait for all.

    Raises:
        ViveroError: When something cannot start; with what to do.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    settings.folder.chmod(0o711)  # user postgres goes through; what is inside is not listed
    with FileLock(settings.folder / "lock"):
        if not supervision.is_up(settings):
            refuse_taken_ports(settings)
            (settings.folder / "logs").mkdir(exist_ok=True)
            for bucket in BUCKETS:
                (programs.s3_dir(settings) / bucket).mkdir(parents=True, exist_ok=True)
            (settings.folder / "prefect").mkdir(exist_ok=True)
            env = write_env(settings)
            write_mlflow_auth(settings, env)
            postgres.prepare(settings, env[DATABASE_PASSWORD])
            supervision.start(settings)
        env = read_env(settings)
        refuse_other_ports(settings, env)
        refuse_without_sign_in(env)
        said = start_all(settings, env, console)
    console.print(table(settings), f"{said}; to use them: set -a; . {settings.env_path}; set +a")


def start_all(settings: Settings, env: dict[str, str], console: Console) -> str:
    """Start the services wave by wave; returns what was deployed, in words."""
    said = ""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for wave in WAVES:
            if "mlflow" in wave:
                postgres.make_databases(settings, env[DATABASE_PASSWORD])
            if "worker" in wave:
                task = progress.add_task("deploy", total=1, now="pools, rules, deployments")
                said = deploy(settings, env)
                progress.update(task, completed=1, now=said)
            tasks = {name: progress.add_task(name, total=1, now="starting") for name in wave}
            for name in wave:
                supervision.start_service(settings, name)
            for name, task in tasks.items():
                wait_until_ready(settings, name, env)
                progress.update(task, completed=1, now="ready")
    return said


def wait_until_ready(settings: Settings, service: str, env: dict[str, str]) -> None:
    """Wait for a service.

    Raises:
        ViveroError: When it does not answer in time, or never will.
    """
    give_up_at = time.monotonic() + PATIENCE_S
    while not readiness.is_ready(settings, service, env):
        refused = postgres.refuses(settings, env) if service == "postgres" else None
        if refused:
            raise ConfigError(refused)
        if time.monotonic() > give_up_at:
            raise ViveroError(
                f"{service} does not answer after {PATIENCE_S:.0f} s; its log says why: "
                f"{settings.log_path(service)}. `make services-down` ends what was started"
            )
        time.sleep(0.3)


def deploy(settings: Settings, env: dict[str, str]) -> str:
    """Tell Prefect of pools, rules and deployments; returns what was done, in words."""
    command = [sys.executable, "-m", "infra.services.deploying"]
    own = {**programs.bare_environment(settings), **env}
    done = subprocess.run(
        command, cwd=settings.root, env=own, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise ViveroError(f"the Prefect server could not be set up: {done.stderr.strip()}")
    return done.stdout.strip().splitlines()[-1]


def refuse_taken_ports(settings: Settings) -> None:
    """Say which port is taken, and by whom, before anything is started.

    Raises:
        ConfigError: When one is.
    """
    taken = [name for name in LISTENING if not _is_free(settings.port(name))]
    if taken:
        who = ", ".join(
            f"{settings.port(name)} ({name}){_holder(settings.port(name))}" for name in taken
        )
        raise ConfigError(
            f"taken: port {who}. Free it, or start the services elsewhere: "
            f"VIVERO_PORTS_FROM={settings.first_port + 100} make services"
        )


def refuse_other_ports(settings: Settings, env: dict[str, str]) -> None:
    """Services that run do not move.

    Raises:
        ConfigError: When others were asked for.
    """
    running = int(env["VIVERO_PORTS_FROM"])
    if running != settings.first_port:
        raise ConfigError(
            f"the services run on ports from {running}; `make services-down` first, then "
            f"VIVERO_PORTS_FROM={settings.first_port} make services"
        )


def refuse_without_sign_in(env: dict[str, str]) -> None:
    """Services that an older version started ask nobody for a password.

    Raises:
        ConfigError: When they run.
    """
    if "PREFECT_API_AUTH_STRING" not in env:
        raise ConfigError(
            "the services that run were started by an older version and ask for no password; "
            "`make services-down` first, then `make services`"
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    """Who listens on a port, as far as we may know."""
    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        pid = next(c.pid for c in listening if c.laddr and c.laddr.port == port and c.pid)
        return f" by process {pid} ({psutil.Process(pid).name()})"
    except (psutil.Error, StopIteration):
        return ""


def table(settings: Settings) -> Table:
    """What runs where."""
    made = Table("service", "address", "pid", "log", title="Services")
    pids = supervision.pids(settings)
    for service in SERVICES:
        log_path = settings.log_path(service)
        shown = os.path.relpath(log_path, Path.cwd())
        made.add_row(service, settings.address(service), str(pids.get(service, "-")), shown)
    return made


def down(settings: Settings, console: Console) -> None:
    """End all that was started, and say so."""
    with console.status("services: ending, the worker first, PostgreSQL last"):
        num_ended = supervision.stop(settings)
    if num_ended:
        console.print(
            f"services: {num_ended} processes ended, none is left; data stays in {settings.folder}"
        )
    else:
        console.print("services: none is running")


def status(settings: Settings, console: Console) -> None:
    """What runs, and whether it does its work.

    Raises:
        ViveroError: When something does not.
    """
    env = read_env(settings)
    if not supervision.is_up(settings):
        raise ViveroError("no services are running; start them with `make services`")
    console.print(table(settings))
    broken = [name for name in SERVICES if not readiness.is_ready(settings, name, env)]
    if broken:
        raise ViveroError(f"not ready: {', '.join(broken)}; their logs are in the table")
    console.print("services: all are ready")


COMMANDS = {"up": up, "down": down, "status": status}


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m infra.services", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = COMMANDS[parser.parse_args().command]
    width = max(130, Console().width)
    console = Console(width=width, soft_wrap=True, markup=False, emoji=False, highlight=False)
    try:
        command(read_settings(project_dir()), console)
    except ViveroError as error:
        sys.exit(f"services: {error}")
    except KeyboardInterrupt:
        sys.exit("services: stopped by you; `make services` resumes, `make services-down` ends all")


if __name__ == "__main__":
    run_program("services", main)
