"""Pull the plug at any moment: the finished model is the same, to the last bit.

The quick form is `make prove-resume` itself; the slow one kills at random 300 times, and before
every single call of every save.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LAST_LINE = re.compile(r"(\d+) kills, (\d+) resumed to identical bytes")


def last_line_of(kills: int) -> tuple[int, int]:
    process = subprocess.run(
        [sys.executable, "-m", "tests.proofs.prove_resume"],
        cwd=REPOSITORY,
        env={**os.environ, "KILLS": str(kills)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr[-3000:]
    assert "negative control" in process.stdout
    found = LAST_LINE.fullmatch(process.stdout.splitlines()[-1])
    assert found is not None, process.stdout
    return int(found[1]), int(found[2])


@pytest.mark.timeout(600)
def test_kills_change_no_bit_and_no_point_of_the_curves():
    assert last_line_of(8) == (8, 8)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_hundred_kills_of_every_kind():
    assert last_line_of(100) == (100, 100)


EVERY_CALL = """
import sys, torch
from pathlib import Path
from tests.proofs import forked
from tests.proofs.faults import Fault
torch.set_num_threads(1)
folder = Path(sys.argv[1])
whole, again = forked.final_of(folder / "whole"), forked.final_of(folder / "again")
assert whole == again, "the calls of a save are not the same each time"
for call in range(whole.num_calls):
    assert forked.struck(folder / f"{call}", Fault("call", call)) == -9, call
    assert forked.final_of(folder / f"{call}").sha256 == whole.sha256, call
print(whole.num_calls)
"""

AT_RANDOM = """
import random, sys, time, torch
from pathlib import Path
from tests.proofs import forked
torch.set_num_threads(1)
folder, num_kills, rng = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)
began_at = time.monotonic()
whole = forked.final_of(folder / "whole")
train_s = time.monotonic() - began_at
done = late = 0
while done < num_kills:
    path = folder / f"{done}-{late}"
    while forked.killed_at_random(path, rng, train_s) == 0:
        late += 1
        path = folder / f"{done}-{late}"
    if done % 3 == 2:  # and once more, perhaps while it resumes
        done += forked.killed_at_random(path, rng, train_s / 4) == -9
    assert forked.final_of(path).sha256 == whole.sha256, path
    done += 1
print(done)
"""


def printed_by(code: str, *arguments: object) -> int:
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return int(process.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_call_of_every_save_is_survived(tmp_path: Path):
    assert printed_by(EVERY_CALL, tmp_path) > 150


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_hundred_kills_at_random_times_are_survived(tmp_path: Path):
    assert printed_by(AT_RANDOM, tmp_path, 300) >= 300
