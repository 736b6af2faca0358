"""Progress of long work: a bar on a terminal, a line in the log now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LOG_EVERY_S = 15.0

log = logging.getLogger(__name__)


def with_progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass items on and show how many have come, how fast, and how long the rest will take."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit="image")
        return
    started_s = said_s = time.monotonic()
    for num_done, item in enumerate(items, start=1):
        yield item
        now_s = time.monotonic()
        if num_done == 1:  # what came before it was the start of the workers
            started_s = said_s = now_s
        if now_s - said_s > LOG_EVERY_S and num_done < total:
            said_s, rate = now_s, num_done / (now_s - started_s)
            left_s = (total - num_done) / rate
            log.info(
                "%s: %d of %d images, %.0f/s, %.0f s left", what, num_done, total, rate, left_s
            )
