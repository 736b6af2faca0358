"""A tiny trainer as a process of its own, beating: `python -m tests.proofs.trainer FOLDER`.

At the place that faults.json has for this start it says so in FOLDER/waits and waits to be struck,
or makes a step so long as LONG_STEP_S says.
"""

import json
import logging
import os
import sys
import time
from pathlib import Path

import torch

from tests.proofs.faults import planted, read_faults
from tests.proofs.forked import CHANGES, Final, sha256_of
from tests.unit.training.tiny_run import tiny_run
from vivero.files import write_text
from vivero.processes import die_with_parent
from vivero.training.distributed import join_workers
from vivero.training.signals import Stopped
from vivero.training.supervision import end_on_purpose, has_ended_on_purpose, heartbeat

HEARTBEAT_S = 1.0


def train(folder: Path) -> None:
    faults = read_faults(folder)
    start = len(list(folder.glob("struck-*")))  # before they join, so that all count the same
    fault = faults[start] if start < len(faults) else None

    def wait_to_be_struck() -> None:
        (folder / f"struck-{start}").touch()
        write_text(folder / "waits", str(os.getpid()))
        time.sleep(float(os.environ.get("LONG_STEP_S", "600")))

    with join_workers() as workers:
        own = fault if fault and fault.rank == workers.rank else None
        changes = {**CHANGES, "num_processes": workers.num_processes}
        run = tiny_run(folder, workers, **changes)
        run = planted(run, folder, own, wait_to_be_struck).go()
        if workers.is_first:
            final = Final(sha256_of(run), run.state.resumed_from, 0)
            (folder / "final.json").write_text(json.dumps(final.__dict__))


def main() -> None:
    if has_ended_on_purpose():
        sys.exit(0)
    die_with_parent()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    try:
        with heartbeat(HEARTBEAT_S):
            train(Path(sys.argv[1]))
    except Stopped as stop:
        sys.exit(end_on_purpose(stop.exit_code))


if __name__ == "__main__":
    main()
