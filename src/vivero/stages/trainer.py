"""The trainer: what a process of the stage `train` does, alone or as one of several."""

import logging
import os
import resource
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError
from torch import Tensor

from vivero.config.environment import read_environment
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir, work_dir
from vivero.config.schema import Config, TrainConfig
from vivero.errors import CheckpointError, ConfigError, TrackingError, TrainingError, ViveroError
from vivero.evaluation.grids import save_grid
from vivero.evaluation.perceptual import perceptual_distance
from vivero.files import os_error_message, write_json
from vivero.integrity.entry import verify_inputs
from vivero.models.build import build_model, save_memory
from vivero.models.tree import TreeNetwork
from vivero.processes import (
    UNREACHABLE_EXIT_CODE,
    die_with_parent,
    speak_of_our_own,
    start_program,
)
from vivero.registry.bundle import BundleContents, load_bundle, write_bundle
from vivero.registry.bundle_config import bundle_config
from vivero.registry.card import CardFacts, model_card
from vivero.registry.versions import resolve_model
from vivero.tracking.energy import energy_record
from vivero.tracking.journal import read_journal
from vivero.tracking.tracker import MemoryTracker, RunIds
from vivero.training.batches import Batches
from vivero.training.checkpoints import CheckpointStore
from vivero.training.distributed import Workers, alone, join_workers
from vivero.training.inputs import InitialModel, TrainInputs, open_images, read_inputs
from vivero.training.loop import Outlets, loss_by_halflife, train
from vivero.training.loss import build_objective
from vivero.training.previews import PREVIEW, Previews
from vivero.training.profiling import PhaseShare, profile_training, share_of_the_rest
from vivero.training.record import JOURNAL, tracked, write_record
from vivero.training.resume import resume, surroundings
from vivero.training.signals import Stopped
from vivero.training.state import TrainState, new_train_state, restore_tensors, start_from
from vivero.training.step import Rig, build_rig
from vivero.training.supervision import end_on_purpose, has_ended_on_purpose, heartbeat
from vivero.training.validation import ValidationBank, build_validation_bank

