"""Quarantine: what was kept out of a data set, and why. Nothing is dropped without a row here."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vivero.files import write_whole

QUARANTINE_NAME = "quarantine.parquet"
SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "split", "path", "reason", "detail")])


@dataclass(frozen=True)
class QuarantineRow:
    """One image or file that was kept out.

    key and split are None for a file that never became a row of a shard; path is where it came
    from; reason is a code, detail a sentence.
    """

    key: str | None
    split: str | None
    path: str
    reason: str
    detail: str


def write_quarantine(path: Path, rows: Iterable[QuarantineRow]) -> None:
    """Write the rows as Parquet, in their order; no rows make an empty table."""
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SCHEMA)
    with write_whole(path) as part_path:
        pq.write_table(table, part_path, compression="zstd")


def read_quarantine(path: Path) -> list[QuarantineRow]:
    """The rows of a quarantine table."""
    return [QuarantineRow(**values) for values in pq.read_table(path).to_pylist()]


def reason_counts(rows: Sequence[QuarantineRow]) -> dict[str, int]:
    """How many rows each reason has, the most frequent first."""
    return dict(Counter(row.reason for row in rows).most_common())


def worst_rows(rows: Sequence[QuarantineRow], num_rows: int = 10) -> list[QuarantineRow]:
    """A few rows to show: reasons take turns, rare ones first, so that none is crowded out."""
    by_reason: dict[str, list[QuarantineRow]] = {}
    for row in rows:
        by_reason.setdefault(row.reason, []).append(row)
    queues = sorted(by_reason.values(), key=lambda queue: (len(queue), queue[0].reason))
    turns = [
        queue[turn]
        for turn in range(max((len(queue) for queue in queues), default=0))
        for queue in queues
        if turn < len(queue)
    ]
    return turns[:num_rows]
