"""The validation report: JSON for programs, and one HTML page for people that works offline.

File names are hostile: the template escapes everything, and thumbnails are made by us.
"""

import base64
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment

from vivero.data.card import DataCard
from vivero.data.clean_png import compressed_png
from vivero.data.expectations import ExpectationResult
from vivero.data.image_files import Refusal, decode
from vivero.data.quarantine import QuarantineRow, reason_counts, worst_rows
from vivero.data.report_page import PAGE
from vivero.data.shards import SPLITS
from vivero.data.sorting import SortedData

THUMBNAIL_PX = 96
MARKS = {  # the class of the page's style for (outcome, severity)
    (outcome, severity): "good" if outcome == "met" else "bad" if severity == "critical" else "warn"
    for outcome in ("met", "not met", "error")
    for severity in ("critical", "warning", "info")
}
NUM_SHOWN = 50  # rows of a table on the page; the Parquet files have them all


@dataclass(frozen=True)
class ReportContents:
    """All that the report says. failure: why the stage stops, or None when the data is good."""

    card: DataCard
    data: SortedData
    expectations: list[ExpectationResult]
    failure: str | None


@dataclass(frozen=True)
class ShownRow:
    """A row of the quarantine with its picture as a data URI, or None when it shows nothing."""

    row: QuarantineRow
    thumbnail: str | None


def thumbnail_uri(content: bytes) -> str | None:
    """A small PNG of an image as a data URI; None when it cannot be decoded."""
    image = decode(content)
    if isinstance(image, Refusal):
        return None
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return "data:image/png;base64," + base64.b64encode(compressed_png(image)).decode("ascii")


def rows_to_show(data: SortedData) -> list[QuarantineRow]:
    """The rows of the quarantine that the page shows."""
    return worst_rows(data.refused, NUM_SHOWN)


def class_counts(card: DataCard, data: SortedData) -> list[dict[str, Any]]:
    """Good images per class and split; one row "(no label)" for those without a label."""
    labels: list[int | None] = [*range(len(card.class_names))]
    names = list(card.class_names)
    if any(row.label is None for row in data.good):
        labels.append(None)
        names.append("(no label)")
    counts: dict[tuple[int | None, str], int] = {}
    for row in data.good:
        counts[row.label, row.split] = counts.get((row.label, row.split), 0) + 1
    return [
        {"class": name, **{split: counts.get((label, split), 0) for split in SPLITS}}
        for label, name in zip(labels, names, strict=True)
    ]


def report_values(contents: ReportContents) -> dict[str, Any]:
    """The report as plain values, for JSON."""
    data = contents.data
    return {
        "is_good": contents.failure is None,
        "failure": contents.failure,
        "name": contents.card.name,
        "num_images": data.num_rows,
        "num_good": len(data.good),
        "num_quarantined": len(data.refused),
        "quarantined_share": data.quarantined_share,
        "reasons": reason_counts(data.refused),
        "worst": [dataclasses.asdict(row) for row in worst_rows(data.refused)],
        "counts": class_counts(contents.card, data),
        "duplicates": [
            {
                "kept": group.kept.key,
                "split": group.kept.split,
                "copies": [f"{copy.split}:{copy.key}" for copy in group.copies],
                "labels_differ": group.labels_differ,
            }
            for group in data.duplicates
        ],
        "expectations": [dataclasses.asdict(result) for result in contents.expectations],
    }


def report_page(contents: ReportContents, shown: Sequence[ShownRow]) -> str:
    """The report as a page of HTML that needs nothing else."""
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    values = report_values(contents)
    return page.render(
        report=values,
        card=contents.card,
        splits=SPLITS,
        shown=shown,
        marks=MARKS,
        duplicates=values["duplicates"][:NUM_SHOWN],
    )