STAGE = "train"
NUM_FITTED_IMAGES = 10_000  # whose bands a tree is scaled by
LOCK_TIMEOUT_S = 120.0  # a trainer whose parent was killed ends within seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a complete run leaves.

    Attributes:
        state: At its end; after an early stop, at its best moment.
        weights: The chosen average, whole, by name.
        validation_losses: Of each average by its half-life in images, the chosen one first.
        ids: The names MLflow gave.
    """

    state: TrainState
    weights: dict[str, Tensor]
    validation_losses: dict[int, float]
    ids: RunIds


def run(config: Config, root: Path) -> None:
    """Train, or go on training, and write artifacts/train."""
    with join_workers() as workers:
        config = config.model_copy(update={"train": config_of(config.train, workers)})
        inputs = read_inputs(config, root, initial_model(config.train, root))
        refuse_other_inputs(inputs, workers)
        with only_trainer_of(inputs, workers):
            trained = train_model(inputs, workers)
            if workers.is_first:
                write_outputs(inputs, trained, workers)


def config_of(config: TrainConfig, workers: Workers) -> TrainConfig:
    """The settings for as many workers as a cluster has started, whatever params.yaml says.

    Raises:
        ConfigError: When they do not fit.
    """
    if config.sharding == "full" and workers.num_processes == 1:
        raise ConfigError("train.sharding: full needs several processes; write sharding: none")
    try:
        return config.for_processes(workers.num_processes)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{workers.num_processes} processes train: {reason}") from error


def initial_model(config: TrainConfig, root: Path) -> InitialModel | None:
    """The model that training starts from, checked and loaded; None when it starts from nothing."""
    if config.initial_model is None:
        return None
    bundle = load_bundle(resolve_model(config.initial_model, root))
    weights = bundle.network.state_dict()
    return InitialModel(config.initial_model, bundle.weights_sha256, weights)


def refuse_other_inputs(inputs: TrainInputs, workers: Workers) -> None:
    """Stop when this process sees other inputs than the first one.

    Raises:
        TrainingError: Says how they differ.
    """
    first = workers.word_of_the_first(inputs.run_key)
    if inputs.run_key != first:
        raise TrainingError(
            f"process {workers.rank} would train {inputs.run_key}, the first one {first}: they see "
            f"other settings, images, code or another initial_model. Start all of them in the same "
            f"folder, and name a version (models:/name/3) instead of an alias that moves"
        )


def only_trainer_of(inputs: TrainInputs, workers: Workers) -> AbstractContextManager[object]:
    """A lock on the run's folder, which the first worker holds for all of them.

    Raises:
        TrainingError: When another training of the very same inputs is still running.
    """
    if not workers.is_first:
        workers.wait()
        return nullcontext()
    inputs.run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(inputs.run_dir / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        log.warning("another training of these inputs is running; waiting for it to end")
        try:
            held = lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout:
            raise TrainingError(
                f"another training of these very inputs is still running; it holds "
                f"{lock.lock_file}. Wait for it, or end it, and run the same command again"
            ) from None
    workers.wait()
    return held  # leaving its context releases the lock


def train_model(inputs: TrainInputs, workers: Workers) -> Trained:
    """Train from wherever the last start ended."""
    config = inputs.config.train
    state = new_state(inputs, workers)
    store = CheckpointStore(inputs.run_dir, config.keep_checkpoints)
    if not resume(state, store, workers, config):
        begin(state, inputs)
    rig = new_rig(state, inputs, workers)
    bank = new_bank(inputs, rig)
    with tracked(inputs, workers) as tracker:
        train(state, rig, Outlets(tracker, store, bank, new_previews(inputs, rig)))
    workers.wait()  # until the first one has written the last checkpoint
    if state.has_stopped_early:
        take_best(state, store)
    losses = loss_by_halflife(state, rig, bank)
    weights = state.average_state_dict(next(iter(losses)))
    return Trained(state, weights, losses, tracker.ids)


def take_best(state: TrainState, store: CheckpointStore) -> None:
    """Go back to the weights and the clock of the best moment; the record stays that of the run.

    Raises:
        CheckpointError: When no checkpoint that was validated is whole.
    """
    best = store.best()
    if best is None:
        raise CheckpointError(
            f"training stopped early, but no whole checkpoint of its best moment is left in "
            f"{store.folder}. Delete that folder and run the same command again"
        )
    restore_tensors(state, best.tensors)
    state.images_seen = int(best.facts["images_seen"])


def new_state(inputs: TrainInputs, workers: Workers) -> TrainState:
    """The state before the first image."""
    config, card = inputs.config.train, inputs.card
    torch.manual_seed(config.seed)  # the weights; all else is a function of the clock
    model = build_model(config.model, card.num_channels, len(card.class_names), card.image_size_px)
    if isinstance(model, TreeNetwork):
        model.fit(sample_of(inputs, workers))
    if config.gradient_checkpointing:
        save_memory(model)
    return new_train_state(workers.place(model, config), config, workers.device)


def sample_of(inputs: TrainInputs, workers: Workers) -> Tensor:
    """Images that stand for the training data, whose order is by hash; (N, C, H, W), uint8."""
    feed = open_images(inputs, "train", workers)
    return torch.from_numpy(np.array(feed.images[:NUM_FITTED_IMAGES]))


def begin(state: TrainState, inputs: TrainInputs) -> None:
    """Start at zero, or from the model that train.initial_model names."""
    if inputs.initial_model is None:
        log.info("training starts at zero")
        return
    start_from(state, inputs.initial_model.weights)
    log.info("training starts from %s", inputs.initial_model.name)


def new_rig(state: TrainState, inputs: TrainInputs, workers: Workers) -> Rig:
    """What the state is trained with."""
    config = inputs.config.train
    perceptual = perceptual_distance(workers.device) if config.loss.perceptual_weight else None
    objective = build_objective(config, len(inputs.card.class_names), perceptual)
    feed = open_images(inputs, "train", workers)
    batches = Batches(config, workers, feed, objective)
    return build_rig(state, config, workers, batches, objective)


def new_bank(inputs: TrainInputs, rig: Rig) -> ValidationBank:
    """The fixed inputs of the validation loss."""
    config = inputs.config.train
    held_out = open_images(inputs, "validation", rig.workers)
    return build_validation_bank(held_out, config.num_validation_images, rig.objective, config.seed)


def new_previews(inputs: TrainInputs, rig: Rig) -> Previews:
    """Makes the grids; every process computes them, the first one writes them."""
    card, workers = inputs.card, rig.workers
    return Previews(
        inputs.run_dir / "previews",
        rig.objective.schedule,
        PREVIEW,
        (card.num_channels, card.image_size_px, card.image_size_px),
        workers.device,
        save_grid if workers.is_first else lambda *_: None,
    )


def write_outputs(inputs: TrainInputs, trained: Trained, workers: Workers) -> None:
    """Write artifacts/train from a complete run."""
    state, out_dir = trained.state, artifacts_dir(inputs.root, STAGE)
    out_dir.mkdir(parents=True, exist_ok=True)
    weights_sha256 = write_bundle(out_dir / "bundle", bundle_contents(inputs, trained))
    write_json(
        out_dir / "run.json",
        {
            "run_key": inputs.run_key,
            "mlflow_run_id": trained.ids.run_id,
            "model_id": trained.ids.model_id,
        },
    )
    final = write_record(inputs.run_dir, out_dir)
    num_parameters = num_parameters_of(trained)
    halflife_images, validation_loss = next(iter(trained.validation_losses.items()))
    summary = {
        "stage": STAGE,
        "seconds": round(state.train_s, 1),
        "made": f"a denoiser of {num_parameters / 1e6:.2f} M parameters from "
        f"{state.images_seen:,} images; validation loss {validation_loss:.4f}",
        "total_images": state.images_seen,
        "images_per_s": round(state.images_seen / state.train_s, 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "train_loss": final["loss"],
        "validation_loss": validation_loss,
        "validation_loss_by_halflife": {str(k): v for k, v in trained.validation_losses.items()},
        "ema_halflife_images": halflife_images,
        "num_parameters": num_parameters,
        "weights_sha256": weights_sha256,
        "resumed_from": state.resumed_from,
        "other_surroundings": state.other_surroundings,
        "surroundings": surroundings(workers, inputs.config.train),
        "energy": energy_record(
            read_journal(out_dir / JOURNAL),
            workers.num_processes,
            workers.num_machines,
            has_gpu=workers.device.type == "cuda",
        ),
    }
    write_json(out_dir / "summary.json", summary)
    log.info("train made %s", summary["made"])


def peak_memory_bytes() -> int:
    """The most memory this process has taken so far: on the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bundle_contents(inputs: TrainInputs, trained: Trained) -> BundleContents:
    """What the bundle is written from: the averaged weights and all that explains them."""
    config, card = inputs.config.train, inputs.card
    lineage = inputs.lineage.as_json()
    if trained.state.other_surroundings:
        lineage["not_bit_exact"] = trained.state.other_surroundings
    if inputs.initial_model:
        lineage |= {
            "initial_model": inputs.initial_model.name,
            "initial_weights_sha256": inputs.initial_model.weights_sha256,
        }
    facts = CardFacts(
        name=inputs.config.registration.model_name,
        num_parameters=num_parameters_of(trained),
        image_size_px=card.image_size_px,
        num_channels=card.num_channels,
        class_names=card.class_names,
        data_name=card.name,
        licence=card.licence,
        lineage=lineage,
        settings={
            "images seen": trained.state.images_seen,
            "batch size": config.batch_images,
            "learning rate": config.learning_rate,
            "precision": config.precision,
            "half-life of the average, in images": next(iter(trained.validation_losses)),
        },
    )
    return BundleContents(
        network=trained.weights,
        # The stage `sample` adds it, so that a change of `sampling` needs no new training.
        config={**bundle_config(inputs.config, card.class_names), "sampling": None},
        lineage=lineage,
        model_card=model_card(facts),
    )


