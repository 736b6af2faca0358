"""What a step hands on: lines of GITHUB_OUTPUT and of the job's summary page.

Off GitHub, where neither file is named, both go to standard output. Standard library only: trusted
jobs import it without an environment having been made.
"""

import os
import sys
from pathlib import Path


def set_outputs(values: dict[str, str]) -> None:
    """Write outputs of this step.

    Raises:
        ValueError: When a value has more than one line; such a value could set other outputs.
    """
    for name, value in values.items():
        if len(f"{name}={value}".splitlines()) != 1:
            raise ValueError(f"the output '{name}' must be one line")
    _append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in values.items()))


def add_summary(markdown: str) -> None:
    """Add to the page that GitHub shows of this run."""
    _append("GITHUB_STEP_SUMMARY", markdown.rstrip() + "\n")


def _append(variable: str, text: str) -> None:
    path = os.environ.get(variable)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)
