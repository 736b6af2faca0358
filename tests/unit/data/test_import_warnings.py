"""What `vivero data import` prints: what it understood, and everything a person may not expect."""

import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest

from tests.unit.data.pictures import encoded, picture
from vivero.data.appending import ALL_REFUSED_EXIT_CODE, append_folder
from vivero.data.card import read_card
from vivero.data.imagefolder import ImportChoice, ImportReport, import_folder
from vivero.data.quarantine import read_quarantine
from vivero.errors import DataError

NOBODY = 65534
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def fill(folder: Path, *names: str, **others: bytes) -> Path:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed)))
    return folder


def imported(folder: Path, data_dir: Path, **choice: object) -> ImportReport:
    return import_folder(folder, data_dir, num_processes=1, choice=ImportChoice(**choice))  # type: ignore[arg-type]


def reasons(data_dir: Path) -> dict[str, str]:
    return {row.path: row.reason for row in read_quarantine(data_dir / "quarantine.parquet")}


def test_the_report_says_what_was_understood_and_what_was_not_taken(tmp_path: Path):
    folder = fill(
        tmp_path / "in",
        *("train/cat/1.png", "train/Cat/2.png", "train/dog/3.png", "test/cat/4.png"),
        *("test/bird/5.png", "preview.png"),
    )
    for name in ("train/cat/1.txt", "train/fish/6.png", "train/fish/7.heic", "labels.csv"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"a text")
    text = imported(folder, tmp_path / "data").text()
    for line in (
        "imported 5 colour images (3 train, 2 test), 5 classes",
        "understood as: splits test/, train/, classes by folder",
        "classes: 'Cat', 'bird', 'cat', 'dog', 'fish'",
        "warning: left out in none of the split folders: 1 ('preview.png')",
        "warning: the classes 'Cat', 'cat' read alike",
        "warning: class 'fish' has no image: 2 files refused (not_an_image 2)",
        "warning: 1 files beside images of the same name are not read as captions ('train/cat/1.t",
        "warning: not read for labels: 'labels.csv'",
        "warning: without images for training: 'bird'",
    ):
        assert line in text, text


def test_a_folder_of_plain_classes_has_no_warning(tmp_path: Path):
    report = imported(fill(tmp_path / "in", "cat/1.png", "dog/2.png"), tmp_path / "data")
    assert report.warnings == ()
    assert "understood as: no splits, classes by folder" in report.text()


def warnings_of(folder: Path, tmp_path: Path) -> str:
    return "\n".join(imported(folder, tmp_path / "data").warnings)


@pytest.mark.parametrize(
    ("target", "warning"),
    [
        ("../elsewhere", "left out links to places outside the folder; copy the files into it: 1"),
        ("dog", "left out links to folders; their files are imported under their own names only"),
        ("nowhere", "left out links to something that is not there: 1"),
        ("bird", "left out links that lead to themselves: 1"),
    ],
)
@pytest.mark.parametrize("names", [("cat/1.png", "dog/2.png"), ("dog/1.png",)])
def test_a_class_folder_that_is_a_link_is_named(
    target: str, warning: str, names: tuple[str, ...], tmp_path: Path
):
    fill(tmp_path / "elsewhere", "9.png")
    folder = fill(tmp_path / "in", *names)
    (folder / "bird").symlink_to(target)
    found = warnings_of(folder, tmp_path)
    assert warning in found
    assert "'bird'" in found


def test_a_split_folder_that_is_a_link_is_named(tmp_path: Path):
    fill(tmp_path / "elsewhere", "cat/9.png")
    folder = fill(tmp_path / "in", "train/cat/1.png", "train/dog/2.png")
    (folder / "test").symlink_to(tmp_path / "elsewhere")
    assert "('test')" in warnings_of(folder, tmp_path)


def test_folders_without_a_file_are_named_once_and_hidden_ones_are_not(tmp_path: Path):
    folder = fill(tmp_path / "in", "cat/1.png", "dog/2.png", "fish/.DS_Store")
    for name in ("bird/small", "bird/large", ".git/refs", "cat/more", "old", "__MACOSX/x"):
        (folder / name).mkdir(parents=True)
    assert imported(folder, tmp_path / "data", ignored=("old",)).warnings == (
        "folders without a file: 3 ('bird', 'cat/more', 'fish')",
    )


