"""When the loss or a gradient is not finite: stop, and name the batch that did it."""

import torch

from vivero.errors import TrainingError
from vivero.training.state import TrainState
from vivero.training.step import Rig, draw_at, indices_at

NUM_NAMED = 5


def refuse_bad_numbers(state: TrainState, rig: Rig) -> None:
    """Stop when a loss or gradient since the last look was not finite.

    This waits for the device, so it is called at reports and before each checkpoint: what is
    saved is always good.

    Raises:
        TrainingError: Names the keys and noise levels of the first bad batch.
    """
    tally = state.tally
    if bool(torch.isfinite(tally.loss + tally.gradient_norm)):
        return
    begin = int(tally.bad_begin.item())
    keys, sigmas = _batch_of(begin, rig)
    is_bad = (~torch.isfinite(tally.bad_losses)).cpu()
    what = "loss" if bool(is_bad.any()) else "gradient"
    rows = torch.nonzero(is_bad).flatten().tolist() or list(range(len(keys)))
    named = ", ".join(f"{keys[row]} (sigma {sigmas[row]:.3g})" for row in rows[:NUM_NAMED])
    raise TrainingError(
        f"the {what} of the batch after {begin:,} images is not finite, for {len(rows)} of its "
        f"{len(keys)} images: {named}{', ...' if len(rows) > NUM_NAMED else ''}. The last "
        f"checkpoint is good and is kept. Lower train.learning_rate or train.max_gradient_norm, "
        f"or use precision: fp32; then run the same command again"
    )


def _batch_of(begin: int, rig: Rig) -> tuple[list[str], list[float]]:
    """Keys and noise levels of this worker's part of the batch that begins at `begin`."""
    mine = rig.workers.share_of(rig.config.batch_images)
    keys = [rig.feed.keys[row] for row in indices_at(begin, rig)[mine].tolist()]
    return keys, draw_at(begin, rig)[mine].sigma.tolist()
