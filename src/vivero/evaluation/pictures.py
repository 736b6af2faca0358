"""Pictures of samples: by class, and beside their nearest training images.

Images are uint8, shape (N, C, H, W).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vivero.evaluation.grids import save_grid

NUM_COLUMNS = 10
MAX_IMAGES = 100
NUM_NEAREST = 12


def draw_samples(images: np.ndarray, labels: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The first samples, sorted by class, with the class under each where there are classes.

    Args:
        images: Samples.
        labels: int64, shape (N,).
        names: Class names; none where images have no classes.
        path: PNG to write.
    """
    shown = np.argsort(labels[:MAX_IMAGES], kind="stable") if names else np.arange(len(images))
    shown = shown[:MAX_IMAGES]
    captions = [names[labels[row]] for row in shown] if names else None
    save_grid(images[shown], path, NUM_COLUMNS, captions)


def draw_nearest(
    samples: np.ndarray, train: np.ndarray, rows: Mapping[str, np.ndarray], path: Path
) -> None:
    """A column for each of the first samples: itself, then its nearest training images.

    Args:
        samples: Samples, in the order of the rows.
        train: Training images; may be memory-mapped.
        rows: For each space (such as pixels), the rows of train nearest to each sample.
        path: PNG to write.
    """
    count = min(NUM_NEAREST, *(len(found) for found in rows.values()))
    lines = [samples[:count], *(train[found[:count]] for found in rows.values())]
    names = ("sample", *(f"by {space}" for space in rows))
    captions = [name for name in names for _ in range(count)]
    save_grid(np.concatenate(lines), path, count, captions)
