"""How our processes start and end: each dies with its parent, and errors end in one sentence.

DVC starts a stage through a shell and leaves the stage running when it is itself killed, so a
second `dvc repro` would start a second writer of the same output. A stage therefore asks the
kernel to be told when its parent dies, and watches the process above the shell as well.
"""

import contextlib
import io
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from vivero.config.paths import root_or_none, work_dir
from vivero.config.variables import adopt, own_variables
from vivero.errors import TrackingError, ViveroError
from vivero.files import os_error_message

LOOK_EVERY_S = 0.5
GRACE_S = 3.0  # for a stage to save what it has, once what started it is gone
GUARD = """
import os, signal, sys, time
os.read(0, 1)
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.killpg(int(sys.argv[1]), number)
    except ProcessLookupError:
        break
    time.sleep(float(sys.argv[2]))
"""
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "busybox"}
INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141  # 128 + SIGPIPE, as the shell shows it
UNREACHABLE_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: worth trying again

# What dvc.yaml gives every stage as well, measured on 2 cores (docs/experiments.md). Threads that
# wait spin for a moment, then sleep: quick alone, and fair beside others. Memory is kept and asked
# for in huge pages instead of being given back to the system, and faulted in again, at every step.
TUNING = {
    "GOMP_SPINCOUNT": "500",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=2000000000:"
    "glibc.malloc.trim_threshold=8000000000",
}

CACHES = {"MPLCONFIGDIR": "matplotlib", "DVC_SITE_CACHE_DIR": "dvc"}  # else in ~ and /var/tmp

log = logging.getLogger(__name__)


def die_with_parent() -> None:
    """End this process when its parent ends, however that ends; the shell between is skipped.

    It is asked to end (SIGTERM) after a second, so that a training that was told to stop as well
    can save, and is killed after GRACE_S. Without pidfd (not Linux) nothing is watched.
    """
    watched_pid = _first_above_the_shells(os.getppid())
    if watched_pid > 1:
        threading.Thread(target=_outlive, args=(watched_pid,), daemon=True).start()


def _first_above_the_shells(pid: int) -> int:
    while pid > 1 and _name_of(pid) in SHELLS:
        pid = _parent_of(pid)
    return pid


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parent_of(pid: int) -> int:
    try:
        # The second field, the name, may hold spaces; it ends with the last parenthesis.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _outlive(pid: int) -> None:
    """Wait until process pid has ended, then end this one."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return
    select.select([descriptor], [], [])
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


class FrozenError(Exception):
    """A command gave no sign of life and was killed."""


def run_in_group(  # noqa: PLR0913  what is run, how it is stopped, and where it speaks
    command: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
    patience_s: float = 10.0,
    is_frozen: Callable[[], bool] | None = None,
    streams: tuple[int, int] | None = None,
) -> int:
    """Run a command in its own process group; whatever ends us ends the whole group.

    A small guard holds the other end of a pipe: when we are gone, killed or not, the pipe closes,
    and the guard ends what the command started, also what its own children left behind.

    Args:
        command: The program and its arguments.
        cwd: Where it runs.
        env: Its whole environment.
        stop_signal: Sent first when we are asked to stop; SIGINT for a program that tidies up on
            Ctrl-C alone.
        patience_s: How long it may take to end after each signal.
        is_frozen: Asked about twice a second; when it says yes, the group is killed.
        streams: Descriptors of its output and its errors; None = ours.

    Returns:
        The exit code of the command.

    Raises:
        FrozenError: When is_frozen said yes.
    """
    out, err = streams or (None, None)
    process = subprocess.Popen(
        command, cwd=cwd, env=dict(env), start_new_session=True, stdout=out, stderr=err
    )
    guard = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", GUARD, str(process.pid), str(GRACE_S)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        return _end_of(process, is_frozen)
    except FrozenError:
        _end_group(process, signal.SIGKILL)
        raise
    except BaseException:
        numbers = dict.fromkeys((stop_signal, signal.SIGTERM, signal.SIGKILL))
        _end_group(process, *numbers, patience_s=patience_s)
        raise
    finally:
        if process.poll() is not None:  # else a second signal cut this short: the guard ends it
            guard.kill()  # before its pipe closes, or it would do its work
        guard.communicate()


def _end_of(process: "subprocess.Popen[bytes]", is_frozen: Callable[[], bool] | None) -> int:
    while is_frozen is not None:
        try:
            return process.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            if is_frozen():
                raise FrozenError from None
    return process.wait()


def _end_group(
    process: "subprocess.Popen[bytes]", *numbers: signal.Signals, patience_s: float = 10.0
) -> None:
    for signal_number in numbers:
        try:
            if signal_number == signal.SIGKILL:
                _kill_what_it_started(process.pid)
            os.killpg(process.pid, signal_number)
            process.wait(timeout=patience_s)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        if _has_ended(process.pid, patience_s):  # the others of the group, too
            return


def _has_ended(group: int, patience_s: float) -> bool:
    """Whether all processes of a group end within some time; DVC ends before its stage does."""
    give_up_at = time.monotonic() + patience_s
    while time.monotonic() < give_up_at:
        members = [pid for pid in psutil.pids() if _group_of(pid) == group]
        if not members:
            return True
        time.sleep(0.1)
    return False


def _group_of(pid: int) -> int:
    """Group of a process that runs; 0 for one that has ended."""
    with contextlib.suppress(OSError, psutil.NoSuchProcess):
        if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return os.getpgid(pid)
    return 0


def _kill_what_it_started(pid: int) -> None:
    """Kill all below a process: torchrun gives each trainer a group of its own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.suspend()  # or it might start others meanwhile
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def speak_of_our_own() -> None:
    """Log what we say from INFO on, and what libraries say from WARNING on, to stderr."""
    form = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, datefmt="%H:%M:%S")
    for name in ("vivero", "__main__"):  # a stage that is run by its name is __main__
        logging.getLogger(name).setLevel(logging.INFO)


