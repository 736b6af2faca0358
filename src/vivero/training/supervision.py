"""A trainer is a child process that is watched: one that freezes is ended and started again.

The supervisor gives its trainers a folder. Each of them touches a file there every
`train.heartbeat_s` seconds, from a thread of its own, so a long step is no reason for alarm but a
stopped or hung process is. A trainer that ends on purpose, by a stop signal or with an error that
would come again, leaves its exit code there, so that torchrun does not start it again in vain.

This module imports no torch: the supervisor stays small and starts at once.
"""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import psutil

from vivero.config.environment import read_environment
from vivero.errors import TrainingError
from vivero.processes import LOOK_EVERY_S, TUNING, FrozenError, run_in_group

TRAINER_DIR = "VIVERO_TRAINER_DIR"
NUM_MISSED_BEATS = 3
PATIENCE_S = 60.0  # for a trainer that was asked to stop: to end its step and save
ENDED, BEAT = "ended", "beat"

# torchrun keeps its store over restarts (torch 2.13), and with it the addresses of the processes
# that died: whoever reads them before they are overwritten waits for half an hour. With this each
# start has a store of its own.
RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

log = logging.getLogger(__name__)


@dataclass
class HeartbeatWatch:
    """Tells whether one of the trainers is alive but has fallen silent.

    Attributes:
        folder: Where they leave their beats.
        limit_s: Silence that is too long.
    """

    folder: Path
    limit_s: float
    _last: dict[Path, tuple[int, float]] = field(default_factory=dict)
    _looked_at: float = field(default_factory=time.monotonic)

    def is_frozen(self) -> bool:
        """Whether a trainer that has beaten before is silent for too long."""
        now, beats = time.monotonic(), _beats_of_the_living(self.folder)
        slept_s = now - self._looked_at
        if slept_s > max(self.limit_s / 2, 4 * LOOK_EVERY_S):  # we were stopped ourselves
            self._last.clear()
        self._looked_at = now
        self._last = {
            path: self._last[path] if self._last.get(path, (0, 0.0))[0] == beat else (beat, now)
            for path, beat in beats.items()
        }
        return any(now - since > self.limit_s for _, since in self._last.values())


def _beats_of_the_living(folder: Path) -> dict[Path, int]:
    """When each trainer last gave a sign of life; one that died is torchrun's business."""
    beats = {}
    for path in folder.glob(f"{BEAT}-*"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # it has just ended, or begins
            if psutil.pid_exists(int(path.read_text())):
                beats[path] = path.stat().st_mtime_ns
    return beats


def supervise(
    command: Sequence[str],
    root: Path,
    *,
    num_processes: int,
    heartbeat_s: float,
    max_restarts: int,
    hint: str,
) -> None:
    """Run trainers to their end; start them again when one freezes.

    Args:
        command: Starts them, in the environment of this process, tuned.
        root: Their working folder.
        num_processes: How many share the cores.
        heartbeat_s: How often each gives a sign of life.
        max_restarts: How often frozen ones are started again.
        hint: What to change if the system killed one, which it does when memory runs out.

    Raises:
        TrainingError: When a trainer was killed, or froze once too often.
        SystemExit: When training failed and said why, or was asked to stop.
    """
    num_threads = max(1, len(psutil.Process().cpu_affinity()) // num_processes)
    threads = {"OMP_NUM_THREADS": str(num_threads)} if num_processes > 1 else {}
    for restart in range(max_restarts + 1):
        folder = Path(tempfile.mkdtemp(prefix="vivero-trainer-"))
        env = {**TUNING, **RESTARTABLE, **threads, **os.environ, TRAINER_DIR: str(folder)}
        watch = HeartbeatWatch(folder, NUM_MISSED_BEATS * heartbeat_s)
        try:
            exit_code = run_in_group(
                command, root, env, patience_s=PATIENCE_S, is_frozen=watch.is_frozen
            )
            codes = codes_on_purpose(folder)
            exit_code = max(codes, default=exit_code)
        except FrozenError:
            log.warning(
                "the trainer gave no sign of life for %.0f s and was ended (start %s of %s)",
                watch.limit_s,
                restart + 1,
                max_restarts + 1,
            )
            continue
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        end_as(exit_code, hint, has_said_why=bool(codes))
        return
    raise TrainingError(
        f"the trainer froze {max_restarts + 1} times (train.max_restarts); its checkpoints are "
        f"whole, so the same command resumes. Look for what stops it: a debugger, a full disk, a "
        f"network folder that hangs"
    )


def end_as(exit_code: int, hint: str, *, has_said_why: bool) -> None:
    """End as the trainer ended.

    Raises:
        TrainingError: When it was killed.
        SystemExit: When it failed and said why, or was asked to stop.
    """
    if exit_code < 0:
        raise TrainingError(
            f"the trainer was killed by signal {-exit_code}. If nobody did that, the system did, "
            f"because memory ran out: {hint}"
        )
    if exit_code and not has_said_why:
        log.error("a trainer failed; look above. If memory ran out: %s", hint)
    if exit_code:
        raise SystemExit(exit_code)


def is_trainer() -> bool:
    """Whether this process was started to train, by a supervisor, torchrun or Ray."""
    return "TORCHELASTIC_RUN_ID" in os.environ or read_environment().vivero_trainer_dir is not None


def codes_on_purpose(folder: Path) -> list[int]:
    """Exit codes of the trainers that ended on purpose."""
    return [int(path.read_text()) for path in folder.glob(f"{ENDED}-*")]


def end_on_purpose(exit_code: int) -> int:
    """Leave the exit code for the supervisor, so that nobody starts this trainer again.

    Returns:
        The exit code to end with: 0 where a supervisor knows better.
    """
    folder = read_environment().vivero_trainer_dir
    if folder is None:
        return exit_code
    with contextlib.suppress(FileNotFoundError):  # the supervisor has gone
        part_path = folder / f".{ENDED}-{_rank()}"
        part_path.write_text(str(exit_code))
        part_path.rename(folder / f"{ENDED}-{_rank()}")
    return 0


def stop_at_once(number: int, _frame: object) -> NoReturn:
    """What a trainer does on SIGTERM before its first and after its last step.

    Nothing is lost, because files are written whole or not at all.
    """
    if _rank() == "0":
        name = signal.Signals(number).name
        said = f"stopped by {name} between steps; run the same command again to resume"
        os.write(sys.stderr.fileno(), f"\ntrain: {said}\n".encode())
    end_on_purpose(128 + number)
    os._exit(128 + number)  # others wait for this process: torchrun has to see it fail


def has_ended_on_purpose() -> bool:
    """Whether a trainer of this supervisor has ended on purpose already."""
    folder = read_environment().vivero_trainer_dir
    return folder is not None and bool(codes_on_purpose(folder))


@contextlib.contextmanager
def heartbeat(every_s: float) -> Iterator[None]:
    """Within this context a thread gives a sign of life, where a supervisor listens."""
    folder = read_environment().vivero_trainer_dir
    if folder is None:
        yield
        return
    path, is_over = folder / f"{BEAT}-{_rank()}", threading.Event()
    thread = threading.Thread(target=_beat, args=(path, every_s, is_over.wait), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        path.unlink(missing_ok=True)


def _beat(path: Path, every_s: float, wait: Callable[[float], bool]) -> None:
    with contextlib.suppress(OSError):  # the supervisor has gone, and this process goes as well
        path.write_text(str(os.getpid()))
        while not wait(every_s):
            os.utime(path)


def _rank() -> str:
    environment: Mapping[str, str] = os.environ
    return environment.get("RANK", "0")
