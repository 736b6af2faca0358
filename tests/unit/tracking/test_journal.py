"""The journal: whole lines only, nothing twice, nothing lost."""

import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivero.errors import TrackingError
from vivero.tracking.journal import Entry, Journal, read_journal

METRICS = st.dictionaries(st.text(min_size=1, max_size=8), st.floats(allow_nan=False), max_size=4)


def metrics(images_seen: int, **values: float) -> Entry:
    return Entry("metrics", images_seen=images_seen, values=values)


@given(values=METRICS, images_seen=st.integers(0, 10**12))
def test_an_entry_comes_back_as_it_was(values: dict[str, float], images_seen: int):
    entry = Entry("metrics", images_seen=images_seen, values=values)
    line = entry.to_line()
    assert line.count("\n") == 1
    assert Entry.from_line(line) == entry


def test_a_loss_that_is_not_a_number_is_recorded_too(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(metrics(8, loss=math.nan))
    assert math.isnan(journal.entries()[0].values["loss"])


def test_entries_outlive_the_process_in_their_order(tmp_path: Path):
    path = tmp_path / "deep" / "journal.jsonl"
    journal = Journal(path)
    for images_seen in (8, 16, 24):
        journal.append(metrics(images_seen, loss=1 / images_seen))
    journal.sync()
    journal.close()

    reopened = Journal(path)
    reopened.append(metrics(32, loss=0.5))
    assert [entry.images_seen for entry in reopened.entries()] == [8, 16, 24, 32]


@pytest.mark.parametrize("num_bytes", range(1, 40))
def test_a_torn_last_line_is_dropped(tmp_path: Path, num_bytes: int, caplog):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(metrics(8, loss=0.5))
    journal.close()
    with path.open("ab") as file:
        file.write(metrics(16, loss=0.25).to_line().encode()[:num_bytes])

    assert [entry.images_seen for entry in read_journal(path)] == [8]
    reopened = Journal(path)
    assert "torn by a kill" in caplog.text
    reopened.append(metrics(24, loss=0.1))
    assert [entry.images_seen for entry in reopened.entries()] == [8, 24]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    good = metrics(8, loss=0.5).to_line()
    path.write_text(good + '{"kind": "metr\n' + good)
    with pytest.raises(TrackingError, match=r"journal\.jsonl is damaged.*metr.*remove"):
        list(read_journal(path))


def test_going_back_to_a_checkpoint_doubles_no_step(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(Entry("run", values={"run_key": "abc"}))
    for images_seen in (8, 16, 24, 32):
        journal.append(metrics(images_seen, loss=1.0))
    journal.append(Entry("image", images_seen=32, key="preview", path="previews/32.png"))

    assert journal.truncate_after(16) == 3
    for images_seen in (24, 32):
        journal.append(metrics(images_seen, loss=2.0))

    entries = journal.entries()
    assert [entry.images_seen for entry in entries] == [None, 8, 16, 24, 32]
    assert [entry.values.get("loss") for entry in entries] == [None, 1.0, 1.0, 2.0, 2.0]
    assert journal.truncate_after(32) == 0


@given(steps=st.lists(st.integers(0, 50)), limit=st.integers(0, 50))
def test_truncating_keeps_exactly_what_is_not_later(steps, limit, tmp_path_factory):
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal.jsonl")
    for step in steps:
        journal.append(metrics(step, loss=0.0))
    journal.truncate_after(limit)
    assert [entry.images_seen for entry in journal.entries()] == [s for s in steps if s <= limit]
    journal.close()


def test_a_journal_is_plain_json_lines(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(metrics(8, loss=0.5))
    line = json.loads(journal.path.read_text())
    assert line == {
        "kind": "metrics",
        "time_ms": line["time_ms"],
        "images_seen": 8,
        "values": {"loss": 0.5},
    }
    assert abs(line["time_ms"] / 1000 - time.time()) < 60


def test_a_killed_writer_loses_no_line_it_reported(tmp_path: Path):
    path = tmp_path / "journal.jsonl"
    code = f"""
import itertools, sys
from pathlib import Path
from vivero.tracking.journal import Entry, Journal
journal = Journal(Path({str(path)!r}))
for step in itertools.count(1):
    journal.append(Entry("metrics", images_seen=step, values={{"loss": 1 / step}}))
    sys.stdout.write(f"{{step}}\\n")
    sys.stdout.flush()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(200)]
    os.kill(process.pid, 9)
    reported += [int(line) for line in process.stdout.read().splitlines() if line]
    process.wait()
    process.stdout.close()

    recorded = [entry.images_seen for entry in Journal(path).entries()]
    assert recorded[: len(reported) - 1] == reported[:-1]
    assert recorded == list(range(1, len(recorded) + 1))


@pytest.mark.parametrize("num_bytes_left", [0, 10])
def test_a_full_disk_leaves_whole_lines_and_says_what_to_do(tmp_path: Path, num_bytes_left: int):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(metrics(8, loss=0.5))
    limit_bytes = path.stat().st_size + num_bytes_left
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    try:
        with pytest.raises(TrackingError, match="run the same command again"):
            journal.append(metrics(16, loss=0.4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.append(metrics(24, loss=0.3))
    assert [entry.images_seen for entry in Journal(path).entries()] == [8, 24]
