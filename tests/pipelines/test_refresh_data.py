"""The flow `refresh-data`: what it says when images came in and none of them was taken."""

import json
from pathlib import Path

import pytest

from pipelines.refresh_data import Refusals, refusals_in
from tests.end_to_end.conftest import draw_images, make_clone
from vivero.data.appending import append_folder, left_out_path, read_left_out
from vivero.data.imagefolder import import_folder
from vivero.data.quarantine import QuarantineRow

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
REFRESHES = """
import json, sys
from pathlib import Path
from prefect.artifacts import Artifact
from pipelines.refresh_data import refresh_data
from vivero.errors import DataError

ends = []
for source in sys.argv[1:]:
    try:
        refresh_data(source=source)
        said = "completed"
    except DataError as error:
        said = str(error)
    shown, pointer = Artifact.get("data").data, Path("data.dvc").read_text()
    ends.append({"said": said, "shown": shown, "pointer": pointer})
Path("ends.json").write_text(json.dumps(ends))
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    draw_images(tmp_path / "old", num_per_class=2)
    import_folder(tmp_path / "old", tmp_path / "data", num_processes=1)
    return tmp_path / "data"


def refusals_of(folder: Path, data_dir: Path) -> Refusals | None:
    append_folder(folder, data_dir, num_processes=1)
    return refusals_in(read_left_out(data_dir))


def test_refused_files_are_told_with_counts_place_and_what_to_do(data_dir: Path, tmp_path: Path):
    draw_images(tmp_path / "in" / "monday", num_per_class=1)
    (tmp_path / "in/monday/disc").rename(tmp_path / "in/monday/ring")
    (tmp_path / "in/monday/bar/000.png").write_bytes(b"no image")
    (tmp_path / "in/.DS_Store").write_bytes(b"hidden")
    refusals = refusals_of(tmp_path / "in", data_dir)
    assert refusals is not None
    assert refusals.num_present == 0
    text = refusals.text("s3://key:secret@camera/in", left_out_path(data_dir))
    assert "No image of s3://***@camera/in was added: 2 files were refused" in text
    assert "(not_an_image 1, unknown_class 1). " in text
    assert f"{tmp_path}/work/left_out.parquet on the worker lists each" in text
    assert (
        "give the folder of each image the name of its class, then run refresh-data again" in text
    )
    assert "- 'monday/ring/000.png': unknown_class: its class is ring; the data set has" in text


def test_images_that_are_there_already_are_counted_apart(data_dir: Path, tmp_path: Path):
    (tmp_path / "old/bar/new.png").write_bytes(b"no image")
    refusals = refusals_of(tmp_path / "old", data_dir)
    assert refusals is not None
    assert (refusals.num_present, len(refusals.rows)) == (4, 1)
    assert "1 files were refused (not_an_image 1), 4 images were there already." in refusals.text(
        "old", left_out_path(data_dir)
    )


def test_copies_and_hidden_files_and_metadata_are_no_refusals(data_dir: Path, tmp_path: Path):
    (tmp_path / "old/.DS_Store").write_bytes(b"hidden")
    assert refusals_of(tmp_path / "old", data_dir) is None
    (tmp_path / "empty").mkdir()
    assert refusals_of(tmp_path / "empty", data_dir) is None
    assert refusals_in([QuarantineRow(None, None, "metadata.csv", "metadata", "read")]) is None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_flow_fails_loudly_or_warns_when_nothing_was_taken(tmp_path: Path):
    draw_images(tmp_path / "old", num_per_class=20)
    clone = make_clone(tmp_path / "clone", tmp_path / "old")
    for name, kind in (("unknown", "ring"), ("alone", "bar"), ("mixed", "bar")):
        draw_images(tmp_path / name / "monday", num_per_class=30)
        for path in (tmp_path / name / "monday" / "disc").iterdir():
            path.unlink()
        (tmp_path / name / "monday" / "disc").rmdir()
        (tmp_path / name / "monday" / "bar").rename(tmp_path / name / "monday" / kind)
    (tmp_path / "mixed" / "monday" / "bar" / "broken.png").write_bytes(b"no image")
    before = (clone.root / "data.dvc").read_text()

    (clone.root / "work" / "prefect").mkdir(parents=True)  # Prefect's server makes no parents
    sources = [str(tmp_path / name) for name in ("unknown", "alone", "mixed")]
    clone.run("python", "-c", REFRESHES, *sources)
    unknown, alone, mixed = json.loads((clone.root / "ends.json").read_text())

    assert "30 files were refused (unknown_class 30)" in unknown["said"]
    assert unknown["shown"] == unknown["said"]
    assert unknown["pointer"] == before
    assert alone["said"] == "completed"
    assert "refused" not in alone["shown"]
    assert alone["pointer"] != before
    assert mixed["said"] == "completed"
    assert "**Warning.** No image of" in mixed["shown"]
    assert "(not_an_image 1), 30 images were there already" in mixed["shown"]
    assert mixed["pointer"] == alone["pointer"]
