"""Work on hostile files in child processes that may hang, crash or eat memory without harm.

A worker has a limit on memory (RLIMIT_AS) and each item a limit on time. Items travel in batches
for speed; when a batch ends badly its items are tried one by one, so exactly the bad one is named.
"""

import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from vivero.errors import ViveroError

Item = TypeVar("Item")
Result = TypeVar("Result")

# A fork of this process would copy locks that a thread may hold; a fork of a small server that
# has the modules already is safe, and a worker that died is replaced within milliseconds.
FORK_SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ["vivero.data.cleaning", "vivero.data.resizing"]
START_TIMEOUT_S = 120.0  # for a worker's imports on a busy machine
BATCHES_AHEAD = 4  # finished batches per worker that may wait for a slower one before them


@dataclass(frozen=True)
class Limits:
    """What the workers may use; memory_bytes is on top of what each has when it starts."""

    num_processes: int = 1
    items_per_batch: int = 16
    item_timeout_s: float = 20.0
    memory_bytes: int = 1 << 30


@dataclass(frozen=True)
class Crash:
    """What came of an item whose worker did not survive it."""

    reason: str  # time_limit or decoder_crash
    detail: str


def map_isolated(
    function: Callable[[Item], Result], items: Iterable[Item], limits: Limits
) -> Iterator[Result | Crash]:
    """The results of function for all items, in their order; a Crash where a worker died.

    Args:
        function: A function at the top level of a module; it must not raise.
        items: Read as they are needed, a few batches ahead of the results.
        limits: How many workers, and what each may use.
    """
    batches = _batches(items, limits.items_per_batch)
    workers = [_Worker(function, limits) for _ in range(limits.num_processes)]
    finished: dict[int, list[Any]] = {}
    next_index = 0
    try:
        while True:
            for worker in workers:
                if worker.batch is None and len(finished) < BATCHES_AHEAD * len(workers):
                    worker.begin(next(batches, None))
            busy = [worker for worker in workers if worker.batch is not None]
            if not busy:
                return
            for batch in _finished(busy):
                finished[batch.index] = batch.results
            while next_index in finished:
                yield from finished.pop(next_index)
                next_index += 1
    finally:
        for worker in workers:
            worker.stop()


@dataclass
class _Batch:
    index: int
    items: list[Any]
    is_tried_singly: bool = False
    results: list[Any] = field(default_factory=list)

    def sent_items(self) -> list[Any]:
        """What a worker gets next: all items, or after a crash the first that has no result."""
        if not self.is_tried_singly:
            return self.items
        return self.items[len(self.results) :][:1]


def _batches(items: Iterable[Any], items_per_batch: int) -> Iterator[_Batch]:
    iterator = iter(items)
    for index in count():
        batch_items = list(islice(iterator, items_per_batch))
        if not batch_items:
            return
        yield _Batch(index, batch_items)


def _finished(busy: "list[_Worker]") -> list[_Batch]:
    """Wait until something happened to one of the busy workers; the batches that are now done."""
    patience_s = min(worker.deadline_s for worker in busy) - time.monotonic()
    multiprocessing.connection.wait(
        [worker.connection for worker in busy], timeout=max(0.0, patience_s)
    )
    return [batch for worker in busy if (batch := worker.collect()) is not None]


class _Worker:
    """One child process and the batch it works on; a child that died is replaced."""

    def __init__(self, function: Callable[[Any], Any], limits: Limits) -> None:
        self.function = function
        self.limits = limits
        self.batch: _Batch | None = None
        self.deadline_s = 0.0
        self._spawn()

    def _spawn(self) -> None:
        FORK_SERVER.set_forkserver_preload(PRELOADED)
        self.connection, child_end = FORK_SERVER.Pipe()
        self.process: BaseProcess = FORK_SERVER.Process(
            target=_work, args=(self.function, child_end, self.limits.memory_bytes), daemon=True
        )
        self.process.start()
        child_end.close()
        self.is_ready = False

    def begin(self, batch: _Batch | None) -> None:
        """Send a batch, or what is left of one, to the child."""
        self.batch = batch
        if batch is None:
            return
        if not self.is_ready:
            self._await_ready()
        try:
            self.connection.send(batch.sent_items())
        except OSError:  # it died while idle; `collect` finds the closed connection
            self.deadline_s = time.monotonic()
            return
        self.deadline_s = time.monotonic() + self.limits.item_timeout_s

    def _await_ready(self) -> None:
        try:
            self.is_ready = self.connection.poll(START_TIMEOUT_S) and self.connection.recv()
        except (EOFError, OSError):
            self.is_ready = False
        if not self.is_ready:
            raise ViveroError(
                "a worker process for decoding images did not start; its own message is above. "
                "When memory is short, lower validate_data.num_processes in params.yaml"
            )

    def collect(self) -> _Batch | None:
        """Take what the child has made; return the batch if that was the last of it."""
        batch, crash = self.batch, None
        if batch is None:
            return None
        try:
            if self.connection.poll():
                batch.results += self.connection.recv()
            elif time.monotonic() < self.deadline_s:
                return None
            else:
                crash = Crash("time_limit", f"not decoded within {self.limits.item_timeout_s:g} s")
        except (EOFError, OSError):
            self.process.join(timeout=1)
            crash = Crash("decoder_crash", f"the decoder ended with {self.process.exitcode}")
        if crash:
            self.stop()
            self._spawn()
            if len(batch.sent_items()) == 1:
                batch.results.append(crash)
            batch.is_tried_singly = True
        return self._finish_or_go_on(batch)

    def _finish_or_go_on(self, batch: _Batch) -> _Batch | None:
        if len(batch.results) < len(batch.items):
            self.begin(batch)
            return None
        self.batch = None
        return batch

    def stop(self) -> None:
        """End the child, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(function: Callable[[Any], Any], connection: Connection, memory_bytes: int) -> None:
    """Body of the child: answer each list of items with the list of their results."""
    threading.Thread(target=_outlive_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    _limit_memory(memory_bytes)
    connection.send(True)
    while True:
        try:
            items = connection.recv()
        except EOFError:
            return
        connection.send([function(item) for item in items])


def _outlive_parent() -> None:
    """Wait for the end of the process that gave the work (not of the fork server), then end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _limit_memory(extra_bytes: int) -> None:
    if sys.platform != "linux":
        return
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + extra_bytes, used_bytes + extra_bytes))
