"""Really kills trainings: `python kill_matrix.py FOLDER EVERY NUM_RANDOM`; prints JSON.

One warm process forks a child for each training, so that a kill costs no start of torch. A child
is killed by SIGKILL before one of its calls that open, make, rename, flush or remove something
below its checkpoints (every EVERY-th of them), or at a random time. A second child goes on with
the same folder. Its hash must be that of a training that was never killed.
"""

import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401 - an optimiser imports it; once here, not in every child

from tests.unit.training import tiny_run
from vivero.training import step
from vivero.training.signals import Stopped

CALLS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def count_calls(folder: Path, before_call: Callable[[int], None]) -> Callable[[], int]:
    """Call before_call(n) before the n-th call that touches a checkpoint; returns the count."""
    count, fsync = 0, os.fsync

    def note() -> None:
        nonlocal count
        before_call(count)
        count += 1

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in CALLS and str(folder / "checkpoints") in str(args[0]):
            note()

    def counted_fsync(descriptor: int) -> None:
        note()
        fsync(descriptor)

    sys.addaudithook(hook)
    os.fsync = counted_fsync
    return lambda: count


def fork(body: Callable[[], None]) -> int:
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


def train_whole(folder: Path, die_at: int = -1, number: int = signal.SIGKILL) -> None:
    """Train in a folder; send itself a signal before call number die_at."""
    folder.mkdir(parents=True, exist_ok=True)

    def die(call: int) -> None:
        if call == die_at:
            os.kill(os.getpid(), number)

    num_calls = count_calls(folder, die)
    run = tiny_run.tiny_run(folder).go()
    final = {
        "sha256": tiny_run.hash_of(run.state),
        "points": [
            [entry.images_seen, key, value]
            for entry in run.outlets.tracker.journal.entries()
            for key, value in entry.values.items()
            if key != "train/images_per_s"
        ],
        "num_calls": num_calls(),
        "resumed_from": run.state.resumed_from,
    }
    (folder / "final.json").write_text(json.dumps(final))


def final_of(folder: Path) -> dict[str, object]:
    assert end_of(fork(lambda: train_whole(folder))) == 0
    return json.loads((folder / "final.json").read_text())


def forgetful_noise() -> None:
    """The negative control: noise from a generator whose state no checkpoint holds."""
    generator = torch.Generator().manual_seed(0)
    step.generator_at = lambda *_: generator


def main() -> None:
    torch.set_num_threads(1)
    folder, every, num_random = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    began_at = time.monotonic()
    whole = final_of(folder / "whole")
    train_s = time.monotonic() - began_at
    results = {"num_calls": whole["num_calls"], "whole": whole["sha256"], "trials": []}

    def kill_then_resume(name: str, die_at: int, number: int, delay_s: float = 0) -> None:
        pid = fork(lambda: train_whole(folder / name, die_at, number))
        if die_at < 0:
            time.sleep(delay_s)
            os.kill(pid, number)
        exit_code = end_of(pid)
        final = final_of(folder / name)
        results["trials"].append(
            {
                "name": name,
                "exit_code": exit_code,
                "sha256": final["sha256"],
                "has_same_points": final["points"] == whole["points"],
                "resumed_from": final["resumed_from"],
            }
        )

    for call in range(0, whole["num_calls"], every):
        kill_then_resume(f"call-{call}", call, signal.SIGKILL)
    rng = random.Random(0)
    for trial in range(num_random):
        kill_then_resume(f"random-{trial}", -1, signal.SIGKILL, rng.uniform(0, train_s))
    for number in (signal.SIGTERM, signal.SIGINT):
        kill_then_resume(number.name, whole["num_calls"] // 2, number)
    forgetful_noise()
    whole = final_of(folder / "forgetful-whole")
    results["forgetful"] = {"whole": whole["sha256"]}
    kill_then_resume("forgetful", whole["num_calls"] // 2, signal.SIGKILL)
    results["forgetful"]["killed"] = results["trials"].pop()["sha256"]
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
