"""A disk that is full, or that refuses, stops the training cleanly and costs no whole checkpoint.

At twenty of the calls of its saves a training meets a limit of file sizes or a folder that may not
be written, and, where this process may mount a small disk, one that is really full.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NUM_POINTS = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def outcomes(kind: str, folder: Path) -> list[dict[str, object]]:
    process = subprocess.run(
        [sys.executable, "-m", "tests.proofs.disks", kind, str(folder), str(NUM_POINTS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr[-3000:]
    return [json.loads(line) for line in process.stdout.splitlines()]


def check(found: list[dict[str, object]], cause: str) -> None:
    assert len(found) == NUM_POINTS
    for outcome in found:
        assert outcome["exit_code"] == 3, outcome  # one of our own errors, no traceback
        assert cause in outcome["said"], outcome
        assert "run the same command again" in outcome["said"], outcome
        assert max(outcome["after"], default="") >= max(outcome["before"], default=""), outcome
        assert outcome["newest"] == max(outcome["after"], default=None), outcome
        assert outcome["is_identical"], outcome
    # Saves are written in the background: how many are whole by then depends on the machine's load.
    assert sum("Intact: 0" in outcome["said"] for outcome in found) >= NUM_POINTS / 4


def test_a_limit_of_file_sizes_stops_the_training_and_loses_nothing(folder: Path):
    check(outcomes("limited", folder), "space")


@pytest.mark.slow
def test_a_read_only_folder_stops_the_training_and_loses_nothing(folder: Path):
    check(outcomes("read-only", folder), "Permission denied")


@pytest.mark.slow
def test_a_full_disk_stops_the_training_and_loses_nothing(small_disk: Path):
    check(outcomes("full", small_disk), "space")
