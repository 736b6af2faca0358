"""The supervisor: a trainer that freezes is started again, one that ends on purpose is not."""

import signal
import sys
import textwrap
from pathlib import Path

import pytest

from vivero.errors import TrainingError
from vivero.training import supervision
from vivero.training.supervision import BEAT, ENDED, TRAINER_DIR, HeartbeatWatch, supervise

HEAD = f"""
import os, sys, time
from pathlib import Path
folder = Path(os.environ["{TRAINER_DIR}"])
starts = Path(sys.argv[1])
with starts.open("a") as file:
    file.write("start\\n")
num_starts = len(starts.read_text().splitlines())
def freeze():
    (folder / "{BEAT}-0").write_text(str(os.getpid()))
    time.sleep(60)
"""


def start(tmp_path: Path, body: str, max_restarts: int = 1) -> int:
    """Supervise a trainer of a few lines; returns how often it was started."""
    starts = tmp_path / "starts"
    command = [sys.executable, "-c", HEAD + textwrap.dedent(body), str(starts)]
    try:
        supervise(
            command,
            tmp_path,
            num_processes=1,
            heartbeat_s=0.3,
            max_restarts=max_restarts,
            hint="buy memory",
        )
    finally:
        num_starts = len(starts.read_text().splitlines())
        (tmp_path / "num_starts").write_text(str(num_starts))
    return num_starts


def test_a_frozen_trainer_is_started_again(tmp_path: Path):
    assert start(tmp_path, "if num_starts == 1: freeze()") == 2


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_a_trainer_that_freezes_each_time_is_given_up(tmp_path: Path, max_restarts: int):
    with pytest.raises(TrainingError, match=rf"froze {max_restarts + 1} times"):
        start(tmp_path, "freeze()", max_restarts)
    assert (tmp_path / "num_starts").read_text() == str(max_restarts + 1)


def test_an_exit_on_purpose_is_passed_on_and_not_repeated(tmp_path: Path, caplog):
    with pytest.raises(SystemExit) as caught:
        start(tmp_path, f'(folder / "{ENDED}-0").write_text("143")')
    assert caught.value.code == 143
    assert (tmp_path / "num_starts").read_text() == "1"
    assert "a trainer failed" not in caplog.text


def test_a_trainer_that_fails_without_a_word_is_reported_with_the_hint(tmp_path: Path, caplog):
    with pytest.raises(SystemExit) as caught:
        start(tmp_path, "sys.exit(3)")
    assert caught.value.code == 3
    assert "a trainer failed; look above. If memory ran out: buy memory" in caplog.text


def test_a_killed_trainer_is_reported_with_the_hint(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"killed by signal 9.*buy memory"):
        start(tmp_path, f"os.kill(os.getpid(), {int(signal.SIGKILL)})")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(supervision.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(supervision.psutil, "pid_exists", lambda pid: pid == 1)
    return now


def looks(watch: HeartbeatWatch, clock: list[float], seconds: float, every_s: float) -> list[bool]:
    """What the watch says at each check within a number of seconds."""
    found = []
    for _ in range(round(seconds / every_s)):
        clock[0] += every_s
        found.append(watch.is_frozen())
    return found


def test_silence_counts_from_the_last_beat(tmp_path: Path, clock: list[float]):
    watch = HeartbeatWatch(tmp_path, limit_s=30.0)
    (tmp_path / f"{BEAT}-0").write_text("1")
    assert looks(watch, clock, 31, 1.0) == [False] * 31
    assert watch.is_frozen() is False
    assert looks(watch, clock, 1, 1.0) == [True]


def test_a_trainer_that_died_or_never_beat_is_not_frozen(tmp_path: Path, clock: list[float]):
    watch = HeartbeatWatch(tmp_path, limit_s=30.0)
    assert not any(looks(watch, clock, 100, 1.0))
    (tmp_path / f"{BEAT}-0").write_text("2")  # its process is gone
    assert not any(looks(watch, clock, 100, 1.0))


def test_a_watch_that_slept_itself_begins_again(tmp_path: Path, clock: list[float]):
    watch = HeartbeatWatch(tmp_path, limit_s=30.0)
    (tmp_path / f"{BEAT}-0").write_text("1")
    looks(watch, clock, 10, 1.0)
    assert looks(watch, clock, 3600, 3600.0) == [False]
    assert looks(watch, clock, 30, 1.0) == [False] * 30
    assert looks(watch, clock, 1, 1.0) == [True]
