"""Checkpoints are written beside the training, from a copy, so that no step waits for the disk."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

from vivero.training.checkpoints import CheckpointStore
from vivero.training.state import TensorFiles

MAX_WAITING_BYTES = 512 * 2**20  # of copies that wait for the disk; one may always wait

log = logging.getLogger(__name__)


class BackgroundWriter:
    """Hands copies of the state to a thread that writes them; one at a time, in order.

    Within a `with` block; at its end everything handed over is on the disk.
    """

    def __init__(self, store: CheckpointStore, sync_record: Callable[[], None]) -> None:
        """Write into store; sync_record puts the record on the disk before a checkpoint appears."""
        self._store, self._sync_record = store, sync_record
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._waiting: deque[tuple[Future[None], int]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.refuse_failures()

    def save(
        self, images_seen: int, tensors: TensorFiles, facts: Mapping[str, Any], *, is_needed: bool
    ) -> None:
        """Begin to write a checkpoint.

        While the disk lags behind, one that is needed waits for it, and another is skipped with a
        warning.

        Raises:
            CheckpointError: When an earlier one could not be written.
        """
        self.refuse_failures()
        size = sum(tensor.nbytes for file in tensors.values() for tensor in file.values())
        if is_needed and self._is_too_much(size):
            self.finish()
        if self._is_too_much(size):
            log.warning(
                "the checkpoint at %s images is skipped: the disk is slower than "
                "train.checkpoint_every_images; write a larger value",
                f"{images_seen:,}",
            )
            return
        ready = _copies_are_whole()
        future = self._thread.submit(self._write, ready, images_seen, tensors, facts)
        self._waiting.append((future, size))

    def _is_too_much(self, size: int) -> bool:
        waiting = sum(size for _, size in self._waiting)
        return bool(self._waiting) and size + waiting > MAX_WAITING_BYTES

    def refuse_failures(self) -> None:
        """Raise what went wrong in the thread; called at every step, costs nothing.

        Raises:
            CheckpointError: When the disk is full or refuses.
        """
        while self._waiting and self._waiting[0][0].done():
            self._waiting.popleft()[0].result()

    def finish(self) -> None:
        """Wait until everything handed over is on the disk.

        Raises:
            CheckpointError: When it could not be written.
        """
        while self._waiting:
            self._waiting.popleft()[0].result()

    def _write(
        self,
        wait_for_copies: Callable[[], None],
        images_seen: int,
        tensors: TensorFiles,
        facts: Mapping[str, Any],
    ) -> None:
        wait_for_copies()
        self._sync_record()  # first, or a power cut could leave a checkpoint ahead of its record
        self._store.save(images_seen, tensors, facts)


def _copies_are_whole() -> Callable[[], None]:
    """A function that waits until the copies asked for so far have left the GPU."""
    if not torch.cuda.is_available():
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.synchronize
