"""When a loss or gradient is not finite, or the loss explodes: stop, and name the batch."""

import torch

from vivero.errors import TrainingError
from vivero.training.state import NUM_STEPS_UNTIL_USUAL, TrainState
from vivero.training.step import Rig

NUM_NAMED = 5
LEAST_LOSS_SCALE = 1.0
WHAT_NOW = (
    "The last checkpoint is good and is kept. If the batch is fine, raise train.max_loss_jump and "
    "run the same command again: it resumes. A lower train.learning_rate or "
    "train.max_gradient_norm, or precision: fp32, begins a new training"
)


def refuse_bad_numbers(state: TrainState, rig: Rig) -> None:
    """Stop when a loss or gradient since the last look was bad; all processes stop together.

    This waits for the device, so it is called at reports and before each checkpoint: what is
    saved is always good.

    Raises:
        TrainingError: Names the keys and noise levels of the first bad batch.
    """
    if state.scaler.is_enabled() and state.scaler.get_scale() < LEAST_LOSS_SCALE:
        keys = ", ".join(rig.batches.keys(state.images_seen - rig.config.batch_images)[:NUM_NAMED])
        raise TrainingError(
            f"the gradients are not finite in fp16 however small the loss is scaled; the last "
            f"batch before {state.images_seen:,} images began with {keys}. {WHAT_NOW}"
        )
    begin = int(state.tally.bad_begin.item())
    if rig.workers.largest(begin) < 0:
        return
    if begin < 0:
        raise TrainingError("another process met a bad batch and names it; this one stops as well")
    raise TrainingError(f"{_finding(state, rig, begin)}. {WHAT_NOW}")


def _finding(state: TrainState, rig: Rig, begin: int) -> str:
    losses = state.tally.bad_losses
    keys, sigmas = rig.batches.keys(begin), rig.batches.draw(begin).sigma.tolist()
    rows = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
    has_usual = begin // rig.config.batch_images >= NUM_STEPS_UNTIL_USUAL
    has_exploded = bool(losses.mean() > state.tally.max_jump * state.tally.usual_loss)
    if not rows and has_usual and has_exploded:
        rows = losses.argsort(descending=True)[:NUM_NAMED].tolist()
        return (
            f"the loss exploded in the batch after {begin:,} images: {losses.mean():.3g} is more "
            f"than {state.tally.max_jump:g} times the usual (train.max_loss_jump); its largest: "
            f"{_named(rows, keys, sigmas)}"
        )
    what, rows = ("loss", rows) if rows else ("gradient", list(range(len(keys))))
    return (
        f"the {what} of the batch after {begin:,} images is not finite, for {len(rows)} of its "
        f"{len(keys)} images: {_named(rows, keys, sigmas)}"
    )


def _named(rows: list[int], keys: list[str], sigmas: list[float]) -> str:
    named = [f"{keys[row]} (sigma {sigmas[row]:.3g})" for row in rows[:NUM_NAMED]]
    return ", ".join([*named, "..."] if len(rows) > NUM_NAMED else named)
