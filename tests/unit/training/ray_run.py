"""What a worker of Ray does in the tests; a module of its own, so that workers can import it."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist

from tests.unit.training.tiny_run import hash_of, tiny_run
from vivero.errors import TrainingError
from vivero.training.distributed import Workers

NUM_WORKERS = 2
TOTAL_IMAGES = 480


def train_tiny_run(folder: Path) -> None:
    """Train as one of two workers; leave a file named after this process before it begins."""
    torch.set_num_threads(1)
    workers = Workers(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    (folder / f"started-{workers.rank}-{os.getpid()}").touch()
    run = tiny_run(folder, workers, num_processes=NUM_WORKERS, total_images=TOTAL_IMAGES).go()
    final = {"sha256": hash_of(run.state), "resumed_from": run.state.resumed_from}
    if workers.is_first:
        (folder / "final.json").write_text(json.dumps(final))


def raise_our_own() -> None:
    raise TrainingError("the loss is not finite after 8 images; lower train.learning_rate")


def divide_by_zero() -> None:
    raise ZeroDivisionError("by zero, on purpose")
