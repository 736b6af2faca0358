"""The loop for real, on tiny images: what it reports, when it stops, where it goes on."""

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.training.tiny_run import hash_of, tiny_run, tiny_train_config
from vivero.errors import CheckpointError, TrainingError, ViveroError
from vivero.training import loop, resume
from vivero.training.curves import metric_rows, write_curve
from vivero.training.progress import Progress
from vivero.training.signals import Stopped
from vivero.training.step import batch_at, memory_advice, mixed


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path):
    first, second, other = (
        hash_of(tiny_run(tmp_path / name, total_images=24, seed=seed).go().state)
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    assert first == second != other


def test_learns(tmp_path: Path):
    changes = {"total_images": 2400, "learning_rate": 0.01, "checkpoint_every_images": 2400}
    run = tiny_run(tmp_path, **changes, log_every_images=240, validate_every_images=240).go()
    rows = metric_rows(run.outlets.tracker.journal.entries(), "validation/")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_reports_every_metric_on_its_beat(tmp_path: Path):
    run = tiny_run(tmp_path).go()
    entries = run.outlets.tracker.journal.entries()
    train, validation = metric_rows(entries, "train/"), metric_rows(entries, "validation/")
    assert [row["images_seen"] for row in train] == [16, 32, 48, 64, 80, 96]
    assert set(train[0]) == {
        *("images_seen", "loss", "gradient_norm", "learning_rate", "images_per_s"),
    }
    assert [row["images_seen"] for row in validation] == [48, 96]
    assert sum(key.startswith("loss.sigma_") for key in validation[0]) == 5
    assert run.outlets.tracker.images == [("preview", tmp_path / "no.png", 96)]


def test_curves_are_csv_with_the_clock_first(tmp_path: Path):
    write_curve(tmp_path / "loss.csv", [{"images_seen": 8, "loss": 0.5}, {"images_seen": 16}])
    assert (tmp_path / "loss.csv").read_text() == "images_seen,loss\n8,0.5\n16,\n"


def test_a_stop_signal_saves_at_the_step_boundary(tmp_path: Path, monkeypatch):
    run = tiny_run(tmp_path)
    step = loop.train_step

    def stop_in_third(state, rig):
        step(state, rig)
        if state.images_seen == 24 + 8:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "train_step", stop_in_third)
    with pytest.raises(Stopped, match="stopped by SIGTERM after 32 images; a checkpoint is saved"):
        run.go()
    assert tiny_run(tmp_path).state.images_seen == 32


def test_a_complete_run_repeats_no_step(tmp_path: Path, caplog, monkeypatch):
    finished = hash_of(tiny_run(tmp_path).go().state)
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(loop, "train_step", None)
    again = tiny_run(tmp_path).go()
    assert hash_of(again.state) == finished
    assert again.state.resumed_from == []
    assert "training is complete" in caplog.text
    assert "no step is repeated" in caplog.text


def test_goes_on_from_the_last_whole_checkpoint_with_the_same_end(tmp_path: Path, caplog):
    whole = hash_of(tiny_run(tmp_path / "whole").go().state)
    tiny_run(tmp_path / "torn", total_images=96).go()
    last = tmp_path / "torn" / "checkpoints" / "0000000096" / "weights.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    again = tiny_run(tmp_path / "torn")
    assert again.state.images_seen == 72
    assert "weights.safetensors is not the file that was saved" in caplog.text
    assert hash_of(again.go().state) == whole


@pytest.mark.parametrize("name", ["threads", "cpu capability", "device", "torch", "processes"])
def test_other_surroundings_are_called_not_bit_exact(tmp_path: Path, caplog, monkeypatch, name):
    tiny_run(tmp_path, total_images=24).go()
    here = resume.surroundings(tiny_run(tmp_path, total_images=24).rig.workers)
    assert "not bit-exact" not in caplog.text
    monkeypatch.setattr(resume, "surroundings", lambda _: {**here, name: "other"})
    tiny_run(tmp_path, total_images=24)
    assert f"not bit-exact: the checkpoint was made in other surroundings ({name} " in caplog.text


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    run = tiny_run(tmp_path, total_images=24).go()
    extra = {"weights": {}, "ema": {}, "optimizer": {}}
    run.outlets.store.save(32, extra, {})
    with pytest.raises(CheckpointError, match="of another model"):
        tiny_run(tmp_path, total_images=24)


@pytest.mark.parametrize("begin", [0, 24, 40, 88])
def test_a_bad_image_stops_the_run_and_is_named(tmp_path: Path, begin: int, monkeypatch):
    run = tiny_run(tmp_path, log_every_images=96)
    denoising_loss = loop.train_step.__globals__["denoising_loss"]

    def poisoned(*arguments):
        losses = denoising_loss(*arguments)
        if run.state.images_seen == begin:
            losses = losses * torch.tensor([1, 1, float("nan"), 1, 1, 1, 1, 1])
        return losses

    monkeypatch.setitem(loop.train_step.__globals__, "denoising_loss", poisoned)
    with pytest.raises(TrainingError, match=f"after {begin} images is not finite") as caught:
        run.go()
    assert "for 1 of its 8 images: disc/" in str(caught.value)
    assert "(sigma " in str(caught.value)
    again = tiny_run(tmp_path)  # what is saved is from before
    assert again.state.images_seen == begin // 24 * 24
    assert all(bool(torch.isfinite(weight).all()) for weight in again.state.model.parameters())


def test_a_bad_gradient_names_its_whole_batch(tmp_path: Path):
    run = tiny_run(tmp_path)
    weight = next(run.state.model.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="the gradient of the batch after 0 images"):
        run.go()
    assert not list(tmp_path.glob("checkpoints/*"))


def test_out_of_memory_says_what_to_change():
    config = tiny_train_config()
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ):
        with (
            pytest.raises(ViveroError, match=r"write train\.batch_images: 4"),
            memory_advice(config),
        ):
            raise error
    with pytest.raises(RuntimeError, match="channels_last memory format"), memory_advice(config):
        raise RuntimeError("expected channels_last memory format")


def test_bf16_trains_with_weights_in_float32(tmp_path: Path):
    run = tiny_run(tmp_path, precision="bf16").go()
    assert all(weight.dtype == torch.float32 for weight in run.state.model.parameters())
    rows = metric_rows(run.outlets.tracker.journal.entries(), "train/")
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_bf16_runs_the_network_in_bf16():
    layer, seen = torch.nn.Linear(2, 2), []
    layer.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    network = mixed(lambda scaled, *_: layer(scaled), torch.device("cpu"), "bf16")
    output = network(torch.ones(1, 2), torch.zeros(1), torch.zeros(1))
    assert seen == [torch.bfloat16]
    assert output.dtype == torch.float32


def test_a_batch_is_the_same_whenever_it_is_asked_for(tmp_path: Path):
    run = tiny_run(tmp_path)
    first, again = batch_at(64, run.rig), batch_at(64, run.rig)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[2].noise, again[2].noise)
    assert first[0].min() >= -1
    assert first[0].max() <= 1


def test_progress_is_a_sentence_where_there_is_no_terminal(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("vivero.training.progress.LINE_EVERY_S", 0.0)
    with Progress(0, 1000) as progress:
        progress.note_loss(0.25)
        progress.advance(100)
    assert "100 of 1,000 images" in caplog.text
    assert "loss 0.2500" in caplog.text
    assert "min left" in progress.line(10.0)
