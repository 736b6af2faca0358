"""The loop: step, report, validate, preview, save; it stops only at a step boundary.

The loop alone knows the order of things. Its clock is images seen.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vivero.diffusion.preconditioning import Denoiser
from vivero.tracking.tracker import Tracker
from vivero.training.checkpoints import CheckpointStore
from vivero.training.divergence import refuse_bad_numbers
from vivero.training.progress import Progress
from vivero.training.resume import facts_of
from vivero.training.signals import Stopped, StopSignals
from vivero.training.state import TrainState, new_tally, tensors_of
from vivero.training.step import Rig, memory_advice, rate_at, train_step
from vivero.training.validation import ValidationBank, validation_loss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outlets:
    """Where a run's results go; only the first worker uses them.

    Attributes:
        tracker: Takes metrics and images.
        store: Takes checkpoints.
        bank: Fixed inputs of the validation loss.
        save_preview: Makes images with a denoiser, writes them as a grid, returns its path.
    """

    tracker: Tracker
    store: CheckpointStore
    bank: ValidationBank
    save_preview: Callable[[Denoiser, int], Path]


def train(state: TrainState, rig: Rig, outlets: Outlets) -> None:
    """Train until config.total_images have been seen, from wherever the state is.

    Raises:
        Stopped: After SIGTERM or Ctrl-C; a checkpoint of this moment has been saved.
        TrainingError: When the loss or a gradient is not finite; nothing of it is saved.
        CheckpointError: When a checkpoint cannot be written.
    """
    config, workers = rig.config, rig.workers
    if workers.is_first:
        outlets.tracker.rewind(state.images_seen)  # no step stands twice in the record
    started_at = time.monotonic() - state.train_s
    with (
        StopSignals() as signals,
        Progress(state.images_seen, config.total_images, workers.is_first) as progress,
        memory_advice(config),
    ):
        while state.images_seen < config.total_images:
            train_step(state, rig)
            progress.advance(config.batch_images)
            stop_signal = workers.largest(signals.received)

            if is_due(state, config.log_every_images, rig):
                report(state, rig, outlets, progress)
            if is_due(state, config.validate_every_images, rig) and workers.is_first:
                validate(state, rig, outlets)
            if is_due(state, config.preview_every_images, rig) and workers.is_first:
                preview(state, rig, outlets)
            if is_due(state, config.checkpoint_every_images, rig) or stop_signal:
                state.train_s = time.monotonic() - started_at
                save(state, rig, outlets)
            if stop_signal:
                raise Stopped(stop_signal, state.images_seen)


def is_due(state: TrainState, every_images: int, rig: Rig) -> bool:
    """Whether something that happens every so often, and at the end, happens now."""
    is_last = state.images_seen >= rig.config.total_images
    return is_last or state.images_seen % every_images == 0


def report(state: TrainState, rig: Rig, outlets: Outlets, progress: Progress) -> None:
    """Send the means since the last report; begin new sums."""
    tally, workers = state.tally, rig.workers
    refuse_bad_numbers(state, rig)
    loss = workers.mean(tally.loss).item() / tally.num_steps
    gradient_norm = tally.gradient_norm.item() / tally.num_steps
    state.tally = new_tally(len(tally.bad_losses), workers.device)
    progress.note_loss(loss)
    if not workers.is_first:
        return
    metrics = {
        "train/loss": loss,
        "train/gradient_norm": gradient_norm,
        "train/learning_rate": rate_at(state.images_seen, rig.config),
        "train/images_per_s": progress.images_per_s_since_report(),
    }
    outlets.tracker.log_metrics(metrics, state.images_seen)


def validate(state: TrainState, rig: Rig, outlets: Outlets) -> None:
    """Send the loss of the averaged weights on the fixed bank."""
    loss = validation_loss(ema_denoiser(state, rig), rig.objective.weight, outlets.bank)
    levels = {f"validation/loss.sigma_{s:.2g}": value for s, value in loss.by_sigma.items()}
    outlets.tracker.log_metrics({"validation/loss": loss.mean, **levels}, state.images_seen)


def preview(state: TrainState, rig: Rig, outlets: Outlets) -> None:
    """Send a grid of images that the averaged weights make now."""
    path = outlets.save_preview(ema_denoiser(state, rig), state.images_seen)
    outlets.tracker.log_image("preview", path, state.images_seen)


def ema_denoiser(state: TrainState, rig: Rig) -> Denoiser:
    """The denoiser over the averaged weights."""
    return rig.objective.denoiser(state.ema_network())


def save(state: TrainState, rig: Rig, outlets: Outlets) -> None:
    """Save a checkpoint of this moment; a state with bad numbers is never saved."""
    refuse_bad_numbers(state, rig)
    state.tally.loss = rig.workers.mean(state.tally.loss)
    if rig.workers.is_first:
        began_at = time.monotonic()
        outlets.tracker.sync()
        outlets.store.save(state.images_seen, tensors_of(state), facts_of(state, rig.workers))
        save_ms = 1000 * (time.monotonic() - began_at)
        log.debug("checkpoint at %s images saved in %.0f ms", state.images_seen, save_ms)
