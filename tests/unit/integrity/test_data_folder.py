"""The data folder against its pointer, with DVC itself as the oracle."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.data.tiny import rows, write_tiny
from vivero.data.description import describe_data, write_contact_sheet
from vivero.data.quarantine import QuarantineRow, worst_rows, write_quarantine
from vivero.errors import DataError
from vivero.integrity.data_folder import damaged_data, verify_data


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where DVC itself has added data/."""
    root = tmp_path_factory.mktemp("added")
    data_dir = write_tiny(root / "data", {"train": rows("train", 8, 0), "test": rows("test", 2, 9)})
    (data_dir / "sub").mkdir()
    (data_dir / "sub" / "ü.txt").write_text("a name beyond ASCII")
    for arguments in (["init", "--no-scm", "-q"], ["add", "-q", "data"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True)
    return root


@pytest.fixture
def root(added: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(added, tmp_path / "copy"))


def test_data_that_dvc_added_is_verified(root: Path):
    verified = verify_data(root / "data", root / "data.dvc")
    assert verified.num_files == 5
    assert verified.md5 in (root / "data.dvc").read_text()


def change_one(data_dir: Path) -> None:
    path = data_dir / "train-00000-of-00001.parquet"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_one, "train-00000-of-00001.parquet has changed"),
        (lambda data_dir: (data_dir / "card.json").unlink(), "card.json is missing"),
        (lambda data_dir: (data_dir / "more").touch(), "more should not be there"),
    ],
)
def test_what_differs_is_named(root: Path, change, message: str):
    change(root / "data")
    with pytest.raises(DataError, match=message) as caught:
        verify_data(root / "data", root / "data.dvc")
    assert "vivero data fetch --overwrite" in str(caught.value)


def test_without_the_cache_a_difference_is_still_found(root: Path):
    shutil.rmtree(root / ".dvc" / "cache")
    verify_data(root / "data", root / "data.dvc")
    change_one(root / "data")
    with pytest.raises(DataError, match=r"is not as data\.dvc says"):
        verify_data(root / "data", root / "data.dvc")


@pytest.mark.parametrize(
    "text", ["", "outs: 3", "{", "outs:\n- md5: abc\n", "outs:\n- md5: ../../../../x.dir\n"]
)
def test_a_pointer_that_is_none_is_named(tmp_path: Path, text: str):
    (tmp_path / "data.dvc").write_text(text)
    with pytest.raises(DataError, match=r"data\.dvc"):
        verify_data(tmp_path, tmp_path / "data.dvc")


def test_a_description_counts_classes_and_what_was_not_imported(root: Path):
    refused = [QuarantineRow(None, None, "x.txt", "not_an_image", "no")]
    write_quarantine(root / "data" / "quarantine.parquet", refused)
    text = describe_data(root / "data").text()
    assert "tiny: 10 grey images in 2 shards" in text
    assert "cat                                4           1" in text
    assert "not imported (quarantine.parquet): not_an_image 1" in text


def test_a_contact_sheet_shows_a_row_per_class(root: Path, tmp_path: Path):
    image_module = pytest.importorskip("PIL.Image")
    write_contact_sheet(root / "data", tmp_path / "sheet.png")
    with image_module.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (640, 128)
        assert sheet.getpixel((600, 10)) == (255, 255, 255), "four images of a class, then paper"


def test_the_worst_rows_show_every_reason():
    many = [QuarantineRow(str(i), "train", str(i), "blank", "") for i in range(100)]
    one = QuarantineRow("x", "train", "x", "truncated", "")
    shown = worst_rows([*many, one])
    assert len(shown) == 10
    assert shown[0] == one


def test_the_card_holds_the_hashes_of_the_shards(root: Path):
    assert damaged_data(root) == []
    change_one(root / "data")
    (damage,) = damaged_data(root)
    assert damage.path == "data/train-00000-of-00001.parquet"


def test_a_damaged_shard_is_found_when_dvc_has_taken_it_for_a_new_version(root: Path):
    change_one(root / "data")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data"], cwd=root, check=True)
    verify_data(root / "data", root / "data.dvc")
    assert [damage.path for damage in damaged_data(root)] == ["data/train-00000-of-00001.parquet"]


def test_a_damaged_card_is_found_by_the_pointer(root: Path):
    path = root / "data" / "card.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("nobody", "somebody"))
    (damage,) = damaged_data(root)
    assert damage.path == "data"
    assert "card.json has changed" in damage.found


def test_a_card_of_another_tool_is_held_to_the_pointer_alone(root: Path, caplog):
    card_path = root / "data" / "card.json"
    card_path.chmod(0o644)
    card = json.loads(card_path.read_text())
    del card["shards"]
    card_path.write_text(json.dumps(card))
    (root / "data.dvc").unlink()
    with caplog.at_level("INFO", logger="vivero"):
        assert damaged_data(root) == []
    assert "no sha256 of the shards" in caplog.text


def test_a_shard_that_the_card_does_not_name_is_damage(root: Path):
    shutil.copy(
        root / "data/test-00000-of-00001.parquet", root / "data/test-00001-of-00002.parquet"
    )
    assert [d.expected for d in damaged_data(root)] == ["no such file"]


def test_no_data_is_damage(root: Path):
    shutil.rmtree(root / "data")
    assert [damage.found for damage in damaged_data(root)] == ["nothing"]
