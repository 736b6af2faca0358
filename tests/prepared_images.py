"""Tiny prepared images, as the stage prepare_data leaves them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vivero.data.prepared import (
    INDEX_NAME,
    NO_LABEL,
    PreparedCard,
    images_path,
    labels_path,
    write_prepared_card,
)

COUNTS = {"train": 60, "validation": 24, "test": 24}
SIDE_PX = 16


def stripes(num_images: int, class_names: list[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy grey images with one bright stripe, whose place is the class; or no class at all."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, max(1, len(class_names)), num_images)
    images = random.integers(0, 100, (num_images, 1, SIDE_PX, SIDE_PX), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * label : 4 * label + 4] += 120
    return images, labels if class_names else np.full_like(labels, NO_LABEL)


def write_prepared(root: Path, class_names: list[str], seed: int = 0) -> Path:
    """Write artifacts/prepare_data/images with COUNTS images; returns the folder."""
    folder = root / "artifacts" / "prepare_data" / "images"
    folder.mkdir(parents=True)
    rows: list[dict[str, object]] = []
    for place, (split, count) in enumerate(COUNTS.items()):
        images, labels = stripes(count, class_names, 10 * seed + place)
        np.save(images_path(folder, split), images)
        np.save(labels_path(folder, split), labels)
        rows += [
            {"key": f"{split}-{row}", "split": split, "row": row, "label": int(label),
             "pixel_sha256": f"{seed}-{split}-{row}"}
            for row, label in enumerate(labels)
        ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / INDEX_NAME)
    card = PreparedCard(
        name="stripes",
        licence="CC0-1.0",
        class_names=class_names,
        num_channels=1,
        image_size_px=SIDE_PX,
        source_digest=f"{seed:064x}",
        counts=COUNTS,
    )
    write_prepared_card(folder, card)
    return folder
