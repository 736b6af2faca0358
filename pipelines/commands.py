"""Commands that a flow starts: each in its own process group, each line of it in the run's log.

What a command says goes to our terminal as it is, progress bars included, and line by line to the
log of the run, where a bar counts once, as it was at its end.
"""

import contextlib
import logging
import os
import pty
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prefect import get_run_logger

from vivero.config.variables import own_variables, variables_for_command
from vivero.errors import RemoteError, StageError, TrackingError
from vivero.processes import UNREACHABLE_EXIT_CODE, run_in_group
from vivero.tracking.git import run_git

BLOCK_BYTES = 1 << 16
DRAIN_S = 2.0  # for what a command said last to arrive; what it left behind may keep the pipe open
NUM_REMEMBERED_LINES = 60
PATIENCE_S = 70.0  # a trainer that is told to stop ends its step and saves, within 60 s
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
WHO_AND_KEY = re.compile(r"://[^/@\s]+@")  # of an address; no log may show it
# What DVC says of a server that does not answer; its exit codes do not tell. Only of a line that is
# DVC's own: the stage that it runs speaks through it too, of its network and its GPU.
DVC_ERROR = re.compile(r"^ERROR: ")
STAGE_FAILED = re.compile(r"^ERROR: failed to reproduce .*failed to run: ")
UNREACHABLE = re.compile(
    r"could ?n[o']t connect|connection (refused|reset|was closed|aborted|timed out)"
    r"|connect timeout|read timeout|unable to access|could not read from remote"
    r"|name or service not known|name resolution|no route to host|service ?unavailable"
    r"|\(InternalError\)|encountered an internal error"
    r"|slow ?down|reduce your request rate|endpoint url",
    re.IGNORECASE,
)

Say = Callable[[str], None]


@dataclass
class LineSplitter:
    """Bytes of a terminal in, the lines that a person would read at the end out."""

    _rest: bytes = b""

    def feed(self, content: bytes) -> list[str]:
        """The lines that are complete now."""
        *whole, self._rest = (self._rest + content).split(b"\n")
        if b"\r" in self._rest:  # a bar draws itself again and again: its last state is enough
            self._rest = b"\r" + self._rest.rstrip(b"\r").rpartition(b"\r")[2]
        return [line for line in map(_as_read, whole) if line]

    def end(self) -> list[str]:
        """What stood there without an end of line."""
        return [line for line in [_as_read(self._rest)] if line]


def _as_read(line: bytes) -> str:
    encoding = sys.stdout.encoding or "utf-8"  # what the command was told to write
    text = CONTROL.sub("", line.decode(encoding, "replace"))
    shown = [part for part in text.split("\r") if part.strip()]
    return shown[-1].rstrip() if shown else ""


@dataclass
class Heard:
    """The last lines of a command, and where each line goes."""

    say: Say
    lines: "deque[str]" = field(default_factory=lambda: deque(maxlen=NUM_REMEMBERED_LINES))

    def hear(self, lines: list[str]) -> None:
        """Remember lines and pass them on, without who and key of an address."""
        for line in map(unnamed, lines):
            self.lines.append(line)
            self.say(line)

    @property
    def names_nobody_there(self) -> bool:
        """Whether DVC itself says that a server could not be reached."""
        errors = [line for line in self.lines if DVC_ERROR.match(line)]
        if any(STAGE_FAILED.match(line) for line in errors):
            return False
        return any(UNREACHABLE.search(line) for line in errors)


def unnamed(text: str) -> str:
    """A text whose addresses name neither a user nor a password: fit for a log."""
    return WHO_AND_KEY.sub("://***@", text)


def run_heard(command: list[str], cwd: Path, env: Mapping[str, str], say: Say) -> tuple[int, Heard]:
    """Run a command in its own group; what it says goes to our terminal and, by line, to `say`.

    Returns:
        Its exit code, and its last lines.
    """
    heard = Heard(say)
    with _streams(heard) as streams:
        exit_code = run_in_group(command, cwd, env, patience_s=PATIENCE_S, streams=streams)
    return exit_code, heard


