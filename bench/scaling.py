"""`make bench-scaling`: how the cost of a step grows, and a short model of 64 GPUs, as Markdown.

Each case trains on random images in processes of its own. Waiting, reading and reporting are left
out: only steps are timed.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from tqdm import tqdm

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir, work_dir
from vivero.config.schema import TrainConfig
from vivero.files import write_text
from vivero.models.build import build_model
from vivero.processes import TUNING, run_program
from vivero.training.batches import Batches
from vivero.training.distributed import Workers, join_workers, torchrun_command
from vivero.training.feed import Feed
from vivero.training.loss import build_objective
from vivero.training.state import new_train_state
from vivero.training.step import build_rig, train_step

MODULE = "bench.scaling"
NUM_CLASSES, NUM_IMAGES = 10, 256
NUM_WARM_STEPS, LEAST_STEPS, LEAST_S = 2, 3, 6.0
NUM_CORES = 2


@dataclass(frozen=True)
class Case:
    """One point of the table.

    Attributes:
        num_processes: On this machine; they share its cores.
        width: Of the finest level; twice that at the next.
        batch_images: Of the joint batch.
        num_micro_batches: Parts of it, one after the other.
        size_px: Side of the images.
        sharding: none or full.
    """

    num_processes: int = 1
    width: int = 64
    batch_images: int = 64
    num_micro_batches: int = 1
    size_px: int = 32
    sharding: str = "none"


# Parameters, and operations of forward and backward on a 32 px image, of the three sizes below.
MODELED = ((1_711_396, 0.85e9), (5_910_000, 3.36e9), (22_020_000, 13.2e9))

TABLES = {
    "Processes, on the same two cores": {
        "1 process, 2 threads": Case(),
        "2 processes, 1 thread each, DDP": Case(num_processes=2),
        "2 processes, 1 thread each, FSDP2": Case(num_processes=2, sharding="full"),
    },
    "Size of the model": {
        "x 1": Case(),
        "x 4": Case(width=128),
        "x 16": Case(width=256),
    },
    "Batch": {
        "x 1": Case(),
        "x 4": Case(batch_images=256),
        "x 16": Case(batch_images=1024),
        "x 16, in 16 parts": Case(batch_images=1024, num_micro_batches=16),
    },
    "Resolution": {
        "32 px": Case(),
        "64 px": Case(size_px=64),
        "128 px, in 4 parts": Case(size_px=128, num_micro_batches=4),
    },
}


@dataclass(frozen=True)
class Figures:
    """What a case costs: images per second, and numbers in the model."""

    images_per_s: float
    num_parameters: int


def case_config(case: Case) -> TrainConfig:
    """The repository's settings, changed to the case."""
    config = load_config(project_dir() / PARAMS).train
    # the U-Net, of which every process computes the same parts, as FSDP2 needs it
    changed = {"name": "unet", "channels": [case.width, 2 * case.width]}
    model = config.model.model_copy(update=changed)
    names = ("num_processes", "batch_images", "num_micro_batches", "sharding")
    changes = {name: getattr(case, name) for name in names}
    return config.model_copy(update={**changes, "model": model})


def random_feed(case: Case, workers: Workers) -> Feed:
    """Images of noise, of the size of the case."""
    rng = np.random.default_rng(0)
    shape = (NUM_IMAGES, 1, case.size_px, case.size_px)
    labels = rng.integers(0, NUM_CLASSES, NUM_IMAGES)
    images = rng.integers(0, 256, shape, np.uint8)
    return Feed(images, labels, [str(row) for row in range(NUM_IMAGES)], workers.device)


def measure(case: Case, workers: Workers) -> Figures:
    """Median time of a step, in this process as one of the workers."""
    config = case_config(case)
    torch.manual_seed(0)
    model = build_model(config.model, 1, NUM_CLASSES, case.size_px)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    state = new_train_state(workers.place(model, config), config, workers.device)
    objective = build_objective(config, NUM_CLASSES)
    batches = Batches(config, workers, random_feed(case, workers), objective)
    rig = build_rig(state, config, workers, batches, objective)
    seconds: list[float] = []
    while workers.largest(
        int(len(seconds) < NUM_WARM_STEPS + LEAST_STEPS or sum(seconds) < LEAST_S)
    ):
        began_at = time.perf_counter()
        train_step(state, rig)
        if workers.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began_at)
    step_s = statistics.median(seconds[NUM_WARM_STEPS:])
    return Figures(case.batch_images / step_s, num_parameters)


