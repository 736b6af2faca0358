"""Stage `train`: prepared images in; a model bundle and the record of its run out.

A run that was stopped, killed or is complete goes on from work/checkpoints/<fingerprint>/. With
train.num_processes above 1 the stage starts itself again under torchrun.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import torch

from vivero.config.environment import read_environment
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir
from vivero.config.schema import Config
from vivero.errors import StageError
from vivero.evaluation.grids import save_grid
from vivero.files import write_json
from vivero.models.build import build_model
from vivero.processes import die_with_parent, run_in_group, run_stage
from vivero.registry.bundle import BundleContents, write_bundle
from vivero.registry.bundle_config import bundle_config
from vivero.registry.card import CardFacts, model_card
from vivero.tracking.tracker import RunIds
from vivero.training.checkpoints import CheckpointStore
from vivero.training.distributed import Workers, is_launched, join_workers, torchrun_command
from vivero.training.inputs import TrainInputs, open_images, read_inputs
from vivero.training.loop import Outlets, train
from vivero.training.loss import build_objective
from vivero.training.previews import Previews, preview_spec
from vivero.training.record import tracked, write_record
from vivero.training.resume import resume
from vivero.training.signals import Stopped
from vivero.training.state import TrainState, new_train_state
from vivero.training.step import build_rig
from vivero.training.validation import build_validation_bank

STAGE = "train"

log = logging.getLogger(__name__)


def run(config: Config, root: Path) -> None:
    """Train, or go on training, and write artifacts/train; the processes of torchrun join here."""
    if config.train.num_processes > 1 and not is_launched():
        launch(root, config.train.num_processes)
        return
    with join_workers() as workers:
        inputs = read_inputs(config, root)
        state, ids = train_model(inputs, workers)
        if workers.is_first:
            write_outputs(inputs, state, ids)


def train_model(inputs: TrainInputs, workers: Workers) -> tuple[TrainState, RunIds]:
    """Train from wherever the last start ended; returns the final state and MLflow's names."""
    config, card = inputs.config.train, inputs.card
    num_classes = len(card.class_names)
    torch.manual_seed(config.seed)  # the weights; all else is a function of the clock
    model = build_model(config.model, card.num_channels, num_classes, card.image_size_px)
    state = new_train_state(model, config, workers.device)
    store = CheckpointStore(inputs.run_dir, config.keep_checkpoints)
    resume(state, store, workers, config.total_images)

    objective = build_objective(config, num_classes)
    feed, held_out = (open_images(inputs, split, workers) for split in ("train", "validation"))
    rig = build_rig(state, config, workers, feed, objective)
    bank = build_validation_bank(held_out, config.num_validation_images, objective, config.seed)
    shape = (card.num_channels, card.image_size_px, card.image_size_px)
    previews = Previews(
        inputs.run_dir / "previews",
        objective.schedule,
        preview_spec(config.sampling),
        shape,
        workers.device,
        save_grid,
    )
    with tracked(inputs, workers) as tracker:
        train(state, rig, Outlets(tracker, store, bank, previews))
    return state, tracker.ids


def write_outputs(inputs: TrainInputs, state: TrainState, ids: RunIds) -> None:
    """Write artifacts/train from a complete run."""
    out_dir = artifacts_dir(inputs.root, STAGE)
    out_dir.mkdir(parents=True, exist_ok=True)
    weights_sha256 = write_bundle(out_dir / "bundle", bundle_contents(inputs, state))
    write_json(
        out_dir / "run.json",
        {"run_key": inputs.run_key, "mlflow_run_id": ids.run_id, "model_id": ids.model_id},
    )
    final = write_record(inputs.run_dir, out_dir)
    num_parameters = num_parameters_of(state)
    summary = {
        "stage": STAGE,
        "seconds": round(state.train_s, 1),
        "made": f"a denoiser of {num_parameters / 1e6:.2f} M parameters from "
        f"{state.images_seen:,} images; validation loss {final['validation']:.4f}",
        "total_images": state.images_seen,
        "images_per_s": round(state.images_seen / state.train_s, 1),
        "train_loss": final["loss"],
        "validation_loss": final["validation"],
        "num_parameters": num_parameters,
        "weights_sha256": weights_sha256,
        "resumed_from": state.resumed_from,
    }
    write_json(out_dir / "summary.json", summary)
    log.info("train made %s", summary["made"])


def bundle_contents(inputs: TrainInputs, state: TrainState) -> BundleContents:
    """What the bundle is written from: the averaged weights and all that explains them."""
    config, card = inputs.config.train, inputs.card
    facts = CardFacts(
        name=inputs.config.registration.model_name,
        num_parameters=num_parameters_of(state),
        image_size_px=card.image_size_px,
        num_channels=card.num_channels,
        class_names=card.class_names,
        data_name=card.name,
        licence=card.licence,
        lineage=inputs.lineage.as_json(),
        settings={
            "images seen": state.images_seen,
            "batch size": config.batch_images,
            "learning rate": config.learning_rate,
            "precision": config.precision,
        },
    )
    return BundleContents(
        network=state.ema_state_dict(),
        config=bundle_config(inputs.config, card.class_names),
        lineage=inputs.lineage.as_json(),
        model_card=model_card(facts),
    )


def num_parameters_of(state: TrainState) -> int:
    """How many numbers are trained."""
    return sum(weight.numel() for weight in state.model.parameters())


def launch(root: Path, num_processes: int) -> None:
    """Run this stage in several processes; they end with this one, however it ends.

    Raises:
        StageError: When training failed in them; their own message was printed.
    """
    num_threads = max(1, torch.get_num_threads() // num_processes)
    env = {"OMP_NUM_THREADS": str(num_threads), **os.environ}
    command = torchrun_command("vivero.stages.train", num_processes)
    signal.signal(signal.SIGTERM, _end_on_signal)
    exit_code = run_in_group(command, root, env)
    if exit_code:
        raise StageError(STAGE, exit_code)


def _end_on_signal(number: int, _frame: object) -> NoReturn:
    sys.stderr.write("\ntrain: stopped; run the same command again to go on\n")
    sys.exit(128 + number)


def main() -> None:
    """Run the stage as dvc.yaml does, in one process or as one of torchrun's."""
    if is_launched():
        die_with_parent()

    def body() -> None:
        num_threads = read_environment().vivero_num_threads
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        root = project_dir()
        try:
            run(load_config(root / PARAMS), root)
        except Stopped as stop:
            sys.stderr.write(f"\n{STAGE}: {stop}\n")
            sys.exit(stop.exit_code)

    run_stage(STAGE, body)


if __name__ == "__main__":
    main()
