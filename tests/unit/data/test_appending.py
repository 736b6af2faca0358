"""New images beside the present ones: nothing is lost, doubled, or taken back from ourselves."""

import json
from pathlib import Path

import pytest
from PIL import PngImagePlugin

from tests.unit.data.pictures import encoded, picture
from vivero.data.appending import PRESENT, append_folder, bring_here, left_out_path, read_left_out
from vivero.data.imagefolder import import_folder
from vivero.data.incoming import Arrival, FolderSource
from vivero.data.provenance import PROVENANCE_KEY
from vivero.data.quarantine import read_quarantine
from vivero.data.shards import ImageRow, read_rows, shard_paths
from vivero.errors import DataError
from vivero.evaluation import grids
from vivero.files import sha256_of_dir


def put(folder: Path, kind: str, *seeds: int) -> None:
    (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (folder / kind / f"{seed}.png").write_bytes(encoded(picture(seed, mode="RGB")))


def rows_of(data_dir: Path) -> list[ImageRow]:
    return [row for paths in shard_paths(data_dir).values() for p in paths for row in read_rows(p)]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    put(tmp_path / "old", "bar", 1, 2)
    put(tmp_path / "old", "disc", 3, 4)
    (tmp_path / "old" / "disc" / "bad.png").write_bytes(b"no image")
    import_folder(tmp_path / "old", tmp_path / "data", num_processes=1)
    return tmp_path / "data"


def test_what_is_there_stays_and_what_is_new_comes_after_it(data_dir: Path, tmp_path: Path):
    before = rows_of(data_dir)
    put(tmp_path / "new", "bar", 1, 10)
    put(tmp_path / "new", "disc", 11)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    after = rows_of(data_dir)
    assert after[: len(before)] == before
    assert sorted(row.path or "" for row in after[len(before) :]) == ["bar/10.png", "disc/11.png"]
    assert [row.label for row in after[len(before) :]] == [0, 1]
    assert len({row.key for row in after}) == len(after)
    assert [row.reason for row in read_quarantine(data_dir / "quarantine.parquet")] == [
        "not_an_image"
    ]
    assert report.text() == "added 2 images, 1 were there already, refused none"


def test_a_second_time_nothing_changes(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "bar", 10)
    put(tmp_path / "new", "disc", 11)
    append_folder(tmp_path / "new", data_dir, num_processes=1)
    before = sha256_of_dir(data_dir)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert sha256_of_dir(data_dir) == before
    assert report.text() == (
        "added 0 images, 2 were there already, refused none; the data is as it was"
    )


def test_a_class_that_the_data_does_not_know_is_refused_with_its_reason(
    data_dir: Path, tmp_path: Path
):
    put(tmp_path / "new", "ring", 10)
    put(tmp_path / "new", "disc", 11)
    append_folder(tmp_path / "new", data_dir, num_processes=1)
    [_, refused] = read_quarantine(data_dir / "quarantine.parquet")
    assert (refused.path, refused.reason) == ("ring/10.png", "unknown_class")
    assert refused.detail == "its class is ring; the data set has bar, disc"


def labels_added(data_dir: Path) -> dict[str, int | None]:
    """Label by path of all that came after the first import."""
    return {row.path or "": row.label for row in rows_of(data_dir) if row.key.startswith("added/")}


def test_one_class_alone_gets_its_own_label(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "disc", 10, 11)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert report.text() == "added 2 images, 0 were there already, refused none"
    assert labels_added(data_dir) == {"disc/10.png": 1, "disc/11.png": 1}


def test_dated_prefixes_are_passed_over_on_the_way_to_the_class(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "monday/bar", 10)
    put(tmp_path / "new", "tuesday/disc", 11)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert (report.counts, report.reasons) == ({"train": 2}, {})
    assert labels_added(data_dir) == {"monday/bar/10.png": 0, "tuesday/disc/11.png": 1}


def test_the_nearest_folder_with_the_name_of_a_class_counts(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "camera/2024/disc", 10)
    put(tmp_path / "new", "disc/batch_3/raw", 11)
    put(tmp_path / "new", "bar/disc", 12)
    append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert labels_added(data_dir) == {
        "bar/disc/12.png": 1,
        "camera/2024/disc/10.png": 1,
        "disc/batch_3/raw/11.png": 1,
    }


def test_one_class_alone_in_split_folders_keeps_its_splits(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "train/disc", 10)
    put(tmp_path / "new", "test/disc", 11)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert report.counts == {"train": 1, "test": 1}
    assert labels_added(data_dir) == {"train/disc/10.png": 1, "test/disc/11.png": 1}


def test_only_what_lies_below_no_class_is_refused(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "monday/ring", 10)
    put(tmp_path / "new", "monday/disc", 11)
    put(tmp_path / "new", ".", 12)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert (report.counts, report.reasons) == ({"train": 1}, {"unknown_class": 2})
    details = {row.path: row.detail for row in read_quarantine(data_dir / "quarantine.parquet")}
    assert details["monday/ring/10.png"] == "its class is ring; the data set has bar, disc"
    assert details["12.png"] == "its class is not given; the data set has bar, disc"


@pytest.mark.parametrize("kind", [".", "monday", "ring"])
def test_a_source_named_like_a_class_is_one_where_no_folder_in_it_is(
    data_dir: Path, tmp_path: Path, kind: str
):
    put(tmp_path / "disc", kind, 10)
    append_folder(tmp_path / "disc", data_dir, num_processes=1)
    assert list(labels_added(data_dir).values()) == [1]


def test_a_source_named_like_a_class_is_none_where_a_folder_in_it_is(
    data_dir: Path, tmp_path: Path
):
    put(tmp_path / "disc", "bar", 10)
    put(tmp_path / "disc", ".", 11)
    report = append_folder(tmp_path / "disc", data_dir, num_processes=1)
    assert labels_added(data_dir) == {"bar/10.png": 0}
    assert report.reasons == {"unknown_class": 1}


def test_folders_above_the_source_say_nothing_of_its_class(data_dir: Path, tmp_path: Path):
    put(tmp_path / "disc" / "monday", ".", 10)
    report = append_folder(tmp_path / "disc" / "monday", data_dir, num_processes=1)
    assert report.reasons == {"unknown_class": 1}


def test_metadata_is_believed_rather_than_the_folders(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "disc", 10, 11, 12)
    (tmp_path / "new" / "metadata.csv").write_text(
        "file_name,label\ndisc/10.png,bar\ndisc/11.png,ring\n"
    )
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert labels_added(data_dir) == {"disc/10.png": 0}
    assert report.reasons == {"metadata": 1, "not_in_metadata": 1, "unknown_class": 1}


def test_a_data_set_without_classes_takes_images_of_any_folder(tmp_path: Path):
    put(tmp_path / "old", ".", 1, 2)
    import_folder(tmp_path / "old", tmp_path / "data", num_processes=1)
    put(tmp_path / "new", "monday/bar", 10)
    put(tmp_path / "new", "tuesday", 11)
    append_folder(tmp_path / "new", tmp_path / "data", num_processes=1)
    assert labels_added(tmp_path / "data") == {"monday/bar/10.png": None, "tuesday/11.png": None}


def test_reasons_outlive_an_import_that_added_nothing(data_dir: Path, tmp_path: Path):
    put(tmp_path / "new", "ring", 10)
    put(tmp_path / "new", "disc", 3)
    before, path = sha256_of_dir(data_dir), left_out_path(data_dir)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert report.text() == (
        "added 0 images, 1 were there already, refused unknown_class 1; "
        f"the data is as it was; {path} says why"
    )
    assert sha256_of_dir(data_dir) == before
    left_out = {row.path: row.reason for row in read_left_out(data_dir)}
    assert left_out == {"disc/3.png": PRESENT, "ring/10.png": "unknown_class"}
    put(tmp_path / "new", "disc", 11)
    append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert read_left_out(data_dir) == []


def test_files_that_are_no_images_leave_the_data_as_it_was(data_dir: Path, tmp_path: Path):
    (tmp_path / "new" / "bar").mkdir(parents=True)
    (tmp_path / "new" / "bar" / "a.png").write_bytes(b"no image")
    before = sha256_of_dir(data_dir)
    report = append_folder(tmp_path / "new", data_dir, num_processes=1)
    assert report.reasons == {"not_an_image": 1}
    assert sha256_of_dir(data_dir) == before


def made_by_us(path: Path, seed: int) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text(PROVENANCE_KEY, json.dumps({"seed": seed}))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, mode="RGB").save(path, pnginfo=info)


