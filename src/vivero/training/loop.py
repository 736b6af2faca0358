"""The loop: step, report, validate, preview, save; it stops only at a step boundary.

The loop alone knows the order of things. Its clock is images seen. Every process goes the same
way through it; only the first one reports and writes.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vivero.errors import SamplingError, TrainingError
from vivero.models.denoisers import AnyDenoiser
from vivero.tracking.tracker import Tracker
from vivero.training.background import BackgroundWriter
from vivero.training.checkpoints import CheckpointStore
from vivero.training.divergence import refuse_bad_numbers
from vivero.training.learning_rate import rate_at
from vivero.training.progress import Progress
from vivero.training.resume import facts_of
from vivero.training.signals import Stopped, StopSignals
from vivero.training.state import Best, TrainState, tensors_of
from vivero.training.step import Rig, memory_advice, train_step
from vivero.training.validation import ValidationBank, ValidationLoss, validation_loss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outlets:
    """Where a run's results go; only the first worker's are used.

    Attributes:
        tracker: Takes metrics and images.
        store: Takes checkpoints.
        bank: Fixed inputs of the validation loss.
        make_preview: Makes images with a denoiser and writes them as a grid; returns its path.
    """

    tracker: Tracker
    store: CheckpointStore
    bank: ValidationBank
    make_preview: Callable[[AnyDenoiser, int], Path]


def train(state: TrainState, rig: Rig, outlets: Outlets) -> None:
    """Train until config.total_images have been seen, from wherever the state is.

    Raises:
        Stopped: After SIGTERM or Ctrl-C; a checkpoint of this moment has been saved.
        TrainingError: When the loss or a gradient goes bad; nothing of it is saved.
        CheckpointError: When a checkpoint cannot be written.
    """
    config, workers = rig.config, rig.workers
    if workers.is_first:
        outlets.tracker.rewind(state.images_seen)  # no step stands twice in the record
    started_at = time.monotonic() - state.train_s
    with (
        StopSignals() as signals,
        Progress(state.images_seen, config.total_images, workers.is_first) as progress,
        BackgroundWriter(outlets.store, outlets.tracker.sync) as writer,
        memory_advice(config),
    ):
        while not state.is_complete(config.total_images):
            state.validation_loss = None
            train_step(state, rig)
            progress.advance(config.batch_images)
            writer.refuse_failures()
            stop_signal = workers.largest(signals.received)
            look(state, rig, outlets, progress)
            if is_due(state, config.checkpoint_every_images, rig) or stop_signal:
                state.train_s = time.monotonic() - started_at
                save(state, rig, writer, is_stopping=bool(stop_signal))
            if stop_signal:
                writer.finish()
                raise Stopped(stop_signal, state.images_seen)
        if state.has_stopped_early:
            log.info("training stops early: %s", _early_stop(state, rig))


def is_due(state: TrainState, every_images: int, rig: Rig) -> bool:
    """Whether something that happens every so often, and at the end, happens now."""
    is_last = state.is_complete(rig.config.total_images)
    return is_last or state.images_seen % every_images == 0


def look(state: TrainState, rig: Rig, outlets: Outlets, progress: Progress) -> None:
    """Report, validate and preview, each where it is due."""
    if is_due(state, rig.config.log_every_images, rig):
        report(state, rig, outlets, progress)
    if is_due(state, rig.config.validate_every_images, rig):
        validate(state, rig, outlets)
    if is_due(state, rig.config.preview_every_images, rig):
        preview(state, rig, outlets)


def report(state: TrainState, rig: Rig, outlets: Outlets, progress: Progress) -> None:
    """Send the means since the last report; begin new sums."""
    with rig.phase("report"):
        refuse_bad_numbers(state, rig)
        tally, workers = state.tally, rig.workers
        loss = workers.mean(tally.loss).item() / tally.num_steps
        gradient_norm = tally.gradient_norm.item() / tally.num_steps
        terms = {
            f"train/loss.{name}": workers.mean(total).item() / tally.num_steps
            for name, total in tally.terms.items()
        }
        tally.begin_anew()
        progress.note_loss(loss)
        if not workers.is_first:
            return
        metrics = {
            "train/loss": loss,
            **terms,
            "train/gradient_norm": gradient_norm,
            "train/learning_rate": rate_at(state.images_seen, rig.config),
            "train/images_per_s": progress.images_per_s_since_report(),
        }
        if state.scaler.is_enabled():
            metrics["train/loss_scale"] = state.scaler.get_scale()
        outlets.tracker.log_metrics(metrics, state.images_seen)


def validate(state: TrainState, rig: Rig, outlets: Outlets) -> None:
    """Send the loss of the averaged weights on the fixed bank; decide whether to go on."""
    with rig.phase("validate"):
        refuse_bad_numbers(state, rig)  # it names the batch, which a bad average could not
        loss = loss_of_average(state, rig, outlets.bank, rig.config.ema_halflives_images[0])
        if not math.isfinite(loss.mean):
            raise TrainingError(
                f"the validation loss after {state.images_seen:,} images is {loss.mean}: the "
                f"averaged weights are of no use. The last checkpoint is kept; lower "
                f"train.learning_rate or use precision: fp32, and run the same command again"
            )
        state.validation_loss = loss.mean
        if loss.mean < state.best.loss:
            state.best = Best(loss.mean, state.images_seen)
        patience_images = rig.config.early_stopping_images
        is_over = state.images_seen - state.best.images_seen >= patience_images > 0
        state.has_stopped_early = bool(rig.workers.largest(int(is_over)))
        if rig.workers.is_first:
            outlets.tracker.log_metrics(loss.metrics(), state.images_seen)


def loss_of_average(
    state: TrainState, rig: Rig, bank: ValidationBank, halflife_images: int
) -> ValidationLoss:
    """The loss of one average of the weights on the bank."""
    with state.averaged(halflife_images) as network:
        return validation_loss(rig.objective.denoiser(network), rig.objective.weight, bank)


def preview(state: TrainState, rig: Rig, outlets: Outlets) -> None:
    """Send a grid of images that the averaged weights make now.

    Weights that make none, such as those of a run that is about to stop early, stop nothing.
    """
    with rig.phase("preview"), state.averaged(rig.config.ema_halflives_images[0]) as network:
        try:
            path = outlets.make_preview(rig.objective.denoiser(network), state.images_seen)
        except SamplingError as error:
            log.warning("no preview after %s images: %s", f"{state.images_seen:,}", error)
            return
        if rig.workers.is_first:
            outlets.tracker.log_image("preview", path, state.images_seen)


def save(state: TrainState, rig: Rig, writer: BackgroundWriter, *, is_stopping: bool) -> None:
    """Hand a copy of this moment to the writer; a state with bad numbers is never saved.

    The last one and the best one are never skipped, however slow the disk is.
    """
    is_last = is_stopping or state.is_complete(rig.config.total_images)
    is_best = state.best.images_seen == state.images_seen
    with rig.phase("checkpoint"):
        refuse_bad_numbers(state, rig)
        is_asked = rig.workers.is_first or rig.config.sharding == "full"
        tensors = tensors_of(state) if is_asked else {}
        facts = facts_of(state, rig.workers, rig.config)
        if rig.workers.is_first:
            writer.save(state.images_seen, tensors, facts, is_needed=is_last or is_best)


def loss_by_halflife(state: TrainState, rig: Rig, bank: ValidationBank) -> dict[int, float]:
    """Validation loss of each average by its half-life in images, the least first."""
    losses = {
        halflife: loss_of_average(state, rig, bank, halflife).mean for halflife in state.averages
    }
    return dict(sorted(losses.items(), key=lambda item: item[1]))


def _early_stop(state: TrainState, rig: Rig) -> str:
    return (
        f"the validation loss has not been below {state.best.loss:.4f} "
        f"(at {state.best.images_seen:,} images) for {rig.config.early_stopping_images:,} images; "
        f"the weights of that moment are taken"
    )
