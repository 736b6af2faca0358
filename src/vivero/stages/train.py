"""Stage `train`: prepared images in; a model bundle and the record of its run out.

A run that was stopped, killed or is complete goes on from work/checkpoints/<fingerprint>/. With
train.num_processes above 1 the stage starts itself again under torchrun.
"""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from vivero.config.environment import read_environment
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir, work_dir
from vivero.config.schema import Config
from vivero.data.prepared import PreparedCard, open_split, read_card
from vivero.data.shards import Split
from vivero.errors import DataError, StageError
from vivero.evaluation.grids import save_grid
from vivero.files import sha256_of_dir, write_json, write_whole
from vivero.models.build import build_model
from vivero.processes import die_with_parent, run_in_group, run_stage
from vivero.registry.bundle import write_bundle
from vivero.tracking.journal import read_journal
from vivero.tracking.lineage import Lineage, read_lineage
from vivero.tracking.mlflow_tracker import open_tracker
from vivero.tracking.tracker import DatasetInput, MemoryTracker, RunIds, RunSpec, Tracker
from vivero.training.checkpoints import CheckpointStore
from vivero.training.curves import metric_rows, write_curve
from vivero.training.distributed import Workers, is_launched, join_workers, torchrun_command
from vivero.training.feed import Feed, open_feed
from vivero.training.fingerprint import fingerprint
from vivero.training.loop import Outlets, train
from vivero.training.loss import build_objective
from vivero.training.previews import Previews
from vivero.training.resume import resume
from vivero.training.signals import Stopped
from vivero.training.state import TrainState, new_train_state
from vivero.training.step import build_rig
from vivero.training.validation import build_validation_bank

STAGE = "train"
JOURNAL = "journal.jsonl"
SAMPLING_DEFAULTS = {  # constants: the block `sample` may change without a new training
    "sampler": "dpm_solver_pp_2m",
    "num_steps": 18,
    "guidance": 1.5,
    "guidance_interval": [0.0, 1000.0],
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainInputs:
    """What a run is made from, and where it keeps its state.

    Attributes:
        config: All settings.
        root: Top of the repository.
        card: What the prepared images are.
        lineage: Data, code, settings and seed, by hash.
        run_key: The fingerprint.
    """

    config: Config
    root: Path
    card: PreparedCard
    lineage: Lineage
    run_key: str

    @property
    def images_dir(self) -> Path:
        """The prepared images."""
        return artifacts_dir(self.root, "prepare_data") / "images"

    @property
    def run_dir(self) -> Path:
        """Checkpoints, journal and previews of this fingerprint."""
        return work_dir(self.root) / "checkpoints" / self.run_key


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


def read_inputs(config: Config, root: Path) -> TrainInputs:
    """Look at everything that decides the weights."""
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    card = read_card(images_dir)
    lineage = read_lineage(root, config.train.seed)
    run_key = fingerprint(config.train, sha256_of_dir(images_dir))
    return TrainInputs(config, root, card, lineage, run_key)


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
        inputs.run_dir / "previews", objective.schedule, shape, workers.device, save_grid
    )
    with tracked(inputs, workers) as tracker:
        train(state, rig, Outlets(tracker, store, bank, previews))
    return state, tracker.ids


def open_images(inputs: TrainInputs, split: Split, workers: Workers) -> Feed:
    """The images of one split, which may not be empty."""
    feed = open_feed(open_split(inputs.images_dir, split), workers.device)
    if not len(feed):
        raise DataError(
            f"the {split} split of {inputs.card.name} has no image; bring more images in, or "
            f"change prepare_data.validation_share, and run `dvc repro prepare_data`"
        )
    return feed


@contextmanager
def tracked(inputs: TrainInputs, workers: Workers) -> Iterator[Tracker]:
    """The run's tracker (of the first worker), closed with how the run ended."""
    tracker: Tracker = (
        open_tracker(inputs.root, run_spec(inputs)) if workers.is_first else MemoryTracker()
    )
    try:
        yield tracker
    except Stopped:
        tracker.close("KILLED")
        raise
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FINISHED")


def run_spec(inputs: TrainInputs) -> RunSpec:
    """What MLflow and the journal say about this run."""
    card, config = inputs.card, inputs.config
    return RunSpec(
        experiment=config.registration.experiment,
        run_key=inputs.run_key,
        run_name=f"train-{inputs.run_key[:8]}",
        journal_path=inputs.run_dir / JOURNAL,
        params={name: str(value) for name, value in flat(config.train.model_dump()).items()},
        tags=inputs.lineage.as_tags(),
        dataset=DatasetInput(
            name=card.name,
            digest=inputs.lineage.data_digest or card.source_digest,
            source="data/, prepared by the stage prepare_data",
        ),
        model_name=config.registration.model_name,
    )


def flat(block: Mapping[str, Any], prefix: str = "train.") -> dict[str, Any]:
    """Nested settings under dotted names."""
    values: dict[str, Any] = {}
    for name, value in block.items():
        nested = isinstance(value, Mapping)
        values |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return values


def write_outputs(inputs: TrainInputs, state: TrainState, ids: RunIds) -> None:
    """Write artifacts/train from a complete run."""
    out_dir = artifacts_dir(inputs.root, STAGE)
    out_dir.mkdir(parents=True, exist_ok=True)
    weights_sha256 = write_bundle(out_dir / "bundle", bundle_contents(inputs, state))
    write_json(
        out_dir / "run.json",
        {"run_key": inputs.run_key, "mlflow_run_id": ids.run_id, "model_id": ids.model_id},
    )
    copy_record(inputs.run_dir, out_dir)
    entries = list(read_journal(inputs.run_dir / JOURNAL))
    curves = {
        "loss": metric_rows(entries, "train/"),
        "validation": metric_rows(entries, "validation/"),
    }
    for name, rows in curves.items():
        write_curve(out_dir / "curves" / f"{name}.csv", rows)
    final = {name: rows[-1]["loss"] for name, rows in curves.items()}
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
        licence=licence_of_data(inputs.root),
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
        config={**bundle_config(inputs.config, card.class_names), "sampling": SAMPLING_DEFAULTS},
        lineage=inputs.lineage.as_json(),
        model_card=model_card(facts),
    )


def num_parameters_of(state: TrainState) -> int:
    """How many numbers are trained."""
    return sum(weight.numel() for weight in state.model.parameters())


def licence_of_data(root: Path) -> str:
    """The licence that data/card.json names, where the raw images are still there."""
    try:
        return data_card.read_card(data_dir(root)).licence
    except DataError:
        return "licence unknown"


def copy_record(run_dir: Path, out_dir: Path) -> None:
    """Journal and previews as outputs; what lay there before is replaced."""
    with write_whole(out_dir / JOURNAL) as part_path:
        shutil.copyfile(run_dir / JOURNAL, part_path)
    shutil.rmtree(out_dir / "previews", ignore_errors=True)
    shutil.copytree(run_dir / "previews", out_dir / "previews")


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
