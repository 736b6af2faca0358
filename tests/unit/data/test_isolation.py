"""Workers that hang, crash or eat memory: exactly the bad item is named, the others survive."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vivero.data.isolation import BATCHES_AHEAD, Crash, Limits, map_isolated

HANGS, CRASHES, HUNGRY = 3, 5, 7


def misbehave(item: int) -> int | str:
    if item == HANGS:
        time.sleep(60)
    if item == CRASHES:
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == HUNGRY:
        try:
            return len(bytearray(2 << 30))
        except MemoryError:
            return "no memory"
    return item * item


def test_results_keep_their_order_on_several_workers():
    limits = Limits(num_processes=2, items_per_batch=7)
    assert list(map_isolated(abs, range(-100, 0), limits)) == list(range(100, 0, -1))


def test_no_items_make_no_results():
    assert list(map_isolated(abs, [], Limits())) == []


def test_only_the_bad_items_are_lost():
    limits = Limits(num_processes=1, items_per_batch=4, item_timeout_s=0.5)
    results = list(map_isolated(misbehave, range(10), limits))
    crashes = {index: r.reason for index, r in enumerate(results) if isinstance(r, Crash)}
    assert crashes == {HANGS: "time_limit", CRASHES: "decoder_crash"}
    assert results[HUNGRY] == "no memory"
    assert [results[index] for index in (0, 1, 2, 4, 6, 8, 9)] == [0, 1, 4, 16, 36, 64, 81]


def test_items_are_read_as_they_are_needed():
    taken = []

    def items():
        for item in range(10_000):
            taken.append(item)
            yield item

    results = map_isolated(abs, items(), Limits(items_per_batch=5))
    assert next(results) == 0
    assert len(taken) < 200
    results.close()


def slow_first(item: int) -> int:
    if item == 0:
        time.sleep(2)
    return item


@pytest.mark.parametrize("num_processes", [1, 2])
def test_finished_results_do_not_pile_up_behind_a_slow_one(num_processes: int):
    taken, consumed = [], 0

    def items():
        for item in range(2000):
            taken.append(item)
            yield item

    limits = Limits(num_processes=num_processes, items_per_batch=5)
    most = limits.items_per_batch * num_processes * (BATCHES_AHEAD + 1)
    for result in map_isolated(slow_first, items(), limits):
        assert result == consumed
        assert len(taken) - consumed <= most
        consumed += 1
    assert consumed == 2000


def test_a_slow_consumer_stops_the_workers_from_reading_ahead():
    taken = []

    def items():
        for item in range(10_000):
            taken.append(item)
            yield item

    results = map_isolated(abs, items(), Limits(num_processes=2, items_per_batch=5))
    assert next(results) == 0
    num_taken = len(taken)
    time.sleep(0.5)
    assert len(taken) == num_taken
    results.close()


PARENT = """
import os, sys, time
from vivero.data.isolation import Limits, map_isolated

def slow(item):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(map_isolated(slow, [1], Limits(item_timeout_s=60)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="death with the parent is Linux only")
def test_workers_die_with_their_parent(tmp_path):
    script_path = tmp_path / "parent.py"
    script_path.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker_pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    psutil.wait_procs(_alive(worker_pid), timeout=10)
    assert not _alive(worker_pid)


def _alive(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process] if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.NoSuchProcess:
        return []
