"""A loss or gradient that is no number, at any of twenty steps: never saved, never the best."""

from pathlib import Path

import pytest
import torch

from tests.proofs.disks import whole_in
from tests.unit.training.tiny_run import TinyRun, tiny_run
from vivero.errors import TrainingError
from vivero.training.checkpoints import read_checkpoint

NUM_STEPS, BATCH_IMAGES = 20, 8
# Every step reports, validates and saves, so that each has its chance to keep what is bad.
EVERY_STEP = {
    "total_images": NUM_STEPS * BATCH_IMAGES,
    "log_every_images": NUM_STEPS * BATCH_IMAGES,
    "validate_every_images": BATCH_IMAGES,
    "checkpoint_every_images": BATCH_IMAGES,
    "keep_checkpoints": NUM_STEPS,
}


def poison(run: TinyRun, step: int, where: str, value: float) -> None:
    """Let one image's output, or one gradient, be no number at one step."""
    begin = step * BATCH_IMAGES

    def poisoned_output(module: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        if run.state.images_seen != begin or not output.requires_grad:
            return output
        return torch.cat([output[:1] * value, output[1:]])

    def poisoned_gradient(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * value if run.state.images_seen == begin else gradient

    if where == "loss":
        run.state.model.register_forward_hook(poisoned_output)
    else:
        next(run.state.model.parameters()).register_hook(poisoned_gradient)


@pytest.mark.parametrize("step", range(NUM_STEPS))
def test_what_is_no_number_is_never_saved_and_never_the_best(tmp_path: Path, step: int):
    where = "loss" if step % 2 else "gradient"
    value = float("nan") if step % 4 < 2 else float("inf")
    run = tiny_run(tmp_path, **EVERY_STEP)
    poison(run, step, where, value)
    begin = step * BATCH_IMAGES
    with pytest.raises(TrainingError, match=f"the {where} of the batch after {begin} images"):
        run.go()

    saved = [int(name) for name in whole_in(tmp_path)]
    assert saved == list(range(BATCH_IMAGES, begin + 1, BATCH_IMAGES))
    for name in whole_in(tmp_path):
        tensors = read_checkpoint(tmp_path / "checkpoints" / name).tensors.values()
        assert all(bool(t.isfinite().all()) for file in tensors for t in file.values())
    best = run.outlets.store.best()
    assert (best is None) == (step == 0)
    assert best is None or best.facts["validation_loss"] < float("inf")


def test_averaged_weights_that_give_no_number_stop_the_run(tmp_path: Path):
    run = tiny_run(tmp_path, **EVERY_STEP)
    average = run.state.average(run.rig.config.ema_halflives_images[0])
    average[0].fill_(float("nan"))
    with pytest.raises(TrainingError, match="the validation loss after 8 images is nan"):
        run.go()
    assert whole_in(tmp_path) == []
