"""SIGTERM and Ctrl-C as a wish that the loop grants at the next step boundary."""

import signal
import threading
import time
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_S = 1.0


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, has saved a checkpoint, and ends."""

    def __init__(self, signal_number: int, images_seen: int) -> None:
        name = "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name} after {images_seen:,} images; a checkpoint is saved, "
            f"run the same command again to resume"
        )
        self.exit_code = 128 + signal_number


class StopSignals:
    """Within this context the first stop signal is remembered; Ctrl-C once more acts as usual.

    One request often comes as several signals (to the group, and passed on by torchrun), so for
    a second what follows the first is the same request.
    """

    def __init__(self) -> None:
        self.received = 0
        self._received_at = 0.0
        self._former: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._former[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_error: object) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._received_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._received_at > SAME_REQUEST_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
