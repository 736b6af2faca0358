"""Places in a training where it can be struck, each reached by counting and not by waiting."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.unit.training.tiny_run import TinyRun
from vivero.training import checkpoints
from vivero.training.step import Phase
from vivero.training.tensor_file import Parts

CALLS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
# The phase "optimiser" ends with weights that have moved, and averages and clock that have not.
STEP_PLACES = ("batch", "forward", "backward", "optimiser", "average")


@dataclass(frozen=True)
class Fault:
    """A place in a training.

    Attributes:
        place: "call" (one that touches a checkpoint), "micro-batch" (between two), or a phase of
            the loop, when its work is done; "forward" and "backward" strike inside the network.
        at: Number of the call, or images seen.
        after_checkpoint: Wait there until this checkpoint or a newer one is saved; 0 = do not.
        rank: Which process is struck.
    """

    place: str
    at: int
    after_checkpoint: int = 0
    rank: int = 0


def write_faults(folder: Path, faults: list[Fault]) -> None:
    """Leave for the trainers of a folder where each start of theirs is to be struck."""
    (folder / "faults.json").write_text(json.dumps([asdict(fault) for fault in faults]))


def read_faults(folder: Path) -> list[Fault]:
    return [Fault(**values) for values in json.loads((folder / "faults.json").read_text())]


def count_calls(folder: Path, before_call: Callable[[int], None]) -> Callable[[], int]:
    """Call before_call(n) before the n-th call that touches a checkpoint; returns the count.

    Every opening, making, flushing, renaming and removing below checkpoints/ counts, and every
    writing: at that one half of the bytes are in the file. All of them are made by one thread at a
    time, so their order is always the same. Cannot be undone in this process.
    """
    count, fsync, write_flushed = 0, os.fsync, checkpoints.write_flushed
    checkpoints_dir = str(folder / "checkpoints")

    def note() -> None:
        nonlocal count
        before_call(count)
        count += 1

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in CALLS and str(args[0]).startswith(checkpoints_dir):
            note()

    def counted_fsync(descriptor: int) -> None:
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith(checkpoints_dir):
            note()
        fsync(descriptor)

    def counted_write(path: Path, parts: Parts) -> None:
        data = b"".join(parts)
        path.write_bytes(data[: len(data) // 2])
        note()
        write_flushed(path, parts)

    sys.addaudithook(hook)
    os.fsync, checkpoints.write_flushed = counted_fsync, counted_write
    return lambda: count


def planted(run: TinyRun, folder: Path, fault: Fault | None, strike: Callable[[], None]) -> TinyRun:
    """The run that calls strike() when it comes to a place in a step."""
    if fault is None or fault.place == "call":
        return run

    def strike_if_here(*_: object) -> None:
        if run.state.images_seen == fault.at:
            wait_until(lambda: newest_in(folder) >= fault.after_checkpoint)
            strike()

    if fault.place == "forward":
        list(run.state.model.modules())[-1].register_forward_hook(strike_if_here)
    elif fault.place == "backward":
        weights = list(run.state.model.parameters())
        weights[len(weights) // 2].register_hook(strike_if_here)
    else:
        return replace(run, rig=replace(run.rig, phase=striking_phase(fault.place, strike_if_here)))
    return run


def striking_phase(place: str, strike_if_here: Callable[[], None]) -> Phase:
    """Strikes within a phase, when its work is done; a micro-batch is struck before the second."""
    num_parts = 0

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[None]:
        nonlocal num_parts
        if name == "batch":
            num_parts = 0
        if name == "forward":
            num_parts += 1
            if place == "micro-batch" and num_parts == 2:
                strike_if_here()
        yield
        if name == place:
            strike_if_here()

    return phase


def newest_in(folder: Path) -> int:
    """The clock of the newest checkpoint; 0 = there is none."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")), default=0)


def wait_until(is_so: Callable[[], bool], patience_s: float = 60.0) -> None:
    """Look every few milliseconds until it is so."""
    deadline = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
