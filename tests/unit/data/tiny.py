"""Tiny data sets, written as shards."""

from collections.abc import Sequence
from pathlib import Path

from tests.unit.data.pictures import encoded, picture
from vivero.data.card import DataCard
from vivero.data.shards import ImageRow, Split, write_data_set, write_split

CLASS_NAMES = ("cat", "dog")


def card(class_names: tuple[str, ...] = CLASS_NAMES) -> DataCard:
    return DataCard("tiny", "made by a test", "none", class_names, 1, "nobody")


def row(key: str, seed: int, label: int | None = 0, **size: int) -> ImageRow:
    image = picture(seed, **{"width": 16, "height": 16, **size}, mode="L")
    return ImageRow(key, encoded(image), f"{key}.png", label, None)


def rows(split: Split, num_rows: int, first_seed: int) -> list[ImageRow]:
    return [row(f"{split}-{i:03d}", first_seed + i, i % 2) for i in range(num_rows)]


def write_tiny(
    data_dir: Path, splits: dict[Split, Sequence[ImageRow]], data_card: DataCard | None = None
) -> Path:
    data_card = data_card or card()
    data_dir.mkdir(parents=True, exist_ok=True)
    counts = {
        split: write_split(data_dir, split, some, data_card) for split, some in splits.items()
    }
    write_data_set(data_dir, data_card, counts)
    return data_dir
