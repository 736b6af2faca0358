"""Metadata in every spelling of the convention, and what is asked or said where it is another."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vivero.data.folder_files import list_folder
from vivero.data.folder_metadata import Description, FolderMetadata, read_metadata
from vivero.errors import DataError


def read(folder: Path, files: dict[str, str | bytes], images: tuple = ("1.png",)) -> FolderMetadata:
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"an image")
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_metadata(list_folder(folder))


def parquet(rows: dict[str, list], names: list[str] | None = None) -> bytes:
    table = pa.table(rows)
    if names:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


ROW = "file_name,label,text\n1.png,ape,an ape\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", ROW),
        ("Metadata.csv", ROW),
        ("METADATA.CSV", "\ufeffFile_Name,Label,Text\n1.png,ape,an ape\n"),
        ("metadata.tsv", ROW.replace(",", "\t")),
        ("metadata.jsonl", '{"file_name": "1.png", "label": "ape", "text": "an ape"}'),
        ("metadata.parquet", parquet({"file_name": ["1.png"], "label": ["ape"],
                                      "text": ["an ape"]})),
        ("metadata.parquet", parquet({"file_name": ["1.png"], "label": [1], "caption": ["an ape"]},
                                     ["bee", "ape"])),
        ("metadata.csv", "image_file_name,labels,caption\n1.png,ape,an ape\n"),
        ("metadata.csv", ROW.replace("\n", "\r\n")),
    ],
)  # fmt: skip
def test_every_spelling_of_the_convention_is_read(tmp_path: Path, name: str, content: str | bytes):
    metadata = read(tmp_path, {name: content})
    assert metadata.descriptions == {"1.png": Description("ape", "an ape")}


def test_it_is_said_what_was_read(tmp_path: Path):
    text = "file_name,class,prompt,source\n1.png,ape,an ape,zoo\n"
    assert read(tmp_path, {"metadata.csv": text}).notes == [
        "metadata.csv: labels from class, captions from prompt; not read: source"
    ]


def test_numbers_beside_missing_ones_stay_whole_numbers(tmp_path: Path):
    rows = parquet({"file_name": ["1.png", "2.png"], "label": [3.0, None]})
    metadata = read(tmp_path, {"metadata.parquet": rows}, ("1.png", "2.png"))
    assert [d.label for d in metadata.descriptions.values()] == ["3", None]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"metadata.csv": ROW, "Metadata.parquet": parquet({"file_name": ["1.png"]})},
         r"the folder has both .* keep one of them.*--ignore"),
        ({"metadata.csv": "filename,label\n1.png,ape\n"}, "needs a column file_name; it has"),
        ({"metadata.csv": ROW.replace(",", ";")}, "separated by semicolons; separate it by commas"),
        ({"metadata.csv": ROW.replace(",", "\t")}, "separated by tabs"),
        ({"metadata.csv": ROW.encode("utf-16")}, "is UTF-16 text; save it as UTF-8"),
        ({"metadata.csv": b"file_name,label\n1.png,caf\xe9\n"}, "must be UTF-8 text"),
        ({"metadata.csv": ""}, "it has nothing"),
        ({"metadata.csv": "file_name,label,class\n1.png,a,b\n"}, "several columns .* label, class"),
        ({"metadata.csv": "file_name,label,split\n1.png,a,test\n"}, "a column split, which is"),
        ({"metadata.csv": "file_name,label,label\n1.png,a,b\n"}, "has the column 'label' twice"),
        ({"metadata.parquet": b"PAR1 but no more"}, "must be a .parquet table"),
        ({"metadata.parquet": parquet({"name": ["1.png"]})}, "needs a column file_name"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_stops_with_what_to_do(tmp_path: Path, files: dict, message: str):
    with pytest.raises(DataError, match=message):
        read(tmp_path, files)


def test_windows_separators_and_the_other_unicode_form_are_understood(tmp_path: Path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    text = f"file_name,label\npics\\1.png,ape\n{nfc}/2.png,bee\n"
    metadata = read(tmp_path, {"metadata.csv": text}, ("pics/1.png", f"{nfd}/2.png"))
    assert metadata.descriptions == {
        "pics/1.png": Description("ape", None),
        f"{nfd}/2.png": Description("bee", None),
    }


@pytest.mark.parametrize("name", ["..\\1.png", "a\\..\\..\\1.png", "C:\\1.png", "\\\\host\\1.png",
                                  "/1.png", "../1.png", "c:1.png"])  # fmt: skip
def test_paths_that_leave_the_folder_are_refused(tmp_path: Path, name: str):
    metadata = read(tmp_path, {"metadata.csv": f"file_name,label\n{name},ape\n"})
    assert metadata.descriptions == {}
    assert [row.reason for row in metadata.refused] == ["metadata", "path_traversal"]


def test_a_name_that_really_holds_a_backslash_is_taken_as_it_is(tmp_path: Path):
    metadata = read(tmp_path, {"metadata.csv": "file_name,label\na\\1.png,ape\n"}, ("a\\1.png",))
    assert list(metadata.descriptions) == ["a\\1.png"]


def test_an_unquoted_comma_does_not_cut_a_caption(tmp_path: Path):
    text = "file_name,text\n1.png,an ape, sitting\n"
    refused = read(tmp_path, {"metadata.csv": text}).refused[1]
    assert (refused.path, refused.reason) == ("metadata.csv:2", "bad_metadata")
    assert "quote the text" in refused.detail


def test_both_forms_of_a_label_are_one(tmp_path: Path):
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    text = f"file_name,label\n1.png,{nfc}\n2.png,{nfd}\n"
    metadata = read(tmp_path, {"metadata.csv": text}, ("1.png", "2.png"))
    assert {description.label for description in metadata.descriptions.values()} == {nfc}


@pytest.mark.parametrize(
    "column", ["target", "is_test", "split", "test", "train_split", "class_id"]
)
def test_columns_that_may_be_labels_or_splits_stop_the_import(tmp_path: Path, column: str):
    with pytest.raises(DataError, match=f"has a column {column}, which"):
        read(tmp_path, {"metadata.csv": f"file_name,{column}\n1.png,1\n"})
