"""Files and events that nobody vouches for, read into bounded values. Standard library only.

What was written by the code of a pull request, by a training, or by GitHub about a person's branch
is checked here before anything of it is shown or becomes part of a command.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_NUMBER = 1e15
MAX_GATES = 100
COMMIT = re.compile(r"[0-9a-f]{40}")
LOGIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,99})(?:\[bot\])?")
REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
ADDRESS = re.compile(r"https://[A-Za-z0-9.:/_-]{1,300}")
FORBIDDEN = frozenset("`<>[]|@")  # what Markdown could read as more than text


class RecordError(ValueError):
    """A record from outside is not of its form."""


@dataclass(frozen=True)
class WorkflowRun:
    """The run of ci that GitHub's event is about.

    Attributes:
        run_id: Its number.
        html_url: Its page.
        head_sha: The commit that it tested.
        head: The branch of that commit as GitHub searches for it, OWNER:BRANCH.
    """

    run_id: int
    html_url: str
    head_sha: str
    head: str


@dataclass(frozen=True)
class Gate:
    """One gate of a verdict, as a pull request shows it."""

    name: str
    is_passed: bool
    reason: str


def read_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        RecordError: When it is a link or too large.
        OSError: When it is not there.
    """
    if path.is_symlink() or path.stat().st_size > max_bytes or not path.is_file():
        raise RecordError(f"{path.name} is no file of at most {max_bytes} bytes")
    return path.read_bytes()


def read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RecordError: When the file is a link, too large, or no JSON object.
        OSError: When it is not there.
    """
    try:
        value = json.loads(read_file(path, max_bytes).decode("utf-8"))
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path.name} is no JSON") from error
    if not isinstance(value, dict):
        raise RecordError(f"{path.name} is no object")
    return value


def parse_workflow_run(event: dict[str, Any]) -> WorkflowRun:
    """The run that an event names.

    Raises:
        RecordError: When a field is missing or not of its form.
    """
    try:
        run = event["workflow_run"]
        owner, branch = run["head_repository"]["owner"]["login"], run["head_branch"]
        found = WorkflowRun(run["id"], run["html_url"], run["head_sha"], f"{owner}:{branch}")
    except (KeyError, TypeError) as error:
        raise RecordError(f"the event names no run: {error!r}") from error
    is_well_formed = (
        type(found.run_id) is int
        and 0 < found.run_id < MAX_NUMBER
        and _matches(ADDRESS, found.html_url)
        and _matches(COMMIT, found.head_sha)
        and _matches(LOGIN, owner)
        and is_line(branch, 255)
    )
    if not is_well_formed:
        raise RecordError("the run of the event is not of its form")
    return found


def parse_gates(gates: object) -> list[Gate]:
    """The gates of a verdict; a text with unusual characters is replaced.

    Raises:
        RecordError: When there are none or too many, or one has another form.
    """
    if not isinstance(gates, list) or not 0 < len(gates) <= MAX_GATES:
        raise RecordError(f"the verdict holds no list of 1 to {MAX_GATES} gates")
    try:
        return [Gate(text(g["name"]), g["passed"] is True, text(g["reason"])) for g in gates]
    except (KeyError, TypeError) as error:
        raise RecordError(f"a gate of the verdict is not of its form: {error!r}") from error


def text(value: object) -> str:
    """A value as text that Markdown shows as it is."""
    line = str(value)[:301]
    is_shown = is_line(line, 300) and not FORBIDDEN & set(line)
    return line if is_shown else "(not shown: unusual characters)"


def is_line(value: object, max_characters: int) -> bool:
    """Whether a value is one line of text without control characters."""
    return isinstance(value, str) and 0 < len(value) <= max_characters and value.isprintable()


def is_number(value: object) -> bool:
    """Whether a value is a finite number of a size that a table can show."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= MAX_NUMBER and math.isfinite(value)


def _matches(form: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None