def num_parameters_of(trained: Trained) -> int:
    """How many numbers are trained."""
    return sum(weight.numel() for weight in trained.state.model.parameters())


def profile(root: Path) -> None:
    """Train some steps that are thrown away; say where their time goes, and write a trace."""
    config = load_config(root / PARAMS)
    inputs = read_inputs(config, root, initial_model(config.train, root))
    inputs = replace(inputs, run_key=f"profile-{os.getpid()}")
    state, workers = new_state(inputs, alone()), alone()
    begin(state, inputs)
    rig = new_rig(state, inputs, workers)
    store, previews = CheckpointStore(inputs.run_dir, 1), new_previews(inputs, rig)
    outlets = Outlets(MemoryTracker(), store, new_bank(inputs, rig), previews)
    out_dir = work_dir(root) / "profile"
    try:
        shares = profile_training(state, rig, outlets, out_dir)
    finally:
        shutil.rmtree(inputs.run_dir, ignore_errors=True)
    sys.stdout.write(profile_report(shares, config.train, out_dir))


def profile_report(shares: list[PhaseShare], config: TrainConfig, out_dir: Path) -> str:
    """What a person wants to know of a profile, and where the rest is."""
    step_ms = sum(item.ms_per_time * item.times_per_step for item in shares)
    lines = [f"{'phase':12}{'ms each time':>14}{'times a step':>14}{'share':>9}"]
    lines += [
        f"{item.phase:12}{item.ms_per_time:14.2f}{item.times_per_step:14.4g}{item.share:9.2%}"
        for item in shares
    ]
    return "\n".join(
        [
            *lines,
            f"{config.batch_images / step_ms * 1000:,.0f} images/s; everything but forward, "
            f"backward and optimiser takes {share_of_the_rest(shares):.2%} of the time; "
            f"peak memory {peak_memory_bytes() / 2**20:,.0f} MiB",
            f"table of operators: {out_dir / 'operators.txt'}",
            f"trace: {out_dir / 'trace.json'} (open it in https://ui.perfetto.dev)\n",
        ]
    )


