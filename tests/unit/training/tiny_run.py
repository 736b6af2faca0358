"""A training of seconds, for tests; as a program: `python tiny_run.py FOLDER [key=value ...]`.

The images are made from a formula. `FOLDER/final.json` gets the hash of all final tensors.
"""

import hashlib
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML

from vivero.config.schema import TrainConfig
from vivero.models.build import build_model, save_memory
from vivero.models.tree import TreeNetwork
from vivero.tracking.journal import Entry, Journal
from vivero.tracking.tracker import MemoryTracker
from vivero.training.batches import Batch, Batches
from vivero.training.checkpoints import CheckpointStore
from vivero.training.distributed import Workers, alone, join_workers
from vivero.training.feed import Feed
from vivero.training.loop import Outlets, train
from vivero.training.loss import build_objective
from vivero.training.resume import resume
from vivero.training.signals import Stopped
from vivero.training.state import TrainState, local, new_train_state, tensors_of
from vivero.training.step import Rig, build_rig
from vivero.training.validation import build_validation_bank

PARAMS = Path(__file__).parents[3] / "params.yaml"
NUM_CLASSES, SIZE_PX = 2, 16  # three rows of labels: two processes cannot cut them evenly
TINY = {
    "total_images": 96,
    "batch_images": 8,
    "warmup_images": 16,
    "ema_halflives_images": [16, 8],
    "log_every_images": 16,
    "validate_every_images": 48,
    "checkpoint_every_images": 24,
    "preview_every_images": 96,
    "num_validation_images": 10,
}
TINY_MODEL = {"blocks_per_level": 1, "attention_heads": 2, "embedding_channels": 8}
TINY_NETWORKS = {
    "unet": {"name": "unet", "channels": [16], "patch_px": 4},
    "tree": {"name": "tree", "channels": [8, 8], "patch_px": 2},
}
TINY_THRESHOLD = 2.0  # about half of the images enter at either level
TINY_HANDOVER_WEIGHT = 0.25  # a tree's images that go through twice


def tiny_train_config(*, network: str = "unet", **changes: object) -> TrainConfig:
    """The settings of params.yaml with a tiny network, and with changes."""
    values = YAML(typ="safe").load(PARAMS.read_text())["train"]
    model = {**values["model"], **TINY_MODEL, **TINY_NETWORKS[network], **changes.pop("model", {})}
    model["tree"] = {**model["tree"], "threshold": TINY_THRESHOLD, **changes.pop("tree", {})}
    loss = {**values["loss"], "handover_weight": TINY_HANDOVER_WEIGHT, **changes.pop("loss", {})}
    values |= {**TINY, **changes, "model": model, "loss": loss}
    return TrainConfig.model_validate(values)


def tiny_feed(num_images: int = 40, num_classes: int = NUM_CLASSES) -> Feed:
    """Discs whose radius follows the class."""
    labels = np.arange(num_images) % num_classes
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX] - SIZE_PX / 2 + 0.5
    distance = np.sqrt(x**2 + y**2)
    shift = np.arange(num_images)[:, None, None] % 5
    images = np.where(distance < 2 + 2 * labels[:, None, None], 200 + shift, 10 * shift)
    keys = [f"disc/{row}" for row in range(num_images)]
    return Feed(images.astype(np.uint8)[:, None], labels, keys, torch.device("cpu"))


class JournalTracker(MemoryTracker):
    """A memory tracker with a real journal below it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.journal = Journal(path)

    def log_metrics(self, values, images_seen):
        self.journal.append(Entry("metrics", images_seen=images_seen, values=dict(values)))

    def sync(self):
        self.journal.sync()

    def rewind(self, images_seen):
        self.journal.truncate_after(images_seen)


@dataclass
class TinyRun:
    state: TrainState
    rig: Rig
    outlets: Outlets

    def go(self) -> "TinyRun":
        train(self.state, self.rig, self.outlets)
        return self


def tiny_run(folder: Path, workers: Workers | None = None, **changes: object) -> TinyRun:
    """A run in a folder, resumed from what lies there."""
    config, workers, feed = tiny_train_config(**changes), workers or alone(), tiny_feed()
    torch.manual_seed(config.seed)
    model = build_model(config.model, 1, NUM_CLASSES, SIZE_PX)
    if isinstance(model, TreeNetwork):
        model.fit(torch.from_numpy(feed.images))
    if config.gradient_checkpointing:
        save_memory(model)
    state = new_train_state(workers.place(model, config), config, workers.device)
    store = CheckpointStore(folder / "checkpoints", config.keep_checkpoints)
    resume(state, store, workers, config)
    objective = build_objective(config, NUM_CLASSES)
    batches = Batches(config, workers, feed, objective)
    rig = build_rig(state, config, workers, batches, objective)
    bank = build_validation_bank(feed, config.num_validation_images, objective, config.seed)
    tracker = JournalTracker(folder / "journal.jsonl") if workers.is_first else MemoryTracker()
    return TinyRun(state, rig, Outlets(tracker, store, bank, lambda *_: folder / "no.png"))


def hash_of(state: TrainState) -> str:
    """Over all weights, averages and moments, whole; every process must ask."""
    digest = hashlib.sha256()
    for file, tensors in sorted(tensors_of(state).items()):
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{file}/{name}/{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def optimizer_bytes(state: TrainState) -> int:
    """What this process holds of the optimiser's moments."""
    moments = [tensor for each in state.optimizer.state.values() for tensor in each.values()]
    return sum(local(tensor).nbytes for tensor in moments)


@dataclass(frozen=True)
class SeenBatches(Batches):
    """Batches that leave a trace, in FOLDER/seen-<rank>.jsonl: [begin, a hash of each image].

    In its first life, rank 1 ends itself by SIGKILL before the batch that begins at die_at.
    """

    folder: Path = Path()
    die_at: int | None = None

    def made(self, begin: int) -> Batch:
        """A batch, of which images, labels and noise are hashed together."""
        batch, rank = super().made(begin), self.workers.rank
        if begin == self.die_at and rank == 1 and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        tensors = (batch.clean, batch.labels, batch.draw.noise, batch.draw.sigma)
        rows = (b"".join(t.numpy().tobytes() for t in row) for row in zip(*tensors, strict=True))
        line = json.dumps([begin, [hashlib.sha256(row).hexdigest()[:12] for row in rows]])
        with (self.folder / f"seen-{rank}.jsonl").open("a") as file:
            file.write(f"{line}\n")
        return batch


def traced(run: TinyRun, folder: Path, die_at: int | None = None) -> TinyRun:
    """The run, whose batches leave a trace in a folder."""
    rig = run.rig
    batches = SeenBatches(
        rig.config,
        rig.workers,
        rig.batches.feed,
        rig.objective,
        rig.batches.router,
        folder=folder,
        die_at=die_at,
    )
    run.rig = replace(rig, batches=batches)
    return run


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    changes = {key: json.loads(value) for key, value in (a.split("=") for a in sys.argv[2:])}
    die_at = changes.pop("die_at", None)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"started-{os.getpid()}").touch()
    with join_workers() as workers:
        try:
            run = traced(tiny_run(folder, workers, **changes), folder, die_at).go()
        except Stopped as stop:
            sys.stderr.write(f"{stop}\n")
            sys.exit(stop.exit_code)
        final = {
            "sha256": hash_of(run.state),
            "resumed_from": run.state.resumed_from,
            "validation_loss": run.state.validation_loss,
            "optimizer_bytes": optimizer_bytes(run.state),
        }
        if workers.is_first:
            (folder / "final.json").write_text(json.dumps(final))


if __name__ == "__main__":
    main()
