"""Which split and which row each image of the manifest gets; reads the manifest, writes nothing."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vivero.config.schema import PrepareDataConfig
from vivero.data.card import DataCard
from vivero.data.shards import SPLITS, Split
from vivero.data.splitting import split_of, split_rule
from vivero.errors import DataError


@dataclass(frozen=True)
class PlacedImage:
    """One good image and the row of the prepared split where it goes."""

    key: str
    source_split: Split
    label: int | None
    pixel_sha256: str
    split: Split
    row: int


def place_images(
    manifest_path: Path, card: DataCard, config: PrepareDataConfig
) -> list[PlacedImage]:
    """Give every image of the manifest its split and its row there, in order of its pixels' hash.

    Raises:
        DataError: When there is no manifest, a split is empty, or the labels do not fit the card.
    """
    try:
        rows = pq.read_table(manifest_path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{manifest_path} cannot be read ({error}); run `dvc repro validate_data` first"
        ) from error
    _check_labels([row["label"] for row in rows], card)
    rule = split_rule({row["split"] for row in rows}, config.validation_share, config.test_share)
    num_placed: Counter[Split] = Counter()
    placed = []
    for row in sorted(rows, key=lambda row: (row["pixel_sha256"], row["key"])):
        split = split_of(row["pixel_sha256"], row["split"], rule)
        placed.append(
            PlacedImage(
                row["key"],
                row["split"],
                row["label"],
                row["pixel_sha256"],
                split,
                num_placed[split],
            )
        )
        num_placed[split] += 1
    empty = [split for split in SPLITS if not num_placed[split]]
    if empty:
        raise DataError(
            f"of {len(rows)} images none falls into {' and '.join(empty)}: "
            f"{ {split: num_placed[split] for split in SPLITS} }. Bring more images in, or raise "
            f"prepare_data.validation_share or test_share in params.yaml"
        )
    return placed


def _check_labels(labels: list[int | None], card: DataCard) -> None:
    num_missing = sum(label is None for label in labels)
    num_classes = len(card.class_names)
    if num_classes and num_missing:
        raise DataError(
            f"{num_missing} of {len(labels)} images have no label, though the card names "
            f"{num_classes} classes. Give every image a label or none: mend metadata.csv or the "
            f"class folders and run `vivero data import` again"
        )
    strange = sorted(
        {label for label in labels if label is not None and not 0 <= label < num_classes}
    )
    if strange:
        raise DataError(
            f"labels {strange[:10]} have no name in data/card.json, which names {num_classes} "
            f"classes; labels count from 0. Run `vivero data import` again"
        )
