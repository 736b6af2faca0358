"""Pull the plug at any moment: the finished model is the same, to the last bit.

`python -m tests.proofs.prove_resume`; KILLS says how many. Every kill is a SIGKILL that was seen to
have ended its process. What is compared is one sha256 over weights, averages, the optimiser's
moments and all points of the curves.
"""

import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tests.proofs import forked, watched
from tests.proofs.faults import STEP_PLACES, Fault

MID_STEP = "in the middle of a step"
MICRO_BATCH = "between micro-batches"
MID_EPOCH = "within an epoch"
EPOCH_END = "at the end of an epoch"
SAVE = "inside a save"
RANDOM = "at a random time"
RESUME = "while training, then while resuming"
TWICE = "twice in a row"
RANK = "one of two processes"
FROZEN = "frozen, by the supervisor"
# One round; kinds of two kills stand twice.
ROUND = (
    *(MID_STEP, MICRO_BATCH, SAVE, MID_EPOCH, EPOCH_END, RANDOM, SAVE),
    *(RESUME, RESUME, TWICE, TWICE, RANK, FROZEN),
)
NUM_IMAGES, EPOCH_IMAGES = 96, 40
NUM_CALLS_OF_RESUME = 6  # at least: the manifest and the files of one checkpoint
MAX_LATE = 20


@dataclass(frozen=True)
class Trial:
    """A training that was killed, and went on until its end.

    Attributes:
        kind: Where it was killed.
        num_kills: How often; each was seen.
        resumed_from: The clock at its starts after the first.
        is_identical: Whether it ended as the training that was never killed.
    """

    kind: str
    num_kills: int
    resumed_from: list[int]
    is_identical: bool


@dataclass
class Proof:
    """Kills trainings in folders below one.

    Attributes:
        folder: Of all trainings.
        rng: Chooses where.
        numbers: Names of the folders.
    """

    folder: Path
    rng: random.Random
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        began_at = time.monotonic()
        self.whole = forked.final_of(self.folder / "whole")
        self.train_s = time.monotonic() - began_at

    def trials(self, num_kills: int) -> Iterator[Trial]:
        """Kill num_kills times, of each kind in turn."""
        counts: dict[str, int] = dict.fromkeys(ROUND, 0)
        for kind in itertools.islice(itertools.cycle(ROUND), num_kills):
            counts[kind] += 1
        for kind, count in counts.items():
            if kind == RANK and count:
                yield self.of_ranks(count)
            elif kind == FROZEN and count:
                yield self.of_frozen(count)
            else:
                size = 2 if kind in (RESUME, TWICE) else 1
                for begin in range(0, count, size):
                    yield self.of_forks(kind, min(size, count - begin))

    def of_forks(self, kind: str, num_kills: int) -> Trial:
        """Kill a fork, and those that go on from it."""
        folder = self.folder / f"{next(self.numbers)}"
        exit_codes = []
        for turn in range(num_kills):
            if kind == RANDOM:
                exit_codes.append(self.kill_at_random(folder))
            else:
                exit_codes.append(forked.struck(folder, self.fault(kind, turn)))
        final = forked.final_of(folder)
        return Trial(kind, exit_codes.count(-signal.SIGKILL), final.resumed_from, self.same(final))

    def kill_at_random(self, folder: Path) -> int:
        """Kill at a random time; again, elsewhere, where the training was quicker."""
        for late in range(MAX_LATE):
            exit_code = forked.killed_at_random(folder, self.rng, self.train_s)
            if exit_code:
                return exit_code
            folder.rename(f"{folder}-late-{late}")
        return 0

    def fault(self, kind: str, turn: int) -> Fault:
        """Where a training of this kind is killed; at the second time, somewhat later."""
        begin = 8 * self.rng.randrange(3, 6)
        if kind == RESUME and turn == 1:
            return Fault("call", self.rng.randrange(NUM_CALLS_OF_RESUME))
        if kind == SAVE:
            return Fault("call", self.rng.randrange(self.whole.num_calls))
        if kind == MICRO_BATCH:
            return Fault("micro-batch", begin)
        if kind == MID_EPOCH:
            saved = self.rng.choice((16, 32, 48, 64))
            return Fault("forward", saved + 8, after_checkpoint=saved)
        if kind == EPOCH_END:
            saved = 2 * EPOCH_IMAGES
            return Fault("batch", saved, after_checkpoint=saved)
        return Fault(self.rng.choice(STEP_PLACES), begin + 40 * turn, after_checkpoint=16)

    def of_ranks(self, num_kills: int) -> Trial:
        """Kill one of two processes after the other; torchrun starts both again."""
        whole = watched.by_torchrun(self.folder / "ranks-whole", [])
        faults = [self.watched_fault(turn, rank=(turn + 1) % 2) for turn in range(num_kills)]
        struck = watched.by_torchrun(self.folder / "ranks", faults)
        num_seen = min(len(struck.stayed_s), num_kills)
        is_identical = struck.final.sha256 == whole.final.sha256
        return Trial(RANK, num_seen, struck.final.resumed_from, is_identical)

    def of_frozen(self, num_kills: int) -> Trial:
        """Stop trainers (SIGSTOP); the supervisor notices, kills them and starts them again."""
        faults = [self.watched_fault(turn) for turn in range(num_kills)]
        struck = watched.by_supervisor(self.folder / "frozen", faults)
        final = struck.final
        return Trial(FROZEN, len(struck.stayed_s), final.resumed_from, self.same(final))

    def watched_fault(self, turn: int, rank: int = 0) -> Fault:
        """Later at each turn, but before the last checkpoints, so that each start comes there."""
        begin = min(24 + 16 * turn, NUM_IMAGES - 24)
        return Fault(self.rng.choice(STEP_PLACES), begin, after_checkpoint=16, rank=rank)

    def same(self, final: forked.Final) -> bool:
        """Whether a training ended as the one that was never killed."""
        return final.sha256 == self.whole.sha256

    def negative_control(self) -> bool:
        """Whether a run whose noise no checkpoint holds ends elsewhere when it was killed."""
        pid = forked.fork(lambda: self._forgetful())
        return forked.end_of(pid) == 0

    def _forgetful(self) -> None:
        forked.forget_noise()
        whole = forked.final_of(self.folder / "forgetful-whole")
        folder = self.folder / "forgetful"
        assert forked.struck(folder, Fault("forward", 56, after_checkpoint=48)) == -signal.SIGKILL
        final = forked.final_of(folder)
        assert final.resumed_from == [48]
        assert final.sha256 != whole.sha256