def run_on_ray(config: TrainConfig, root: Path) -> None:
    """Run the trainers on a Ray cluster: the one RAY_ADDRESS names, or one of this machine."""
    from vivero.training.ray_engine import train_on_ray

    storage_dir = work_dir(root) / "ray"
    train_on_ray(partial(work, root), config.num_processes, config.max_restarts, storage_dir)


def work(root: Path) -> None:
    """Read the settings and train, giving signs of life."""
    num_threads = read_environment().vivero_num_threads
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    config = load_config(root / PARAMS)
    with heartbeat(config.train.heartbeat_s):
        run(config, root)


def main() -> None:
    """Be one of the trainers; what a new start would only repeat is left to the supervisor."""
    if has_ended_on_purpose():
        sys.exit(0)
    start_program()
    die_with_parent()
    speak_of_our_own()
    is_first = os.environ.get("RANK", "0") == "0"
    if not is_first:
        logging.getLogger("vivero").setLevel(logging.WARNING)
    try:
        if is_first and read_environment().vivero_trainer_dir is None:
            verify_inputs(project_dir(), STAGE)  # a cluster started us: nobody else has done it
        work(project_dir())
    except (ViveroError, OSError) as error:
        said = os_error_message(error) if isinstance(error, OSError) else str(error)
        sys.stderr.write(f"\n{STAGE}: {said}\n")
        code = UNREACHABLE_EXIT_CODE if isinstance(error, TrackingError) else 1
        end_on_purpose(code)
        sys.exit(code)  # torchrun ends the others, which wait for this one, and starts them in vain
    except Stopped as stop:
        if is_first:
            sys.stderr.write(f"\n{STAGE}: {stop}\n")
        sys.exit(end_on_purpose(stop.exit_code))
