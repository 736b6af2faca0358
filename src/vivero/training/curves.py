"""Curves of a run as CSV for `dvc plots`, from its journal."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from vivero.files import write_whole
from vivero.tracking.journal import Entry


def metric_rows(entries: Iterable[Entry], prefix: str) -> list[dict[str, float]]:
    """One row for each moment: images_seen, then each metric below prefix without the prefix."""
    rows: dict[int, dict[str, float]] = {}
    for entry in entries:
        if entry.kind == "metrics" and entry.images_seen is not None:
            values = {
                k.removeprefix(prefix): v for k, v in entry.values.items() if k.startswith(prefix)
            }
            if values:
                row = rows.setdefault(entry.images_seen, {"images_seen": entry.images_seen})
                row.update(values)
    return [rows[images_seen] for images_seen in sorted(rows)]


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows as CSV; the columns are those of any row, in order of first sight."""
    columns: Mapping[str, None] = dict.fromkeys(key for row in rows for key in row)
    with write_whole(path) as part_path, part_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or ["images_seen", "loss"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
