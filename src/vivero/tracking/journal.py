"""The local record of a run: an append-only file of JSON lines, which is the master.

A line is written with one call, so a kill leaves at most one torn line, at the end; it is
dropped when the journal is opened again. MLflow is filled from here (`mirror`), never the other
way round.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from vivero.errors import TrackingError
from vivero.files import write_whole

EntryKind = Literal["run", "metrics", "image", "artifact", "status", "energy"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One line of a journal; which fields are used depends on the kind.

    Attributes:
        kind: What is recorded.
        time_ms: When, in milliseconds since 1970.
        images_seen: The clock of the training; None for what belongs to the whole run.
        values: Of metrics and energy: name to number. Of a run: the fields of `RunSpec`.
        key: Name of an image; folder of an artifact; the new status.
        path: File of an image or artifact, relative to the journal's folder where it lies in it.
    """

    kind: EntryKind
    time_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    images_seen: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    path: str = ""

    def to_line(self) -> str:
        """The entry as one line of JSON, with its line end; empty fields are left out."""
        fields = {
            name: value for name, value in asdict(self).items() if value not in (None, "", {})
        }
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """The entry of a line that `to_line` made.

        Raises:
            ValueError: When the line is not an entry.
        """
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ValueError(f"a journal line is JSON; got {line!r}") from error
        if not isinstance(fields, dict) or "kind" not in fields:
            raise ValueError(f"a journal line is a JSON object with a kind; got {line!r}")
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"a journal line has unknown fields: {line!r}") from error


class Journal:
    """An append-only file of entries; one writer at a time, any number of readers."""

    def __init__(self, path: Path) -> None:
        """Open the journal at path, made when it is missing; a torn last line is dropped."""
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(path)
        self._descriptor = self._open()

    def append(self, entry: Entry) -> None:
        """Write one entry with one call to the system; a kill after it loses nothing.

        Raises:
            TrackingError: When the disk is full or refuses.
        """
        line = entry.to_line().encode()
        try:
            with self._lock:
                written = os.write(self._descriptor, line)
                if written != len(line):  # or the next line would be joined to the torn one
                    size = os.fstat(self._descriptor).st_size
                    os.ftruncate(self._descriptor, size - written)
        except OSError as error:
            raise TrackingError(
                f"nothing can be written into {self.path}: {error.strerror}. Free some space or "
                f"mend the disk, and run the same command again"
            ) from error
        if written != len(line):
            raise TrackingError(
                f"only {written} of {len(line)} bytes went into {self.path}; the disk is full. "
                f"Free some space and run the same command again"
            )

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        return list(read_journal(self.path))

    def truncate_after(self, images_seen: int) -> int:
        """Drop what was recorded after a checkpoint, from which training resumes.

        Without this, the steps between the checkpoint and the kill would stand twice. The file
        is written whole or not at all; what has no images_seen, such as params, stays.

        Args:
            images_seen: The clock of the checkpoint.

        Returns:
            Number of entries dropped.
        """
        kept, num_dropped = [], 0
        for entry in self.entries():
            if entry.images_seen is not None and entry.images_seen > images_seen:
                num_dropped += 1
            else:
                kept.append(entry)
        if num_dropped:
            with self._lock:
                _rewrite(self.path, kept)
                os.close(self._descriptor)
                self._descriptor = self._open()
        return num_dropped

    def sync(self) -> None:
        """Flush to the disk, so that the entries outlive a power cut; called at checkpoints."""
        with self._lock:
            descriptor = os.dup(self._descriptor)
        try:
            os.fsync(descriptor)  # outside the lock: nobody who appends waits for the disk
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Flush and close; a closed journal can still be read."""
        with self._lock:
            if self._descriptor >= 0:
                os.fsync(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = -1

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def read_journal(path: Path) -> Iterator[Entry]:
    """The whole lines of a journal, oldest first; a torn last line is left out.

    Raises:
        TrackingError: When a line other than the last is damaged.
    """
    return iter(read_journal_from(path, 0)[0])


def read_journal_from(path: Path, begin_bytes: int) -> tuple[list[Entry], int]:
    """The whole lines from a place in the file on, and the place where the next ones begin."""
    if not path.exists():
        return [], begin_bytes
    with path.open("rb") as file:
        file.seek(begin_bytes)
        lines = file.read().split(b"\n")[:-1]  # after the last line end: torn or empty
    entries = []
    for line in lines:
        try:
            entries.append(Entry.from_line(line.decode()))
        except ValueError as error:
            raise TrackingError(
                f"{path} is damaged ({error}); remove that line, or remove the file to give up "
                f"the record of that run, and run the same command again"
            ) from error
    return entries, begin_bytes + sum(len(line) + 1 for line in lines)


def _drop_torn_line(path: Path) -> None:
    content = path.read_bytes() if path.exists() else b""
    whole, line_end, torn = content.rpartition(b"\n")
    if torn:
        log.warning("the last line of %s was torn by a kill; it is dropped", path)
        with write_whole(path) as part_path:
            part_path.write_bytes(whole + line_end)


def _rewrite(path: Path, entries: Iterable[Entry]) -> None:
    with write_whole(path) as part_path:
        part_path.write_text("".join(entry.to_line() for entry in entries), encoding="utf-8")