def table_of(trials: list[Trial]) -> Table:
    """What was killed, how often, where it went on, and how it ended."""
    table = Table("killed", "kills", "went on after", "sha256")
    for kind in dict.fromkeys(trial.kind for trial in trials):
        own = [trial for trial in trials if trial.kind == kind]
        clocks = sorted({clock for trial in own for clock in trial.resumed_from})
        shown = ", ".join(map(str, clocks)) + " images" if clocks else "the start"
        is_equal = all(trial.is_identical for trial in own)
        num_kills = sum(trial.num_kills for trial in own)
        table.add_row(kind, str(num_kills), shown, "equal" if is_equal else "DIFFERENT")
    return table


def prove(folder: Path, num_kills: int, console: Console) -> bool:
    """Kill num_kills times and say what came of it; True when all is as it must be."""
    proof, trials = Proof(folder, random.Random(num_kills)), []
    for trial in proof.trials(num_kills):
        trials.append(trial)
        done = sum(trial.num_kills for trial in trials)
        end = "equal" if trial.is_identical else "DIFFERENT"
        console.print(f"{done:>4} of {num_kills}  {trial.kind}: sha256 {end}", highlight=False)
    num_seen = sum(trial.num_kills for trial in trials)
    num_identical = sum(trial.num_kills for trial in trials if trial.is_identical)
    differs = proof.negative_control()
    console.print(table_of(trials))
    said = "differs, as it must" if differs else "IS EQUAL: this proof sees nothing"
    console.print(f"negative control, noise whose state no checkpoint holds: sha256 {said}")
    console.print(f"{num_seen} kills, {num_identical} resumed to identical bytes", highlight=False)
    return num_seen == num_identical == num_kills and differs


def main() -> None:
    torch.set_num_threads(1)
    num_kills = int(os.environ.get("KILLS", "20"))
    with tempfile.TemporaryDirectory(prefix="vivero-proof-") as folder:
        is_proven = prove(Path(folder), num_kills, Console(width=100))
    sys.exit(0 if is_proven else 1)


if __name__ == "__main__":
    main()
