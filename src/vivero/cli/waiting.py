"""What is shown while a person waits for something that has no steps to count."""

import contextlib

from rich.console import Console
from rich.text import Text


def shown_waiting(what: str) -> contextlib.AbstractContextManager[object]:
    """A moving line on a terminal's stderr until the block ends; elsewhere nothing."""
    return Console(stderr=True).status(Text(f"{what} ..."))
