"""Stage prepare_data on tiny shards: equal images, each in its split and its row."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.data.pictures import picture
from tests.unit.data.tiny import card, row, rows, write_tiny
from vivero.config.schema import Config
from vivero.data.manifest import inspect_data, write_manifest
from vivero.data.prepared import open_split, read_card, to_model_range
from vivero.data.shards import SPLITS
from vivero.errors import DataError
from vivero.stages.prepare_data import run


def images_dir(root: Path) -> Path:
    return root / "artifacts" / "prepare_data" / "images"


def prepare(root: Path, config: Config) -> Path:
    """Write the manifest as validate_data does for good data, then run the stage."""
    manifest_path = root / "artifacts" / "validate_data" / "manifest.parquet"
    write_manifest(manifest_path, inspect_data(root / "data", 1).images)
    run(config, root)
    return images_dir(root)


def splits_by_key(folder: Path) -> dict[str, str]:
    return {key: split for split in SPLITS for key in open_split(folder, split).keys}


@pytest.fixture
def config(config_factory: Callable[..., Config]) -> Config:
    return config_factory({"prepare_data.validation_share": 0.2, "prepare_data.test_share": 0.2})


def test_every_image_is_there_once_with_its_label_and_pixels(tmp_path, config: Config):
    train, test = rows("train", 40, 0), rows("test", 5, 100)
    write_tiny(tmp_path / "data", {"train": train, "test": test})
    folder = prepare(tmp_path, config)

    seeds = {f"train-{i:03d}": i for i in range(40)} | {f"test-{i:03d}": 100 + i for i in range(5)}
    labels = {one.key: one.label for one in (*train, *test)}
    seen = []
    for split in SPLITS:
        prepared = open_split(folder, split)
        assert prepared.images.dtype == np.uint8
        assert prepared.images.shape[1:] == (1, 16, 16)
        assert isinstance(prepared.images, np.memmap)
        for image, label, key in zip(prepared.images, prepared.labels, prepared.keys, strict=True):
            assert (image[0] == np.asarray(picture(seeds[key], 16, 16, "L"))).all()
            assert label == labels[key]
        seen += prepared.keys
    assert sorted(seen) == sorted(seeds)
    assert set(open_split(folder, "test").keys) == {one.key for one in test}


def test_the_card_and_the_summary_count(tmp_path, config: Config):
    write_tiny(tmp_path / "data", {"train": rows("train", 40, 0)})
    prepared_card = read_card(prepare(tmp_path, config))
    assert prepared_card.class_names == ["cat", "dog"]
    assert (prepared_card.num_channels, prepared_card.image_size_px) == (1, 16)
    assert sum(prepared_card.counts.values()) == 40
    assert all(prepared_card.counts[split] for split in SPLITS)
    summary = json.loads((tmp_path / "artifacts/prepare_data/summary.json").read_text())
    assert summary["made"].startswith("40 images of 16 x 16 x 1: ")


def test_new_images_move_no_old_one(tmp_path, config: Config):
    write_tiny(tmp_path / "old" / "data", {"train": rows("train", 40, 0)})
    before = splits_by_key(prepare(tmp_path / "old", config))
    more = [row(f"another-{i}", 500 + i) for i in range(20)]
    write_tiny(tmp_path / "new" / "data", {"train": [*more, *reversed(rows("train", 40, 0))]})
    after = splits_by_key(prepare(tmp_path / "new", config))
    assert {key: after[key] for key in before} == before


def test_the_same_input_gives_the_same_bytes(tmp_path, config: Config):
    write_tiny(tmp_path / "data", {"train": rows("train", 40, 0)})
    made = []
    for _ in range(2):
        folder = prepare(tmp_path, config)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]


def test_colour_is_made_where_it_is_asked_for(tmp_path, config_factory):
    write_tiny(tmp_path / "data", {"train": rows("train", 60, 0)}, card())
    config = config_factory({"prepare_data.num_channels": 3, "prepare_data.image_size_px": 24})
    prepared = open_split(prepare(tmp_path, config), "train")
    assert prepared.images.shape[1:] == (3, 24, 24)
    assert (prepared.images[:, 0] == prepared.images[:, 2]).all()


def test_images_without_labels_get_minus_one(tmp_path, config: Config):
    train = [row(f"{i}", i, None) for i in range(40)]
    write_tiny(tmp_path / "data", {"train": train}, card(()))
    assert set(open_split(prepare(tmp_path, config), "train").labels.tolist()) == {-1}


def test_an_empty_split_is_refused_with_what_to_do(tmp_path, config: Config):
    write_tiny(tmp_path / "data", {"train": rows("train", 1, 0), "test": rows("test", 1, 50)})
    with pytest.raises(DataError, match=r"of 2 images none falls into .*validation_share"):
        prepare(tmp_path, config)
    assert not images_dir(tmp_path).exists()


@pytest.mark.parametrize(
    ("label", "class_names", "message"),
    [
        (None, ("cat", "dog"), "40 of 40 images have no label"),
        (9, ("cat", "dog"), r"labels \[9\] have no name"),
        (0, (), r"labels \[0\] have no name"),
    ],
)
def test_labels_that_do_not_fit_the_card_are_refused(
    tmp_path, config: Config, label, class_names, message: str
):
    train = [row(f"{i}", i, label) for i in range(40)]
    write_tiny(tmp_path / "data", {"train": train}, card(class_names))
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, config)


def test_without_a_manifest_the_stage_before_is_named(tmp_path, config: Config):
    write_tiny(tmp_path / "data", {"train": rows("train", 4, 0)})
    with pytest.raises(DataError, match="dvc repro validate_data"):
        run(config, tmp_path)


def test_data_that_changed_after_its_manifest_is_refused(tmp_path, config: Config):
    write_tiny(tmp_path / "data", {"train": rows("train", 40, 0)})
    prepare(tmp_path, config)
    before = (images_dir(tmp_path) / "train.npy").read_bytes()
    write_tiny(tmp_path / "data", {"train": rows("train", 30, 0)})
    with pytest.raises(DataError, match="40 images and data/ only 30"):
        run(config, tmp_path)
    assert (images_dir(tmp_path) / "train.npy").read_bytes() == before


@pytest.mark.parametrize("name", ["train.npy", "train_labels.npy", "index.parquet", "card.json"])
def test_a_damaged_output_says_how_to_make_it_again(tmp_path, config: Config, name: str):
    write_tiny(tmp_path / "data", {"train": rows("train", 40, 0)})
    path = prepare(tmp_path, config) / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="dvc repro prepare_data"):
        read_card(path.parent) if name == "card.json" else open_split(path.parent, "train")


def test_the_model_sees_minus_one_to_one():
    values = to_model_range(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.tolist() == [-1.0, 1.0]
    assert values.dtype == torch.float32
