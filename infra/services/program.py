"""Become a service: `python -m infra.services.program NAME`, as supervisord starts it.

A server that was killed may have left a child that still holds its port (MLflow does): its
successor ends that first. Runs that a killed worker has left are not ended: they go on.
"""

import os
import sys
from pathlib import Path

import psutil

from infra.services import programs
from infra.services.settings import MARK, read_env, read_settings

NAME = "VIVERO_SERVICE"  # in the environment of a service, beside MARK


def marked(folder: Path, service: str | None = None) -> list[psutil.Process]:
    """Processes that the services in a folder have started, also through others; never us.

    Args:
        folder: Of the services.
        service: Only what this one has started.
    """
    found = []
    for process in psutil.process_iter():
        try:
            env = process.environ()
        except (psutil.Error, OSError):
            continue
        is_ours = env.get(MARK) == str(folder) and service in (None, env.get(NAME))
        if is_ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def main(service: str) -> None:
    """Replace this process by the service."""
    settings = read_settings(Path.cwd())
    if service != "worker":
        for process in marked(settings.folder, service):
            process.kill()
    secret = programs.secret_environment(settings, service, read_env(settings))
    words = programs.command(settings, service)
    os.execve(words[0], words, {**os.environ, **secret, NAME: service})  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1])
