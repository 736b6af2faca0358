"""Trainings in processes of their own, under torchrun or the supervisor, struck from outside."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.proofs.faults import Fault, wait_until, write_faults
from tests.proofs.forked import Final, read_final
from tests.proofs.trainer import HEARTBEAT_S
from vivero.training.distributed import torchrun_command
from vivero.training.supervision import RESTARTABLE, supervise

MODULE = "tests.proofs.trainer"
REPOSITORY = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
PATIENCE_S = 600.0  # of a busy machine


@dataclass
class Striker:
    """Strikes each trainer that waits for it, and notes how long it stayed after that."""

    folder: Path
    number: int
    num_faults: int
    stayed_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._strike_all, daemon=True)
        self.thread.start()

    def _strike_all(self) -> None:
        waits_path = self.folder / "waits"
        for _ in range(self.num_faults):
            wait_until(waits_path.exists, PATIENCE_S)
            pid = int(waits_path.read_text())
            waits_path.unlink()
            struck_at = time.monotonic()
            os.kill(pid, self.number)
            while is_there(pid):
                time.sleep(0.01)
            self.stayed_s.append(time.monotonic() - struck_at)


def is_there(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@dataclass(frozen=True)
class Struck:
    """What came of a training that was struck: its end, and how long each struck process stayed."""

    final: Final
    stayed_s: list[float]


def by_torchrun(folder: Path, faults: list[Fault]) -> Struck:
    """Two processes of gloo; in each start one is killed, and torchrun starts both again."""
    folder.mkdir(parents=True)
    write_faults(folder, faults)
    striker = Striker(folder, signal.SIGKILL, len(faults))
    process = subprocess.run(
        [*torchrun_command(MODULE, 2, max_restarts=len(faults)), str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, **ONE_THREAD, **RESTARTABLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stderr.count("(exitcode: -9)") == len(faults), process.stderr[-3000:]
    return Struck(read_final(folder), striker.stayed_s)


def by_supervisor(
    folder: Path, faults: list[Fault], num_processes: int = 1, max_restarts: int | None = None
) -> Struck:
    """Trainers under the product's supervisor; in each start one is stopped (SIGSTOP)."""
    folder.mkdir(parents=True)
    write_faults(folder, faults)
    striker = Striker(folder, signal.SIGSTOP, len(faults))
    command = [sys.executable, "-m", MODULE]
    if num_processes > 1:
        command = torchrun_command(MODULE, num_processes)
    with environment(ONE_THREAD):
        supervise(
            [*command, str(folder)],
            REPOSITORY,
            num_processes=num_processes,
            heartbeat_s=HEARTBEAT_S,
            max_restarts=len(faults) if max_restarts is None else max_restarts,
            hint="",
        )
    return Struck(read_final(folder), striker.stayed_s)


def with_a_long_step(folder: Path, long_s: float) -> Struck:
    """A trainer under the supervisor whose second step takes long, and which nobody strikes."""
    folder.mkdir(parents=True)
    write_faults(folder, [Fault("forward", 8)])
    with environment({**ONE_THREAD, "LONG_STEP_S": str(long_s)}):
        supervise(
            [sys.executable, "-m", MODULE, str(folder)],
            REPOSITORY,
            num_processes=1,
            heartbeat_s=HEARTBEAT_S,
            max_restarts=3,
            hint="",
        )
    assert (folder / "waits").exists(), "the long step did not happen"
    return Struck(read_final(folder), [])


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within this context the environment has these values."""
    former = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(former)
