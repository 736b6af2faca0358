"""The mirror: MLflow ends up with what the journal says, whatever happens on the way."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.mlflow_stores import BrokenClient, empty_store
from vivero.errors import TrackingError
from vivero.tracking.journal import Entry, Journal, read_journal
from vivero.tracking.mirror import Mirror, reconcile
from vivero.tracking.mlflow_tracker import open_tracker
from vivero.tracking.runs import RUN_KEY_TAG
from vivero.tracking.store import open_client
from vivero.tracking.tracker import RunSpec

SpecOf = Callable[..., RunSpec]


def history(root: Path, run_id: str, key: str = "train/loss") -> list[tuple[int, float]]:
    metrics = open_client(root).get_metric_history(run_id, key)
    return sorted((metric.step, metric.value) for metric in metrics)


def journal_points(path: Path, key: str = "train/loss") -> list[tuple[int, float]]:
    entries = [e for e in read_journal(path) if e.kind == "metrics" and key in e.values]
    return [(e.images_seen or 0, e.values[key]) for e in entries]


def runs_of(root: Path) -> list:
    client = open_client(root)
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def test_a_run_arrives_with_all_that_was_said_of_it(root: Path, spec_of: SpecOf):
    spec = spec_of()
    preview_path = spec.journal_path.parent / "previews" / "32.png"
    preview_path.parent.mkdir(parents=True)
    Image.new("L", (40, 20), 128).save(preview_path)
    (spec.journal_path.parent / "notes.txt").write_text("hello")

    tracker = open_tracker(root, spec)
    for images_seen in range(8, 72, 8):
        tracker.log_metrics({"train/loss": 1 / images_seen}, images_seen)
    tracker.log_image("preview", preview_path, 32)
    tracker.log_artifact(spec.journal_path.parent / "notes.txt", "notes")
    tracker.sync()
    tracker.close("FINISHED")

    assert tracker.ids.run_id is not None
    client = open_client(root)
    run = client.get_run(tracker.ids.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"learning_rate": "0.001", "seed": "0"}
    assert run.data.tags[RUN_KEY_TAG] == spec.run_key
    assert run.data.tags["vivero.code_commit"] == "abc"
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.digest == "0123456789abcdef0123456789abcdef.dir"
    assert dataset.tags[0].value == "training"
    assert history(root, run.info.run_id) == journal_points(spec.journal_path)
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(root)
    assert [f.path for f in client.list_artifacts(run.info.run_id, "notes")] == ["notes/notes.txt"]
    images = [Path(f.path).suffix for f in client.list_artifacts(run.info.run_id, "images")]
    assert sorted(images) == [".png", ".webp"]
    model = client.get_logged_model(tracker.ids.model_id)
    assert model.status == "PENDING"
    assert model.source_run_id == run.info.run_id


def test_a_stopped_training_goes_on_in_the_same_run_and_doubles_no_step(
    root: Path, spec_of: SpecOf
):
    spec = spec_of()
    first = open_tracker(root, spec)
    for images_seen in (8, 16, 24, 32):
        first.log_metrics({"train/loss": float(images_seen)}, images_seen)
    first.close("KILLED")

    second = open_tracker(root, spec)
    second.rewind(16)
    for images_seen in (24, 32, 40):
        second.log_metrics({"train/loss": float(images_seen)}, images_seen)
    second.close("FINISHED")

    assert second.ids == first.ids
    assert len(runs_of(root)) == 1
    expected = [(step, float(step)) for step in (8, 16, 24, 32, 40)]
    assert history(root, str(second.ids.run_id)) == expected
    assert journal_points(spec.journal_path) == expected
    assert open_client(root).get_run(second.ids.run_id).info.status == "FINISHED"


def test_sending_again_changes_nothing(root: Path, spec_of: SpecOf):
    spec = spec_of()
    image_path = spec.journal_path.parent / "8.png"
    tracker = open_tracker(root, spec)
    Image.new("RGB", (8, 8)).save(image_path)
    tracker.log_metrics({"train/loss": 1.0, "train/rate": 2.0}, 8)
    tracker.log_image("previews/ema", image_path, 8)
    tracker.close("FINISHED")

    assert reconcile(root, spec.journal_path) == tracker.ids
    assert reconcile(root, spec.journal_path) == tracker.ids
    client = open_client(root)
    assert len(client.list_artifacts(str(tracker.ids.run_id), "images")) == 2
    assert len(client.get_metric_history(str(tracker.ids.run_id), "train/loss")) == 1
    assert len(runs_of(root)) == 1


def test_an_emptied_store_is_filled_again_from_a_copy_of_the_journal(root: Path, spec_of: SpecOf):
    spec = spec_of()
    tracker = open_tracker(root, spec)
    for images_seen in range(1, 1300):  # more than one call of MLflow's API takes
        tracker.log_metrics({"train/loss": 1 / images_seen}, images_seen)
    tracker.close("FINISHED")
    copy_path = root / "artifacts" / "train" / "journal.jsonl"
    copy_path.parent.mkdir(parents=True)
    lines = spec.journal_path.read_text().splitlines(keepends=True)
    copy_path.write_text("".join(lines[:-1]))  # copied before the run was ended

    new_root = root / "elsewhere"
    new_root.mkdir()
    (new_root / "mlflow.db").write_bytes(empty_store())
    ids = reconcile(new_root, copy_path)

    assert history(new_root, str(ids.run_id)) == journal_points(spec.journal_path)
    assert len(history(new_root, str(ids.run_id))) == 1299
    run = open_client(new_root).get_run(ids.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.001"


def test_a_child_run_stands_below_its_parent(root: Path, spec_of: SpecOf):
    parent = open_tracker(root, spec_of())
    parent.close("FINISHED")
    child = open_tracker(root, spec_of("evaluate-1", parent_run_key="fingerprint-1"))
    child.close("FINISHED")
    run = open_client(root).get_run(child.ids.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.ids.run_id


def test_other_params_under_the_same_key_do_not_stop_the_run(
    root: Path, spec_of: SpecOf, caplog: pytest.LogCaptureFixture
):
    open_tracker(root, spec_of()).close("FINISHED")
    tracker = open_tracker(root, spec_of(params={"learning_rate": "0.002", "extra": "1"}))
    tracker.close("FINISHED")
    run = open_client(root).get_run(tracker.ids.run_id)
    assert run.data.params == {"learning_rate": "0.001", "seed": "0", "extra": "1"}
    assert "keeps its first values of learning_rate" in caplog.text


def test_an_unreachable_server_is_said_at_once_and_stops_nothing(
    root: Path, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:geheim@127.0.0.1:9/mlflow")
    spec = spec_of()
    began_at = time.monotonic()
    tracker = open_tracker(root, spec)
    said = caplog.text
    tracker.log_metrics({"train/loss": 0.5}, 8)
    assert time.monotonic() - began_at < 3
    assert "MLflow at http://127.0.0.1:9/mlflow does not answer; the training continues" in said
    tracker.close("FINISHED")

    assert tracker.ids.run_id is None
    assert "1 points stay in" in caplog.text
    assert "geheim" not in caplog.text
    assert journal_points(spec.journal_path) == [(8, 0.5)]

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    ids = reconcile(root, spec.journal_path)
    assert history(root, str(ids.run_id)) == [(8, 0.5)]


def test_a_missing_journal_says_what_makes_it(root: Path):
    with pytest.raises(TrackingError, match="run `dvc repro train`"):
        reconcile(root, root / "artifacts" / "train" / "journal.jsonl")


def test_a_journal_of_nobody_is_refused(root: Path):
    journal = Journal(root / "journal.jsonl")
    journal.append(Entry("metrics", images_seen=8, values={"train/loss": 0.5}))
    with pytest.raises(TrackingError, match="does not say which run"):
        Mirror(root, journal.path).send()


def test_two_mirrors_of_a_fresh_store_do_not_break_it(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    failures: list[Exception] = []

    def opened() -> None:
        try:
            open_client(tmp_path)
        except TrackingError as error:
            failures.append(error)

    threads = [threading.Thread(target=opened) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("has_effect", [False, True])
def test_breaking_off_at_any_call_ends_in_the_same_run(
    root: Path, spec_of: SpecOf, has_effect: bool, monkeypatch: pytest.MonkeyPatch
):
    client = open_client(root)
    for fails_at in range(1, 100):
        spec = spec_of(f"run-{fails_at}-{has_effect}")
        journal = Journal(spec.journal_path)
        Image.new("L", (4, 4)).save(spec.journal_path.parent / "8.png")
        journal.append(Entry("run", values=spec.to_values()))
        journal.append(Entry("status", key="RUNNING"))
        for step in (8, 16):
            journal.append(Entry("metrics", images_seen=step, values={"train/loss": 1 / step}))
        journal.append(Entry("image", images_seen=8, key="preview", path="8.png"))
        journal.append(Entry("status", key="FINISHED"))
        broken = BrokenClient(client, fails_at, has_effect)
        monkeypatch.setattr("vivero.tracking.mirror.open_client", lambda _, b=broken: b)

        mirror = Mirror(root, spec.journal_path)
        try:
            mirror.send()
        except TrackingError:
            mirror.send()
        else:  # there is no call of this number: all were broken once
            break
        run_id = str(mirror.ids.run_id)
        assert history(root, run_id) == [(8, 1 / 8), (16, 1 / 16)]
        assert len(client.list_artifacts(run_id, "images")) == 2
        assert client.get_run(run_id).info.status == "FINISHED"
    assert 8 < fails_at < 99, "the fault never fired, or always"
    assert len(runs_of(root)) == fails_at


@pytest.mark.slow
def test_a_server_killed_twice_loses_nothing_and_doubles_nothing(
    root: Path, spec_of: SpecOf, server, caplog: pytest.LogCaptureFixture, monkeypatch
):
    monkeypatch.setattr("vivero.tracking.mlflow_tracker.SEND_EVERY_S", 0.05)
    monkeypatch.setattr("vivero.tracking.mlflow_tracker.RETRY_EVERY_S", 0.2)
    caplog.set_level(logging.INFO, logger="vivero")
    spec = spec_of()
    longest_s = 0.0
    step = 0
    tracker = open_tracker(root, spec)  # the server is not there yet

    def train(seconds: float) -> None:
        nonlocal longest_s, step
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step += 1
            began_at = time.perf_counter()
            tracker.log_metrics({"train/loss": 1 / step, "train/rate": float(step)}, step)
            longest_s = max(longest_s, time.perf_counter() - began_at)
            time.sleep(0.002)

    train(0.5)
    for _ in range(2):
        starter = threading.Thread(target=server.start)
        starter.start()
        while starter.is_alive():
            train(0.1)
        train(1.5)
        server.kill()  # in the middle of whatever it was doing
        train(0.5)
    server.start()
    tracker.close("FINISHED")

    ids = tracker.ids
    assert ids.run_id is not None
    assert "does not answer; the training continues" in caplog.text
    assert "MLflow is back" in caplog.text
    for key in ("train/loss", "train/rate"):
        recorded = journal_points(spec.journal_path, key)
        arrived = history(root, ids.run_id, key)
        assert len(recorded) == step > 500
        assert max(Counter(point[0] for point in arrived).values()) == 1, "a point stands twice"
        assert [point[0] for point in arrived] == [point[0] for point in recorded]
    assert len(runs_of(root)) == 1
    assert open_client(root).get_run(ids.run_id).info.status == "FINISHED"
    assert longest_s < 0.5, "a training step waited for the server"