def test_what_we_made_ourselves_enters_only_when_asked_for(data_dir: Path, tmp_path: Path):
    assert grids.PROVENANCE_KEY == PROVENANCE_KEY
    put(tmp_path / "new", "bar", 10)
    made_by_us(tmp_path / "new" / "disc" / "ours.png", 11)
    assert append_folder(tmp_path / "new", data_dir, num_processes=1).reasons == {"generated": 1}
    refused = read_quarantine(data_dir / "quarantine.parquet")[-1]
    assert (refused.path, refused.reason) == ("disc/ours.png", "generated")
    assert "--with-generated takes it" in refused.detail
    again = append_folder(tmp_path / "new", data_dir, with_generated=True, num_processes=1)
    assert again.counts == {"train": 1}


class Prefix:
    """A source whose names are those of a bucket."""

    def __init__(self, names: dict[str, bytes]) -> None:
        self.names = names

    def arrivals(self) -> list[Arrival]:
        return [Arrival(name, 0.0) for name in self.names]

    def content(self, key: str) -> bytes:
        return self.names[key]


def test_a_source_is_brought_here_under_its_names_below_the_prefix(tmp_path: Path):
    bring_here(
        Prefix({"bucket/in/disc/1.png": b"1", "bucket/in/bar/2.png": b"2"}), "bucket/in", tmp_path
    )
    assert (tmp_path / "disc" / "1.png").read_bytes() == b"1"
    assert (tmp_path / "bar" / "2.png").read_bytes() == b"2"


def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="leads out of its folder"):
        bring_here(Prefix({"bucket/in/../../../x": b"1"}), "bucket/in", tmp_path / "here")


def test_a_folder_can_be_the_source(tmp_path: Path):
    put(tmp_path / "new", "bar", 1)
    (tmp_path / "here").mkdir()
    bring_here(FolderSource(tmp_path / "new"), "", tmp_path / "here")
    assert (tmp_path / "here/bar/1.png").exists()


def test_a_data_set_that_is_not_there_is_named(tmp_path: Path):
    put(tmp_path / "new", "bar", 1)
    with pytest.raises(DataError, match="holds no shards"):
        append_folder(tmp_path / "new", tmp_path / "data", num_processes=1)