def figures_of(case: Case) -> Figures:
    """The figures of a case, from processes of its own."""
    alone = [sys.executable, "-m", MODULE]
    command = alone if case.num_processes == 1 else torchrun_command(MODULE, case.num_processes)
    threads = {"OMP_NUM_THREADS": str(NUM_CORES // case.num_processes)}
    process = subprocess.run(
        [*command, json.dumps(asdict(case))],
        cwd=project_dir(),
        env={**os.environ, **TUNING, **threads},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        sys.exit(f"bench: {case} failed:\n{process.stderr[-3000:]}")
    return Figures(**json.loads(process.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Cluster:
    """What the model of scaling assumes; see docs/scaling.md for where the numbers come from.

    Attributes:
        flops_per_s: That training reaches on one GPU.
        bytes_per_s: That one GPU sends and receives in an all-reduce.
        backward_share: Of a step's computation; the exchange can hide behind it.
    """

    flops_per_s: float = 200e12
    bytes_per_s: float = 40e9
    backward_share: float = 2 / 3


def exchanged_bytes(num_parameters: int, num_gpus: int) -> float:
    """What each GPU sends in a ring all-reduce of gradients in float32.

    2 (N - 1) / N * 4 bytes for each parameter.

    Source:
        Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of
        workstations.
    """
    return 2 * (num_gpus - 1) / num_gpus * 4 * num_parameters


def efficiency(
    flops: float, num_parameters: int, num_gpus: int, cluster: Cluster
) -> tuple[float, float]:
    """Speed of N GPUs over N times that of one: if nothing hides the exchange, if backward does.

    Args:
        flops: Of one step on one GPU.
        num_parameters: Of the model.
        num_gpus: N.
        cluster: How fast it is.
    """
    compute_s = flops / cluster.flops_per_s
    exchange_s = exchanged_bytes(num_parameters, num_gpus) / cluster.bytes_per_s
    hidden_s = max(0.0, exchange_s - cluster.backward_share * compute_s)
    return compute_s / (compute_s + exchange_s), compute_s / (compute_s + hidden_s)


def cost_table(title: str, rows: dict[str, Figures]) -> str:
    """One table as Markdown; the first row is what the others are compared with."""
    first = next(iter(rows.values())).images_per_s
    lines = [
        f"### {title}",
        "",
        "| | parameters | images/s | relative |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row.num_parameters / 1e6:.2f} M | {row.images_per_s:,.1f} | "
        f"{row.images_per_s / first:.3f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def cluster_table() -> str:
    """The short model for 8 and 64 GPUs as Markdown."""
    lines = [
        "### A short model of 64 GPUs",
        "",
        "| parameters | images on a GPU | bytes sent, 64 GPUs | computing, ms | exchanging, ms "
        "| 8 GPUs | 64 GPUs |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    cluster = Cluster()
    for num_parameters, flops_per_image in MODELED:
        for num_images in (64, 512):
            flops = flops_per_image * num_images
            sent = exchanged_bytes(num_parameters, 64)
            spans = [
                "{:.2f} to {:.2f}".format(*efficiency(flops, num_parameters, n, cluster))
                for n in (8, 64)
            ]
            lines.append(
                f"| {num_parameters / 1e6:.2f} M | {num_images} | {sent / 1e6:.1f} MB | "
                f"{1000 * flops / cluster.flops_per_s:.2f} | "
                f"{1000 * sent / cluster.bytes_per_s:.2f} | {spans[0]} | {spans[1]} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every case and write work/bench/scaling.md; with a case as JSON, that one here."""
    if len(sys.argv) > 1:
        with join_workers() as workers:
            figures = measure(Case(**json.loads(sys.argv[1])), workers)
            if workers.is_first:
                sys.stdout.write(json.dumps(asdict(figures)) + "\n")
        return
    cases = {case for rows in TABLES.values() for case in rows.values()}
    known = {case: figures_of(case) for case in tqdm(sorted(cases, key=str), desc="bench-scaling")}
    text = "\n".join(
        cost_table(title, {name: known[case] for name, case in rows.items()})
        for title, rows in TABLES.items()
    )
    text += "\n" + cluster_table()
    out_path = work_dir(project_dir()) / "bench" / "scaling.md"
    write_text(out_path, text)
    sys.stdout.write(f"{text}\nin {out_path}\n")


if __name__ == "__main__":
    run_program("bench-scaling", main)