AS_NOBODY = """
import os, sys
from pathlib import Path
from vivero.data.folder_files import list_folder
from vivero.data.folder_layout import folder_layout
from vivero.data.folder_metadata import FolderMetadata
from vivero.data.import_warnings import import_warnings
os.setuid(int(sys.argv[1]))
listing = list_folder(Path("in"))
keys = [file.key for file in listing.files]
layout = folder_layout(keys, FolderMetadata())
print(*import_warnings(layout, keys, listing.refused, False, listing.empty_folders), sep="\\n")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_class_folder_that_cannot_be_read_is_named():
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = fill(Path(name) / "in", "cat/1.png", "dog/2.png", "bird/3.png")
        (folder / "bird").chmod(0o700)
        command = [sys.executable, "-c", AS_NOBODY, str(NOBODY)]
        done = subprocess.run(command, cwd=name, capture_output=True, text=True, check=True)
    assert done.stdout == ("left out that cannot be read; change the permissions: 1 ('bird')\n"), (
        done.stderr
    )


def test_a_class_that_only_one_split_has_is_named(tmp_path: Path):
    names = ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/bird/4.png")
    assert imported(fill(tmp_path / "in", *names), tmp_path / "data").warnings == (
        "without images for training: 'bird'",
        "without images in test: 'dog'",
    )


@pytest.mark.parametrize(
    ("table", "warning"),
    [
        (
            "file_name,text,weight\n1.png,a,1\n2.png,b,2\n",
            "metadata.csv has no column with labels (label, labels, class, class_name, category); "
            "the images have no labels",
        ),
        (
            "file_name,label\n1.png,\n2.png,\n",
            "metadata.csv: the column label holds no label; the images have no labels",
        ),
        (
            "file_name,text\ncat/3.png,a\ndog/4.png,b\n",
            "metadata.csv has no column with labels (label, labels, class, class_name, category); "
            "the classes are the folders",
        ),
    ],
)
def test_metadata_that_gives_no_label_is_named(table: str, warning: str, tmp_path: Path):
    names = ("cat/3.png", "dog/4.png") if "cat" in table else ("1.png", "2.png")
    folder = fill(tmp_path / "in", *names)
    (folder / "metadata.csv").write_text(table)
    assert imported(folder, tmp_path / "data").warnings == (warning,)


@pytest.mark.parametrize("name", ["metadata.csv.txt", "Metadata.CSV.bak", "labels.xlsx"])
def test_a_table_that_is_not_read_is_named(name: str, tmp_path: Path):
    folder = fill(tmp_path / "in", "1.png", "2.png")
    (folder / name).write_text("file_name,label\n1.png,cat\n2.png,dog\n")
    report = imported(folder, tmp_path / "data")
    assert report.class_names == ()
    [warning] = report.warnings
    assert warning.startswith(f"not read for labels: '{name}'; labels come from folders, or from")


def test_metadata_is_named_with_its_columns_and_gaps(tmp_path: Path):
    folder = fill(tmp_path / "in", "pics/1.png", "pics/2.png")
    (folder / "Metadata.csv").write_text("file_name,label\npics\\1.png,ape\npics/9.png,bee\n")
    text = imported(folder, tmp_path / "data").text()
    assert "Metadata.csv: labels from label, no captions" in text
    assert "warning: left out without a row in the metadata: 1 ('pics/2.png')" in text
    assert "warning: left out named in the metadata but not there: 1 ('pics/9.png')" in text


def test_what_is_ignored_is_recorded_and_asks_nothing(tmp_path: Path):
    folder = fill(tmp_path / "in", "train/a/1.png", "train/b/2.png", "extra/x/3.png", "p-1.png")
    with pytest.raises(DataError, match="cannot tell what the folders mean"):
        imported(folder, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    report = imported(folder, tmp_path / "data", ignored=("extra/", "p-*"))
    assert report.class_names == ("a", "b")
    assert reasons(tmp_path / "data") == {"extra/x/3.png": "ignored", "p-1.png": "ignored"}


def test_files_of_operating_systems_are_hidden(tmp_path: Path):
    names = ("__MACOSX/a/._1.png", "a/1.png", "b/2.png", "a/Thumbs.db", "desktop.ini")
    imported(fill(tmp_path / "in", *names), tmp_path / "data")
    hidden = {path for path, reason in reasons(tmp_path / "data").items() if reason == "hidden"}
    assert hidden == {"__MACOSX/a/._1.png", "a/Thumbs.db", "desktop.ini"}


def test_a_class_of_the_other_unicode_form_is_appended(tmp_path: Path):
    imported(fill(tmp_path / "old", f"{NFC}/1.png", "tea/2.png"), tmp_path / "data")
    assert read_card(tmp_path / "data").class_names == (NFC, "tea")
    new = tmp_path / "new" / NFD
    new.mkdir(parents=True)
    (new / "1.png").write_bytes(encoded(picture(50)))
    report = append_folder(tmp_path / "new", tmp_path / "data", num_processes=1)
    assert report.counts == {"train": 1}
    (new.parent / "metadata.csv").write_text(f"file_name,label\n{NFC}/2.png,{NFD}\n")
    (new / "2.png").write_bytes(encoded(picture(51)))
    report = append_folder(tmp_path / "new", tmp_path / "data", num_processes=1)
    assert report.counts == {"train": 1}


def vivero(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vivero.cli.app", "data", "import", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_an_append_that_refuses_everything_fails_with_the_reason(tmp_path: Path):
    imported(fill(tmp_path / "old", "cat/1.png", "dog/2.png"), tmp_path / "data")
    fill(tmp_path / "new", "Cat/3.png")
    (tmp_path / "new/Cat/3.png").write_bytes(encoded(picture(50)))
    done = vivero(tmp_path / "new", "--out", tmp_path / "data", "--append", cwd=tmp_path)
    assert done.returncode == ALL_REFUSED_EXIT_CODE
    assert "its class is Cat; the data set has cat, dog, of which 'cat' reads alike" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("out", ["file/data", "/proc/data"])
def test_a_target_that_cannot_be_written_is_one_line(tmp_path: Path, out: str):
    (tmp_path / "file").write_text("")
    done = vivero(fill(tmp_path / "in", "1.png"), "--out", out, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("vivero: cannot write there: ")
    assert out in done.stderr


def test_the_options_reach_the_import(tmp_path: Path):
    folder = fill(tmp_path / "in", "train/a/1.png", "train/b/2.png", "test/a/3.png", "more/4.png")
    done = vivero(folder, "--out", "data", "--layout", "splits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(2 train, 1 test), 2 classes" in done.stdout
    done = vivero(folder, "--out", "two", "--ignore", "more", "--ignore", "b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(1 train, 1 test), no labels" in done.stdout
