"""A loss or gradient that goes bad stops the run, is named, and is never saved.

The faults are real: hooks of torch on the module or on its weights, at a moment of the clock.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.training.tiny_run import TinyRun, tiny_run
from vivero.errors import TrainingError

NAMED = re.compile(r"(disc/\d+) \(sigma ([0-9.e+-]+)\)")
LATE = {"total_images": 480, "log_every_images": 480, "validate_every_images": 480}
LATE |= {"preview_every_images": 480, "learning_rate": 1e-4}


def spoil_output(run: TinyRun, begin: int, factors: Tensor, end: int | None = None) -> None:
    """Multiply what the network says about each image of the batches in [begin, end)."""

    def spoil(_module: object, _inputs: object, output: Tensor) -> Tensor:
        if begin <= run.state.images_seen < (end or begin + 8):
            return output * factors[:, None, None, None]
        return output

    run.state.model.register_forward_hook(spoil)


def named(message: str) -> dict[str, float]:
    return {key: float(sigma) for key, sigma in NAMED.findall(message)}


def wake(run: TinyRun) -> TinyRun:
    """A new network says zero; off zero, a factor has an effect from the first step on."""
    with torch.no_grad():
        run.state.model.out.weight.fill_(0.01)
    return run


@pytest.mark.parametrize("begin", [0, 8, 16, 24, 40, 64, 88])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_bad_image_stops_the_run_and_is_named(tmp_path: Path, begin: int, number: float):
    run = wake(tiny_run(tmp_path, log_every_images=96))
    factors = torch.ones(8)
    factors[2] = number
    spoil_output(run, begin, factors)
    with pytest.raises(TrainingError, match=f"after {begin} images is not finite") as caught:
        run.go()
    assert "the loss of the batch" in str(caught.value)
    assert "for 1 of its 8 images" in str(caught.value)
    sigma = run.rig.batches.draw(begin).sigma[2].item()
    assert named(str(caught.value)) == {run.rig.batches.keys(begin)[2]: pytest.approx(sigma, 1e-2)}
    again = tiny_run(tmp_path)  # what is saved is from before
    assert again.state.images_seen == begin // 24 * 24
    assert all(bool(torch.isfinite(weight).all()) for weight in again.state.model.parameters())


def test_a_bad_gradient_names_its_whole_batch(tmp_path: Path):
    run = tiny_run(tmp_path)
    weight = next(run.state.model.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="the gradient of the batch after 0 images") as caught:
        run.go()
    assert "disc/" in str(caught.value)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize("end", [448, 480])  # one batch, or from then on
def test_an_exploding_loss_stops_the_run_and_names_its_largest(tmp_path: Path, end: int):
    run = wake(tiny_run(tmp_path, **LATE))
    factors = torch.tensor([1.0, 1e4, 1, 1, 1, 1, 1, 1])
    spoil_output(run, 440, factors, end)
    with pytest.raises(TrainingError, match="the loss exploded in the batch after 440") as caught:
        run.go()
    said = str(caught.value)
    assert "more than 20 times the usual (train.max_loss_jump)" in said
    keys, sigmas = run.rig.batches.keys(440), run.rig.batches.draw(440).sigma
    assert next(iter(named(said).items())) == (keys[1], pytest.approx(sigmas[1].item(), rel=1e-2))
    assert len(named(said)) == 5
    assert tiny_run(tmp_path, **LATE).state.images_seen == 432


def test_a_loss_within_the_limit_goes_on(tmp_path: Path):
    run = wake(tiny_run(tmp_path, **LATE, max_loss_jump=1e12))
    spoil_output(run, 440, torch.tensor([1.0, 1e4, 1, 1, 1, 1, 1, 1]))
    assert run.go().state.images_seen == 480
