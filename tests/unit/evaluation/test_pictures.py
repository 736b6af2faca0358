"""Pictures of samples show the samples asked for, where their captions say."""

from pathlib import Path

import numpy as np
from PIL import Image

from vivero.evaluation.pictures import draw_nearest, draw_samples


def plain(*greys: int) -> np.ndarray:
    """One even image for each grey."""
    return np.stack([np.full((1, 28, 28), grey, dtype=np.uint8) for grey in greys])


def tile_greys(path: Path, num_rows: int, num_columns: int) -> list[list[int]]:
    """The grey a third down the middle of each tile."""
    picture = np.asarray(Image.open(path).convert("L"))
    height, width = picture.shape[0] / num_rows, picture.shape[1] / num_columns
    return [
        [
            int(picture[int((r + 1 / 3) * height), int((c + 0.5) * width)])
            for c in range(num_columns)
        ]
        for r in range(num_rows)
    ]


def test_samples_are_sorted_by_class(tmp_path: Path):
    labels = np.arange(20) % 2
    images = plain(*(200 if label else 50 for label in labels))
    draw_samples(images, labels, ["dark", "light"], tmp_path / "grid.png")
    assert tile_greys(tmp_path / "grid.png", 2, 10) == [[50] * 10, [200] * 10]


def test_samples_without_classes_keep_their_order(tmp_path: Path):
    greys = list(range(0, 200, 10))
    draw_samples(plain(*greys), np.zeros(20, dtype=np.int64), [], tmp_path / "grid.png")
    assert tile_greys(tmp_path / "grid.png", 2, 10) == [greys[:10], greys[10:]]


def test_nearest_images_stand_below_their_sample(tmp_path: Path):
    train = plain(10, 60, 110)
    rows = {"pixels": np.array([2, 0]), "features": np.array([1, 1])}
    draw_nearest(plain(200, 240), train, rows, tmp_path / "nearest.png")
    assert tile_greys(tmp_path / "nearest.png", 3, 2) == [[200, 240], [110, 10], [60, 60]]