def start_program() -> None:
    """What every program of ours does first: text, streams and environment as it needs them.

    - File names and text are UTF-8 in every locale. Python decides that when it starts, so under
      another encoding the program replaces itself by one that starts with UTF-8.
    - A standard stream that was closed is opened on the null device: a file that is opened next
      would else take its descriptor, and get what is printed.
    - A character that the terminal cannot show is written as an escape.
    - Variables of other programs are removed (vivero.config.variables).
    - Caches of libraries are in work/ of the clone, unless a variable names another place.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        env = own_variables(os.environ, is_launched=True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], env)  # noqa: S606
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    adopt()
    root = root_or_none()
    if root is not None:
        for name, folder in CACHES.items():
            os.environ.setdefault(name, str(work_dir(root) / "caches" / folder))


def _open_missing_streams() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


@contextlib.contextmanager
def one_sentence_errors(name: str, on_stop: str, unreachable_exit_code: int = 1) -> Iterator[None]:
    """End the process with one message instead of a traceback.

    Our own errors, a file that cannot be read or written, and a full disk end with exit code 1. A
    reader that has gone ends with 141, as if by SIGPIPE, and Ctrl-C with 130. Anything else is a
    bug and keeps its traceback.

    Args:
        name: Of the program, in front of the message.
        on_stop: What to say after Ctrl-C.
        unreachable_exit_code: For a server that could not be reached.
    """
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except ViveroError as error:
        _say(f"{name}: {error}")
        sys.exit(unreachable_exit_code if isinstance(error, TrackingError) else 1)
    except BrokenPipeError:
        _drop_output()
        sys.exit(BROKEN_PIPE_EXIT_CODE)
    except OSError as error:
        _say(f"{name}: {os_error_message(error)}")
        _drop_output()
        sys.exit(1)
    except KeyboardInterrupt:
        _say(f"\n{name}: {on_stop}")
        sys.exit(INTERRUPTED_EXIT_CODE)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be there to read it
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _drop_output() -> None:
    """Send what is left of the output nowhere: Python would complain about it when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def run_program(name: str, body: Callable[[], object]) -> None:
    """Run a program of ours that is no stage: environment, streams, errors in one sentence."""
    start_program()
    with one_sentence_errors(name, "stopped by you; run the same command again to resume"):
        body()


def run_stage(name: str, body: Callable[[], None]) -> None:
    """Run the body of a stage as a process of its own: logging, death with DVC, errors.

    A server that could not be reached ends with 75, so that a driver knows when to try again.
    """
    start_program()
    if "DVC_STAGE" in os.environ:  # started by hand it may outlive its shell, as nohup promises
        die_with_parent()
    speak_of_our_own()
    on_stop = "stopped by you; run the same command again to resume"
    with one_sentence_errors(name, on_stop, UNREACHABLE_EXIT_CODE):
        body()
