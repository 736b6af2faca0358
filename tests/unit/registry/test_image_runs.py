"""Made images are remembered here and in MLflow, once, and found from another machine."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.unit.registry.test_lineage_trace import WEIGHTS_1, made_images
from vivero.data import made_images as made_images_module
from vivero.data.made_images import MadeImages, read_batch
from vivero.errors import DataError, TrackingError
from vivero.registry import image_runs
from vivero.registry.image_runs import FILE_NAME, fetch_batches, remember, send_batches
from vivero.registry.lineage_records import LineageRecords
from vivero.registry.lineage_trace import trace
from vivero.tracking.store import experiment_id, open_client

REPOSITORY = Path(__file__).parents[3]
LINEAGE = {"code_commit": "c" * 40, "data_digest": "d" * 32 + ".dir"}


@pytest.fixture
def samples(root: Path) -> Path:
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    return made_images(root, WEIGHTS_1, LINEAGE)


def test_a_batch_is_recorded_and_sent_once(root: Path, samples: Path):
    remember(root, samples)
    remember(root, samples)
    assert send_batches(root) == 0
    (batch,) = MadeImages(root).batches_with("weights_sha256", WEIGHTS_1)
    assert batch.num_images == 3
    client = open_client(root)
    (experiment,) = [e for e in client.search_experiments() if e.name == "vivero"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["lineage.weights_sha256"] == WEIGHTS_1
    assert run.data.tags["lineage.code_commit"] == LINEAGE["code_commit"]


def test_it_belongs_to_the_training_of_its_version(root: Path, samples: Path):
    client = open_client(root)
    run = client.create_run(experiment_id(client, root, "mine"))
    client.create_registered_model("vivero")
    tags = {"vivero.weights_sha256": WEIGHTS_1}
    client.create_model_version("vivero", "s3://nowhere/model", run.info.run_id, tags=tags)
    send_batches(root)
    (made,) = client.search_runs([run.info.experiment_id], "tags.`vivero.kind` = 'made images'")
    assert made.data.tags["mlflow.parentRunId"] == run.info.run_id


def test_another_machine_finds_an_image_that_lost_its_record(root: Path, samples: Path):
    send_batches(root)
    (root / "made_images.db").unlink()
    bare = root / "bare.bmp"  # a form that keeps no record
    with Image.open(samples / "00001-0.png") as picture:
        picture.save(bare)
    found = trace(str(bare), root)
    assert found.target.value == WEIGHTS_1
    assert found.target.facts["index"] == 1
    assert fetch_batches(root, LineageRecords(root)) == 0, "fetched once"


def test_an_altered_record_in_mlflow_is_left_out(
    embedded: Path, root: Path, samples: Path, caplog: pytest.LogCaptureFixture
):
    send_batches(root)
    (path,) = (embedded / "mlartifacts").rglob(FILE_NAME)
    content = json.loads(path.read_text())
    content["made_with"]["weights_sha256"] = "f" * 64
    path.write_text(json.dumps(content))
    (root / "made_images.db").unlink()
    fetch_batches(root, LineageRecords(root))
    assert "was altered; it is left out" in caplog.text
    assert MadeImages(root).batches() == []


@pytest.mark.parametrize("bound", ["bytes", "bytes that the server does not tell", "images"])
def test_a_record_in_mlflow_that_is_too_large_is_left_out(
    embedded: Path,
    root: Path,
    samples: Path,
    bound: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    send_batches(root)
    (root / "made_images.db").unlink()
    (path,) = (embedded / "mlartifacts").rglob(FILE_NAME)
    if bound == "images":
        monkeypatch.setattr(made_images_module, "MAX_BATCH_IMAGES", 2)
    else:
        monkeypatch.setattr(image_runs, "MAX_FILE_BYTES", path.stat().st_size - 1)
    if bound == "bytes":
        monkeypatch.setattr(image_runs.mlflow.artifacts, "download_artifacts", None)
    if bound == "bytes that the server does not tell":
        monkeypatch.setattr(MlflowClient, "list_artifacts", lambda *_: [])
    assert fetch_batches(root, LineageRecords(root)) == 0
    assert "is left out" in caplog.text
    assert "at most" in caplog.text
    assert MadeImages(root).batches() == []
    monkeypatch.undo()


def test_a_server_that_is_away_stops_nothing_and_gets_it_later(
    root: Path, samples: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        remember(root, samples)
    assert "does not answer" in caplog.text
    assert send_batches(root) == 1


def test_the_record_only_grows(root: Path, samples: Path):
    with sqlite3.connect(root / "made_images.db") as database:
        for statement in ("DELETE FROM images", "UPDATE batches SET made_at = 'never'"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                database.execute(statement)
    database.close()
    with pytest.raises(DataError, match="no whole record"):
        read_batch(root / "nowhere")
    (root / "made_images.db").write_bytes(b"no database at all, but long enough to look" * 99)
    with pytest.raises(TrackingError, match="cannot be used"):
        MadeImages(root).batches()
