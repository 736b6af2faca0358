"""Shards: equal bytes for equal rows, whole sets only, and readable by Hugging Face's library."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data.pictures import encoded, picture
from vivero.data import shards
from vivero.data.card import DataCard, read_card, write_card
from vivero.data.shards import (
    ImageRow,
    count_rows,
    read_rows,
    rows_with_keys,
    shard_paths,
    write_data_set,
    write_split,
)
from vivero.errors import DataError

CARD = DataCard("tiny", "here", "none", ("cat", "dog"), 3, "nobody")


def rows(num_rows: int, prefix: str = "train") -> list[ImageRow]:
    return [
        ImageRow(f"{prefix}-{i}", encoded(picture(i)), f"{i}.png", i % 2, f"number {i}")
        for i in range(num_rows)
    ]


def write(data_dir: Path, num_train: int = 5, num_test: int = 3) -> Path:
    data_dir.mkdir(parents=True)
    counts = {
        "train": write_split(data_dir, "train", rows(num_train), CARD),
        "test": write_split(data_dir, "test", rows(num_test, "test"), CARD),
    }
    write_data_set(data_dir, CARD, counts)
    return data_dir


def test_rows_come_back_as_they_went_in(tmp_path):
    data_dir = write(tmp_path / "data")
    paths = shard_paths(data_dir)
    assert [path.name for path in paths["train"]] == ["train-00000-of-00001.parquet"]
    assert list(read_rows(paths["train"][0])) == rows(5)
    assert count_rows(paths["test"][0]) == 3
    assert read_card(data_dir) == CARD


def test_the_same_rows_give_the_same_bytes(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    for path in sorted(one.iterdir()):
        assert path.read_bytes() == (two / path.name).read_bytes(), path.name


def test_hugging_face_reads_images_labels_and_captions(tmp_path):
    datasets = pytest.importorskip("datasets")
    data_dir = write(tmp_path / "data")
    # A table beside the shards must not become a part of train.
    pq.write_table(pa.table({"path": ["x"], "reason": ["y"]}), data_dir / "quarantine.parquet")

    cache_dir = str(tmp_path / "cache")
    for source in (
        datasets.load_dataset("parquet", data_dir=str(data_dir), cache_dir=cache_dir),
        datasets.load_dataset(str(data_dir), cache_dir=cache_dir),
    ):
        assert {split: source[split].num_rows for split in source} == {"train": 5, "test": 3}
        assert source["train"].features["label"].names == ["cat", "dog"]
        assert isinstance(source["train"].features["image"], datasets.Image)
        first = source["train"][0]
        assert (np.asarray(first["image"]) == np.asarray(picture(0))).all()
        assert (first["key"], first["label"], first["caption"]) == ("train-0", 0, "number 0")


@given(
    sizes=st.lists(st.integers(0, 100), max_size=60),
    shard_bytes=st.integers(100, 300),
    group_bytes=st.integers(100, 200),
    group_rows=st.integers(1, 10),
)
@settings(max_examples=50, deadline=None)
def test_shards_and_groups_keep_their_limits(sizes, shard_bytes, group_bytes, group_rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_IMAGE_BYTES", shard_bytes)
        patch.setattr(shards, "GROUP_BYTES", min(group_bytes, shard_bytes))
        patch.setattr(shards, "ROWS_PER_GROUP", group_rows)
        all_rows = [ImageRow(str(i), bytes(size), None, None, None) for i, size in enumerate(sizes)]
        made = [list(groups) for groups in shards._shard_groups(all_rows)]
    assert [row for groups in made for group in groups for row in group] == all_rows
    for groups in made:
        assert sum(len(row.image_bytes) for group in groups for row in group) <= shard_bytes
        assert all(1 <= len(group) <= group_rows for group in groups)


def test_many_bytes_make_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_IMAGE_BYTES", 3000)
    monkeypatch.setattr(shards, "GROUP_BYTES", 1500)
    paths = shard_paths(write(tmp_path / "data", num_train=9))["train"]
    assert len(paths) > 1
    assert paths[-1].name == f"train-{len(paths) - 1:05d}-of-{len(paths):05d}.parquet"
    assert [row.key for path in paths for row in read_rows(path)] == [r.key for r in rows(9)]


def test_an_image_too_large_for_a_shard_is_a_mistake_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(ValueError, match="train-0"):
        write_split(tmp_path, "train", rows(1), CARD)


def test_rows_are_found_by_key(tmp_path):
    found = rows_with_keys(write(tmp_path / "data"), {("train", "train-3"), ("test", "nobody")})
    assert found == {("train", "train-3"): encoded(picture(3))}


def test_no_shards_say_how_to_bring_data_in(tmp_path):
    with pytest.raises(DataError, match="vivero data fetch"):
        shard_paths(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    data_dir = write(tmp_path / "data")
    (data_dir / "train-00000-of-00001.parquet").rename(data_dir / "train-00001-of-00002.parquet")
    with pytest.raises(DataError, match="train-00000-of-00002"):
        shard_paths(data_dir)


def test_a_damaged_shard_is_named(tmp_path):
    path = shard_paths(write(tmp_path / "data"))["train"][0]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_rows(path))


def test_damage_inside_a_shard_is_found_while_reading(tmp_path):
    path = shard_paths(write(tmp_path / "data"))["train"][0]
    content = bytearray(path.read_bytes())
    content[60:400] = bytes(340)
    path.write_bytes(content)
    with pytest.raises(DataError, match="vivero data verify"):
        list(read_rows(path))


def test_other_columns_are_refused_with_those_that_are_wanted(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": ["x"]}), path)
    with pytest.raises(
        DataError, match=r"key \(string\), image \(struct<.*it has image \(string\)"
    ):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"name": "x"}', "must have the fields"),
        ("[]", "must have the fields"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(tmp_path, text: str, message: str):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_card(tmp_path)


def test_a_missing_card_says_how_to_bring_data_in(tmp_path):
    with pytest.raises(DataError, match="vivero data fetch"):
        read_card(tmp_path)


def test_a_card_survives_writing(tmp_path):
    write_card(tmp_path, CARD)
    assert read_card(tmp_path) == CARD
