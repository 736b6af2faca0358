"""What a person sees of a data set: counts, sizes, its card, and a sheet of pictures."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from vivero.data.card import DataCard, read_card
from vivero.data.image_files import Refusal
from vivero.data.isolation import Crash, Limits, map_isolated
from vivero.data.quarantine import QUARANTINE_NAME, read_quarantine, reason_counts
from vivero.data.resizing import RawImage, prepare_image
from vivero.data.shards import ImageRow, Split, read_rows, shard_paths
from vivero.files import write_whole
from vivero.plain_text import one_line

CELL_PX = 64
NUM_COLUMNS = 10
MAX_ROWS = 20
MAX_CLASSES_NAMED = 40


@dataclass(frozen=True)
class DataDescription:
    """Counts of a data set. labels[split][k]: images of label k; None counts those without."""

    card: DataCard
    labels: dict[Split, Counter[int | None]]
    num_shards: int
    num_bytes: int
    reasons: dict[str, int]

    def text(self) -> str:
        """The description for a terminal."""
        card = self.card
        total = sum(counts.total() for counts in self.labels.values())
        kind = "grey" if card.num_channels == 1 else "colour"
        lines = [
            f"{one_line(card.name)}: {total} {kind} images in {self.num_shards} shards, "
            f"{self.num_bytes / 1e6:.1f} MB",
            f"source: {card.source}; licence: {card.licence}; collected by: {card.collected_by}",
            "",
            f"{'class':24}" + "".join(f"{split:>12}" for split in self.labels),
        ]
        classes: list[tuple[int | None, str]] = list(enumerate(card.class_names))
        if any(None in counts for counts in self.labels.values()):
            classes.append((None, "(no label)"))
        for label, name in classes[:MAX_CLASSES_NAMED]:
            numbers = "".join(f"{counts[label]:>12}" for counts in self.labels.values())
            lines.append(f"{one_line(name):24}{numbers}")
        if len(classes) > MAX_CLASSES_NAMED:
            lines.append(f"... and {len(classes) - MAX_CLASSES_NAMED} more classes")
        totals = "".join(f"{counts.total():>12}" for counts in self.labels.values())
        lines.append(f"{'all':24}{totals}")
        if self.reasons:
            said = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
            lines += ["", f"not imported ({QUARANTINE_NAME}): {said}"]
        return "\n".join(lines)


def describe_data(data_dir: Path) -> DataDescription:
    """Count what lies in data_dir, without decoding an image.

    Raises:
        DataError: When it holds no data set, or a damaged one.
    """
    shards = shard_paths(data_dir)
    labels: dict[Split, Counter[int | None]] = {}
    for split, paths in shards.items():
        counts: Counter[int | None] = Counter()
        for path in paths:
            counts.update(pq.read_table(path, columns=["label"])["label"].to_pylist())
        labels[split] = counts
    quarantine_path = data_dir / QUARANTINE_NAME
    refused = read_quarantine(quarantine_path) if quarantine_path.exists() else []
    every_path = [path for paths in shards.values() for path in paths]
    return DataDescription(
        card=read_card(data_dir),
        labels=labels,
        num_shards=len(every_path),
        num_bytes=sum(path.stat().st_size for path in every_path),
        reasons=reason_counts(refused),
    )


def write_contact_sheet(data_dir: Path, sheet_path: Path) -> None:
    """Write a PNG with the first images of each class, a row per class (or rows of any)."""
    card = read_card(data_dir)
    rows: dict[int | None, list[ImageRow]] = {}
    num_rows = min(MAX_ROWS, len(card.class_names)) if card.class_names else NUM_COLUMNS
    capacity = NUM_COLUMNS if card.class_names else NUM_COLUMNS * num_rows
    wanted: list[int | None] = list(range(num_rows)) if card.class_names else [None]
    for path in next(iter(shard_paths(data_dir).values())):
        for row in read_rows(path):
            of_class = rows.setdefault(row.label, [])
            if len(of_class) < capacity:
                of_class.append(row)
            if all(len(rows.get(label, [])) == capacity for label in wanted):
                break
    shown = [row for label in wanted for row in _padded(rows.get(label, []), capacity)]
    raw = [RawImage(row.image_bytes if row else b"", CELL_PX, 3) for row in shown]
    sheet = np.full((num_rows * CELL_PX, NUM_COLUMNS * CELL_PX, 3), 255, np.uint8)
    for index, pixels in enumerate(map_isolated(prepare_image, raw, Limits())):
        if not isinstance(pixels, Refusal | Crash):
            top, left = (CELL_PX * place for place in divmod(index, NUM_COLUMNS))
            sheet[top : top + CELL_PX, left : left + CELL_PX] = pixels.transpose(1, 2, 0)
    with write_whole(sheet_path) as part_path:
        Image.fromarray(sheet).save(part_path, format="PNG")


def _padded(rows: list[ImageRow], length: int) -> list[ImageRow | None]:
    return [*rows, *([None] * (length - len(rows)))]