@contextlib.contextmanager
def _streams(heard: Heard) -> Iterator[tuple[int, int]]:
    """Descriptors for a command's output and errors, both passed on to ours.

    At a terminal the command gets one too, so that its progress bars are drawn.
    """
    is_shown = sys.stderr.isatty()
    pairs = [(*pty.openpty(), 2)] if is_shown else [(*os.pipe(), 1), (*os.pipe(), 2)]
    threads = []
    for reading, _, ours in pairs:
        threads.append(threading.Thread(target=_pass_on, args=(reading, ours, heard), daemon=True))
        threads[-1].start()
    try:
        yield pairs[0][1], pairs[-1][1]
    finally:
        for _, writing, _ in pairs:
            os.close(writing)
        for thread in threads:
            thread.join(DRAIN_S)


def _pass_on(reading: int, ours: int, heard: Heard) -> None:
    splitter = LineSplitter()
    try:
        while content := _read(reading):
            with contextlib.suppress(OSError):  # our own terminal may be gone
                os.write(ours, content)
            heard.hear(splitter.feed(content))
        heard.hear(splitter.end())
    finally:
        os.close(reading)


def _read(reading: int) -> bytes:
    try:
        return os.read(reading, BLOCK_BYTES)
    except OSError:  # a pseudo-terminal whose other end is closed says EIO
        return b""


def environment(root: Path) -> dict[str, str]:
    """Ours without other programs' variables, this Python first on PATH, the code of root."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    own = own_variables(os.environ)
    return {**own, "PATH": path, "PYTHONPATH": str(root / "src")}


def run_logged(arguments: list[str], root: Path) -> tuple[int, Heard]:
    """Run `python -m ARGUMENTS` in root, heard by the log of this task run."""
    log = get_run_logger()
    level = logging.INFO
    command = [sys.executable, "-m", *arguments]
    env = variables_for_command(environment(root), command)
    return run_heard(command, root, env, lambda line: log.log(level, "%s", line))


def run_timed(stage: str, arguments: list[str], root: Path) -> float:
    """Run the `python -m ARGUMENTS` of a stage and return how many seconds it took.

    Raises:
        TrackingError: When the stage could not reach a server; worth trying again.
        RemoteError: When DVC could not reach its remote; worth trying again.
        StageError: When it failed otherwise.
    """
    started_at = time.monotonic()
    get_run_logger().info("%s: started", stage)
    exit_code, heard = run_logged(arguments, root)
    if exit_code == UNREACHABLE_EXIT_CODE:
        raise TrackingError(f"stage '{stage}' could not reach a server; its message is above")
    if exit_code and arguments[0] == "dvc" and heard.names_nobody_there:
        raise RemoteError(
            f"DVC could not reach its remote for stage '{stage}'; its message is above. "
            f"Look after the S3 server and the network, then run the flow again"
        )
    if exit_code:
        raise StageError(stage, exit_code)
    return time.monotonic() - started_at


def git(
    root: Path,
    *arguments: str,
    operands: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> str:
    """What git prints.

    Args:
        root: Where it runs.
        arguments: Of git.
        operands: Addresses, remotes and refs, which are never taken for options.
        env: Added to our environment.

    Raises:
        RemoteError: When git refuses; with its words.
    """
    asked = f"`git {' '.join([*arguments, *operands])}` in {root} failed"
    try:
        result = run_git(
            root, *arguments, operands=operands, env={"GIT_TERMINAL_PROMPT": "0", **(env or {})}
        )
    except ValueError as error:
        raise RemoteError(unnamed(f"{asked}: {error}")) from error
    if result.returncode:
        raise RemoteError(unnamed(f"{asked}: {result.stderr.decode(errors='replace').strip()}"))
    return result.stdout.decode(errors="replace").strip()
