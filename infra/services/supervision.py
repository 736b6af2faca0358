"""supervisord: started, spoken to over its socket, ended with all that it started."""

import contextlib
import subprocess
import sys
import time
import xmlrpc.client
from typing import Any

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from infra.services import programs
from infra.services.program import marked
from infra.services.settings import SERVICES, Settings, write_secret
from vivero.errors import ViveroError

START_S = 20.0
STOP_S = 120.0


def rpc(settings: Settings) -> Any:  # a proxy answers to any name
    """The interface of a supervisord that runs."""
    transport = SupervisorTransport(None, None, f"unix://{settings.socket_path}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor


def is_up(settings: Settings) -> bool:
    """Whether supervisord answers."""
    try:
        return bool(rpc(settings).getState()["statename"] == "RUNNING")
    except (OSError, xmlrpc.client.Error):
        return False


def start(settings: Settings) -> None:
    """Start supervisord, which starts nothing yet.

    Raises:
        ViveroError: When it does not answer.
    """
    path = settings.folder / "supervisord.conf"
    write_secret(path, programs.supervisor_file(settings))
    command = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisord", "-c", str(path)]
    env = programs.bare_environment(settings)
    done = subprocess.run(
        command, env=env, cwd=settings.root, capture_output=True, text=True, errors="replace"
    )
    give_up_at = time.monotonic() + START_S
    while not is_up(settings):
        if done.returncode or time.monotonic() > give_up_at:
            raise ViveroError(
                f"supervisord did not start: {(done.stdout + done.stderr).strip()} "
                f"Its log is {settings.log_path('supervisord')}"
            )
        time.sleep(0.1)


def start_service(settings: Settings, service: str) -> None:
    """Start a service that is not running yet."""
    try:
        rpc(settings).startProcess(service, False)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != Faults.ALREADY_STARTED:
            raise


def pids(settings: Settings) -> dict[str, int]:
    """Process of each service that runs."""
    known = {info["name"]: info["pid"] for info in rpc(settings).getAllProcessInfo()}
    return {service: known[service] for service in SERVICES if known.get(service)}


def stop(settings: Settings) -> int:
    """End supervisord, the services, and whatever they have started; returns how many processes.

    What carries the mark is what we started, and nothing else is touched.
    """
    before = marked(settings.folder)
    if is_up(settings):
        rpc(settings).shutdown()
        # In order: the worker first, PostgreSQL last, each with the time that it needs.
        psutil.wait_procs([p for p in before if _is_supervisord(p)], timeout=STOP_S)
    left = marked(settings.folder)
    _ask(left, psutil.Process.terminate)
    _, stubborn = psutil.wait_procs(left, timeout=20)
    _ask(stubborn, psutil.Process.kill)
    psutil.wait_procs(stubborn, timeout=20)
    _, alive = psutil.wait_procs(before, timeout=5)
    if alive or marked(settings.folder):
        raise ViveroError(f"processes {[p.pid for p in alive]} do not end; look at them with ps")
    settings.socket_path.unlink(missing_ok=True)
    return len(before)


def _is_supervisord(process: psutil.Process) -> bool:
    try:
        return "supervisor.supervisord" in process.cmdline()
    except psutil.Error:
        return False


def _ask(processes: list[psutil.Process], signal: Any) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            signal(process)
