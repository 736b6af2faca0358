"""The loop for real, on tiny images: what it reports, when it stops, where it goes on."""

import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.training.tiny_run import TINY_NETWORKS, hash_of, tiny_run
from vivero.errors import CheckpointError, SamplingError
from vivero.training import loop, resume
from vivero.training.curves import metric_rows, write_curve
from vivero.training.loss import loss_terms
from vivero.training.progress import Progress
from vivero.training.signals import Stopped
from vivero.training.step import train_step
from vivero.training.validation import validation_loss


@pytest.mark.parametrize("network", TINY_NETWORKS)
def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path, network: str):
    first, second, other = (
        hash_of(tiny_run(tmp_path / name, network=network, total_images=24, seed=seed).go().state)
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    assert first == second != other


@pytest.mark.parametrize("network", TINY_NETWORKS)
def test_learns(tmp_path: Path, network: str):
    changes = {
        "network": network,
        "total_images": 2400,
        "learning_rate": 0.01,
        "checkpoint_every_images": 2400,
    }
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


def test_a_tree_reports_each_part_of_its_loss(tmp_path: Path):
    run = tiny_run(tmp_path, network="tree").go()
    rows = metric_rows(run.outlets.tracker.journal.entries(), "train/")
    for row in rows:
        parts = {name: value for name, value in row.items() if name.startswith("loss.")}
        assert list(parts) == [f"loss.{name}" for name in loss_terms(run.rig.config)]
        assert sum(parts.values()) == pytest.approx(row["loss"], rel=1e-5)


def test_a_preview_that_cannot_be_made_stops_nothing(tmp_path: Path, caplog):
    def make_none(*_):
        raise SamplingError("sampling diverged at step 1")

    run = tiny_run(tmp_path)
    run.outlets = replace(run.outlets, make_preview=make_none)
    assert run.go().state.images_seen == 96
    assert "no preview after 96 images: sampling diverged at step 1" in caplog.text
    assert run.outlets.tracker.images == []


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


@pytest.mark.parametrize("network", TINY_NETWORKS)
def test_goes_on_from_the_last_whole_checkpoint_with_the_same_end(tmp_path: Path, caplog, network):
    whole = hash_of(tiny_run(tmp_path / "whole", network=network).go().state)
    tiny_run(tmp_path / "torn", network=network).go()
    last = tmp_path / "torn" / "checkpoints" / "0000000096" / "weights.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    again = tiny_run(tmp_path / "torn", network=network)
    assert again.state.images_seen == 72
    assert "weights.safetensors is not the file that was saved" in caplog.text
    assert hash_of(again.go().state) == whole


@pytest.mark.parametrize("network", TINY_NETWORKS)
def test_a_resume_between_two_reports_gives_the_same_curves(tmp_path: Path, network: str):
    """The checkpoint at 24 images is in the middle of the report from 16 to 32."""

    def curves(run) -> list[dict[str, float]]:
        rows = metric_rows(run.outlets.tracker.journal.entries(), "train/")
        return [{k: v for k, v in row.items() if k != "images_per_s"} for row in rows]

    whole = tiny_run(tmp_path, network=network, keep_checkpoints=9).go()
    expected, usual_loss = curves(whole), whole.state.tally.usual_loss.clone()
    for name in ("0000000048", "0000000072", "0000000096"):
        shutil.rmtree(tmp_path / "checkpoints" / name)
    again = tiny_run(tmp_path, network=network, keep_checkpoints=9)
    assert again.state.images_seen == 24
    assert again.state.tally.num_steps == 1
    assert curves(again.go()) == expected
    assert torch.equal(again.state.tally.usual_loss, usual_loss)


@pytest.mark.parametrize(
    "name", ["threads", "cpu capability", "device", "torch", "processes", "num micro batches"]
)
def test_other_surroundings_are_called_not_bit_exact(tmp_path: Path, caplog, monkeypatch, name):
    run = tiny_run(tmp_path, total_images=24).go()
    here = resume.surroundings(run.rig.workers, run.rig.config)
    tiny_run(tmp_path, total_images=24)
    assert "not bit-exact" not in caplog.text
    monkeypatch.setattr(resume, "surroundings", lambda *_: {**here, name: "other"})
    tiny_run(tmp_path, total_images=24)
    assert f"not bit-exact: the checkpoint was made in other surroundings ({name} " in caplog.text


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    run = tiny_run(tmp_path, total_images=24).go()
    files = {"weights": {}, "ema-16": {}, "ema-8": {}, "optimizer": {}}
    run.outlets.store.save(32, files, {})
    with pytest.raises(CheckpointError, match="weights are of another model: 37 tensors were"):
        tiny_run(tmp_path, total_images=24)


def test_a_checkpoint_with_other_averages_is_refused(tmp_path: Path):
    tiny_run(tmp_path, total_images=24).go()
    with pytest.raises(CheckpointError, match=r"the checkpoint holds .*'ema-8'.*; expected"):
        tiny_run(tmp_path, total_images=24, ema_halflives_images=[16])


@pytest.mark.parametrize("network", TINY_NETWORKS)
def test_every_average_is_saved_and_goes_on_to_the_same_bits(tmp_path: Path, network: str):
    whole = tiny_run(tmp_path / "whole", network=network).go().state
    tiny_run(tmp_path / "torn", network=network).go()
    shutil.rmtree(tmp_path / "torn" / "checkpoints" / "0000000096")
    again = tiny_run(tmp_path / "torn", network=network).go().state
    assert again.resumed_from == [72]
    for halflife in (16, 8):
        ours, theirs = whole.average_state_dict(halflife), again.average_state_dict(halflife)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not torch.equal(whole.average(16)[0], whole.average(8)[0])


def test_an_average_is_what_its_recursion_says(tmp_path: Path):
    run = tiny_run(tmp_path)
    mean = [weight.detach().double() for weight in run.state.model.parameters()]
    for images_seen in range(8, 97, 8):
        train_step(run.state, run.rig)
        decay = 0.5 ** (8 / max(1, min(16, 0.1 * images_seen)))  # the warm-up: a tenth of it all
        weights = [weight.detach().double() for weight in run.state.model.parameters()]
        mean = [decay * m + (1 - decay) * w for m, w in zip(mean, weights, strict=True)]
    for got, expected in zip(run.state.average(16), mean, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-6)


def test_the_average_with_the_least_validation_loss_comes_first(tmp_path: Path):
    run = tiny_run(tmp_path).go()
    losses = loop.loss_by_halflife(run.state, run.rig, run.outlets.bank)
    assert set(losses) == {16, 8}
    assert list(losses.values()) == sorted(losses.values())
    for halflife, average in run.state.averages.items():  # an oracle: a model with these weights
        twin = tiny_run(tmp_path / "twin").state.model
        twin.load_state_dict(average, strict=False)
        objective = run.rig.objective
        loss = validation_loss(objective.denoiser(twin.eval()), objective.weight, run.outlets.bank)
        assert losses[halflife] == loss.mean


@pytest.mark.parametrize("network", TINY_NETWORKS)
def test_looking_at_the_averages_changes_no_bit(tmp_path: Path, network: str):
    seldom = tiny_run(tmp_path / "seldom", network=network).go().state
    often = {"validate_every_images": 8, "preview_every_images": 8, "checkpoint_every_images": 8}
    assert hash_of(tiny_run(tmp_path / "often", network=network, **often).go().state) == hash_of(
        seldom
    )


STOPPING = {
    **{"early_stopping_images": 48, "validate_every_images": 24, "total_images": 480},
    **{"keep_checkpoints": 1, "learning_rate_schedule": "constant", "max_loss_jump": 1e9},
}


def test_stops_early_when_patience_is_over_and_the_best_is_kept(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    run = tiny_run(tmp_path, **STOPPING, learning_rate=0.3).go()
    rows = metric_rows(run.outlets.tracker.journal.entries(), "validation/")
    losses = {int(row["images_seen"]): row["loss"] for row in rows}
    best_at = min(losses, key=losses.get)
    assert run.state.images_seen == best_at + 48 < 480
    assert f"at {best_at:,} images) for 48 images; the weights of that moment" in caplog.text
    best = run.outlets.store.best()
    assert best is not None
    assert best.facts["images_seen"] == best_at
    assert best.facts["validation_loss"] == losses[best_at] < losses[run.state.images_seen]


def test_a_run_that_stopped_early_is_complete(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    first = tiny_run(tmp_path, **STOPPING, learning_rate=0.3).go().state
    again = tiny_run(tmp_path, **STOPPING, learning_rate=0.3).go().state
    assert "training is complete" in caplog.text
    assert hash_of(again) == hash_of(first)


def test_a_run_that_improves_is_not_stopped(tmp_path: Path):
    run = tiny_run(tmp_path, **STOPPING, learning_rate=0.03).go()
    assert run.state.images_seen == 480


def test_a_batch_is_the_same_whenever_it_is_asked_for(tmp_path: Path):
    run = tiny_run(tmp_path)
    first, again = run.rig.batches.at(64), run.rig.batches.at(64)
    assert torch.equal(first.clean, again.clean)
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.draw.noise, again.draw.noise)
    assert first.clean.min() >= -1
    assert first.clean.max() <= 1


def test_progress_is_a_sentence_where_there_is_no_terminal(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("vivero.training.progress.LINE_EVERY_S", 0.0)
    with Progress(0, 1000) as progress:
        progress.note_loss(0.25)
        progress.advance(100)
    assert "100 of 1,000 images" in caplog.text
    assert "loss 0.2500" in caplog.text
    assert "min left" in progress.line(10.0)
