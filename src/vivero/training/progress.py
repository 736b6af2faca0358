"""Where training stands, for people: a bar on a terminal, a line in the log elsewhere."""

import logging
import sys
import time
from typing import Any, Self

from tqdm import tqdm

LINE_EVERY_S = 30.0

log = logging.getLogger(__name__)


class Progress:
    """Images seen, images per second, time left, loss."""

    def __init__(self, images_seen: int, total_images: int, is_shown: bool = True) -> None:
        self._begin, self._images_seen, self._total = images_seen, images_seen, total_images
        self._loss = float("nan")
        self._started_at = self._line_at = time.monotonic()
        self._reported_images, self._reported_at = images_seen, self._started_at
        self._is_terminal = sys.stderr.isatty()
        self._is_shown = is_shown
        self._bar: tqdm[Any] = tqdm(
            total=total_images,
            initial=images_seen,
            unit=" images",
            desc="train",
            smoothing=0.05,
            dynamic_ncols=True,
            disable=not (is_shown and self._is_terminal),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()

    def advance(self, num_images: int) -> None:
        """Count the images of one step."""
        self._images_seen += num_images
        self._bar.update(num_images)
        now = time.monotonic()
        if self._is_shown and not self._is_terminal and now - self._line_at >= LINE_EVERY_S:
            self._line_at = now
            log.info("%s", self.line(now - self._started_at))

    def images_per_s_since_report(self) -> float:
        """Images per second since the last call (or the start)."""
        now = time.monotonic()
        images_per_s = (self._images_seen - self._reported_images) / (now - self._reported_at)
        self._reported_images, self._reported_at = self._images_seen, now
        return images_per_s

    def note_loss(self, loss: float) -> None:
        """Show this loss from now on."""
        self._loss = loss
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    def line(self, elapsed_s: float) -> str:
        """One sentence: how far, how fast, how long still."""
        images_per_s = (self._images_seen - self._begin) / max(elapsed_s, 1e-9)
        left_s = (self._total - self._images_seen) / max(images_per_s, 1e-9)
        return (
            f"{self._images_seen:,} of {self._total:,} images, {images_per_s:,.0f} images/s, "
            f"{left_s / 60:.1f} min left, loss {self._loss:.4f}"
        )
