"""Registry commands in forked children that really die, before or after any commit of MLflow's."""

import logging
import os
from collections.abc import Callable

import pytest
from sqlalchemy.engine.default import DefaultDialect

KILLED = 137


def share_no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow keep no connection: a fork would share it. To be called before a store opens."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")


def killed_at(body: Callable[[], object], commit: int, after: bool) -> int:
    """Exit code of body in a child that dies at its commit of this number; 0 when it has fewer."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        _die_at(commit, after)
        body()
    except BaseException:
        logging.exception("a child failed")
        os._exit(1)
    os._exit(0)


def _die_at(commit: int, after: bool) -> None:
    commits = 0
    really_commit = DefaultDialect.do_commit

    def do_commit(self: DefaultDialect, connection: object) -> None:
        nonlocal commits
        commits += 1
        if commits == commit and not after:
            os._exit(KILLED)
        really_commit(self, connection)
        if commits == commit:
            os._exit(KILLED)

    DefaultDialect.do_commit = do_commit
