"""Trainings as forks of one warm process, so that a kill costs no start of torch."""

import json
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401 - an optimiser imports it; once here, not in every child

from tests.proofs.faults import Fault, count_calls, planted
from tests.unit.training.tiny_run import TinyRun, hash_of, tiny_run
from vivero.files import sha256_of_json
from vivero.training import randomness
from vivero.training.signals import Stopped

# Five batches are an epoch; checkpoints fall between reports, within epochs and at an end of one.
CHANGES = {
    "num_micro_batches": 2,
    "checkpoint_every_images": 16,
    "log_every_images": 24,
    "validate_every_images": 48,
}


@dataclass(frozen=True)
class Final:
    """What a training ended with.

    Attributes:
        sha256: Over weights, averages, the optimiser's moments, and all points of the curves.
        resumed_from: The clock at each start that was not the first.
        num_calls: How many calls touched a checkpoint.
    """

    sha256: str
    resumed_from: list[int]
    num_calls: int


def sha256_of(run: TinyRun) -> str:
    """Over all that a run leaves: tensors, and the points of its curves in their order."""
    points = [
        [entry.images_seen, key, value]
        for entry in run.outlets.tracker.journal.entries()
        for key, value in entry.values.items()
        if key != "train/images_per_s"
    ]
    return sha256_of_json([hash_of(run.state), points])


def fork(body: Callable[[], None]) -> int:
    """Run body in a child process; returns its number."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        except Stopped as stop:
            os._exit(stop.exit_code)
        except BaseException:
            logging.exception("a child failed")
            os._exit(1)
        os._exit(0)
    return pid


def end_of(pid: int) -> int:
    """Exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train_in(
    folder: Path, fault: Fault | None = None, number: int = signal.SIGKILL, **changes: object
) -> None:
    """Train in a folder; send this process a signal at the fault's place; write final.json."""
    folder.mkdir(parents=True, exist_ok=True)

    def strike() -> None:
        os.kill(os.getpid(), number)

    def before_call(call: int) -> None:
        if fault == Fault("call", call):
            strike()

    num_calls = count_calls(folder, before_call)
    run = planted(tiny_run(folder, **{**CHANGES, **changes}), folder, fault, strike).go()
    final = Final(sha256_of(run), run.state.resumed_from, num_calls())
    (folder / "final.json").write_text(json.dumps(final.__dict__))


def struck(folder: Path, fault: Fault, number: int = signal.SIGKILL, **changes: object) -> int:
    """Train until the fault; returns the exit code."""
    return end_of(fork(lambda: train_in(folder, fault, number, **changes)))


def killed_at_random(folder: Path, rng: random.Random, train_s: float) -> int:
    """Train and be killed from outside at any time; returns the exit code, 0 when it was late."""
    pid = fork(lambda: train_in(folder))
    time.sleep(rng.uniform(0, train_s))
    os.kill(pid, signal.SIGKILL)
    return end_of(pid)


def final_of(folder: Path, **changes: object) -> Final:
    """Train, or go on, to the end."""
    assert end_of(fork(lambda: train_in(folder, **changes))) == 0, f"no end in {folder}"
    return read_final(folder)


def read_final(folder: Path) -> Final:
    return Final(**json.loads((folder / "final.json").read_text()))


def forget_noise() -> None:
    """From now on all noise comes from one generator, whose state no checkpoint holds."""
    generator = torch.Generator().manual_seed(0)
    randomness.generator_at = lambda _: generator
