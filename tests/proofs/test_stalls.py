"""Saving costs next to nothing: the disk is written beside the training, from a copy.

All figures are ratios within one run. What a save costs is counted in seconds of the processor over
all threads, as if no core were to spare, so that a busy machine does not matter.
"""

import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.training.tiny_run import TinyRun, tiny_run

BATCH_IMAGES = 64
MAX_OVERHEAD = 0.02
MODEL = {  # of params.yaml, as the batch is; the images are a third as large
    "channels": [64, 128],
    "blocks_per_level": 2,
    "patch_px": 2,
    "attention_heads": 4,
    "embedding_channels": 256,
}
NEVER = 800_000


class Clock:
    """When the steps of a run began, and what the processor had done by then, by images seen."""

    def __init__(self, run: TinyRun) -> None:
        self.began_at: dict[int, float] = {}
        self.worked_s: dict[int, float] = {}
        self.saved_at: list[int] = []
        self._state = run.state
        self.run = replace(run, rig=replace(run.rig, phase=self._phase))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        if name == "batch":
            self.began_at[self._state.images_seen] = time.monotonic()
            self.worked_s[self._state.images_seen] = time.process_time()
        if name == "checkpoint":
            self.saved_at.append(self._state.images_seen)
        yield

    def steps_s(self) -> dict[int, float]:
        """Seconds from the beginning of a step to that of the next, saving included."""
        clocks = sorted(self.began_at)
        pairs = itertools.pairwise(clocks)
        return {begin: self.began_at[end] - self.began_at[begin] for begin, end in pairs}


def timed_run(
    folder: Path, num_steps: int, save_every_steps: int, clocks: list[Clock] | None = None
) -> Clock:
    run = tiny_run(
        folder,
        model=MODEL,
        batch_images=BATCH_IMAGES,
        num_micro_batches=1,
        total_images=num_steps * BATCH_IMAGES,
        checkpoint_every_images=save_every_steps * BATCH_IMAGES,
        log_every_images=NEVER,
        validate_every_images=NEVER,
        preview_every_images=NEVER,
    )
    clock = Clock(run)
    if clocks is not None:
        clocks.append(clock)
    clock.run.go()
    return clock


def size_bytes(folder: Path) -> int:
    newest_dir = max((folder / "checkpoints").iterdir())
    return sum(path.stat().st_size for path in newest_dir.iterdir())


def test_training_goes_on_while_the_disk_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fsync = os.fsync
    clocks: list[Clock] = []
    steps_beside: list[int] = []

    def slow_fsync(descriptor: int) -> None:
        """The first flush ends when five more steps began: never, if training waits for it."""
        if clocks and clocks[0].saved_at and not steps_beside:
            steps_beside.append(0)
            since, until = len(clocks[0].began_at), time.monotonic() + 30
            while steps_beside[0] < 5 and time.monotonic() < until:
                time.sleep(0.01)
                steps_beside[0] = len(clocks[0].began_at) - since
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    timed_run(tmp_path, num_steps=18, save_every_steps=10, clocks=clocks)
    assert sum(steps_beside) >= 5, "training waited for the disk"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_save_of_megabytes_stalls_no_step_and_costs_two_percent_at_most(tmp_path: Path):
    every, num_pairs = 200, 4  # a hundred steps with the writer beside them, a hundred without
    clock = timed_run(tmp_path, num_steps=every * (num_pairs + 1), save_every_steps=every)
    steps_s = clock.steps_s()

    def worked_s(first: int) -> float:
        begin, end = first * BATCH_IMAGES, (first + 100) * BATCH_IMAGES
        return clock.worked_s[end] - clock.worked_s[begin]

    saves = [every * pair - 1 for pair in range(1, num_pairs + 1)]  # saved within this step
    overhead = statistics.median(worked_s(save) / worked_s(save + 100) for save in saves) - 1
    usual_s = statistics.median(steps_s.values())
    longest_s = [  # of the step that saves and those beside the writer
        max(steps_s[step * BATCH_IMAGES] for step in range(save, save + 5)) for save in saves
    ]
    stall = statistics.median(longest_s) / usual_s - 1
    sys.stdout.write(
        f"{size_bytes(tmp_path) / 1e6:.1f} MB, step {1000 * usual_s:.1f} ms, "
        f"overhead {100 * overhead:.2f} %, stall {stall:.2f} steps\n"
    )
    assert size_bytes(tmp_path) > 2e6
    assert stall < 1
    assert overhead <= MAX_OVERHEAD
