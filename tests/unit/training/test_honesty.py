"""What a run may not hide: bits that differ, gradients that are never finite, a disk that lags."""

import errno
import logging
from pathlib import Path

import pytest
import torch

from tests.unit.training.tiny_run import tiny_run, tiny_train_config
from vivero.errors import CheckpointError, TrainingError
from vivero.training.checkpoints import CheckpointStore
from vivero.training.fingerprint import fingerprint


def test_a_run_that_was_not_bit_exact_once_says_so_to_its_end(tmp_path: Path):
    tiny_run(tmp_path, total_images=24).go()
    tiny_run(tmp_path, total_images=48, num_micro_batches=2).go()
    last = tiny_run(tmp_path, num_micro_batches=2)
    assert last.state.other_surroundings == ["from 24 images on: num micro batches 1 -> 2"]


def test_half_precision_that_never_gets_a_finite_gradient_stops(tmp_path: Path):
    run = tiny_run(tmp_path, precision="fp16", total_images=8 * 24, checkpoint_every_images=8 * 24)
    weight = next(run.state.model.parameters())
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match="not finite in fp16 however small the loss is scaled"):
        run.go()
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_disk_that_does_not_answer_makes_nobody_forget_a_checkpoint(tmp_path: Path, monkeypatch):
    tiny_run(tmp_path, total_images=24).go()
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "weights.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read now \(Permission denied\)"):
        CheckpointStore(tmp_path / "checkpoints", 2).newest()


def test_a_false_alarm_can_be_silenced_without_losing_the_run():
    first, louder = tiny_train_config(), tiny_train_config(max_loss_jump=50.0)
    assert fingerprint(first, "data") == fingerprint(louder, "data")


def test_when_validation_looks_matters_only_to_early_stopping():
    changes = [{"validate_every_images": images} for images in (48, 96)]
    assert len({fingerprint(tiny_train_config(**change), "data") for change in changes}) == 1
    patient = [{**change, "early_stopping_images": 96} for change in changes]
    assert len({fingerprint(tiny_train_config(**change), "data") for change in patient}) == 2


def test_the_same_surroundings_are_not_called_others(tmp_path: Path, caplog):
    caplog.set_level(logging.WARNING)
    tiny_run(tmp_path, total_images=24).go()
    state = tiny_run(tmp_path).state
    assert torch.cuda.is_available() or state.other_surroundings == []
    assert torch.cuda.is_available() or "not bit-exact" not in caplog.text
