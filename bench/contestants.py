"""Two loops over the same network, batch size and images: ours, and the usual one.

`python -m bench.contestants ours|usual fp32|bf16 NUM_STEPS` trains in this process and prints one
line of JSON: images per second (median over the steps), peak memory. The usual loop does what
diffusers' example for unconditional training does: accelerate, a DataLoader over decoded images,
DDPM noise, AdamW, its EMA, clipping, every step logged to TensorBoard. Ours is the product's own
loop with its tracker; validation, previews and checkpoints are off their beat, as they are there.
"""

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.hardware import wait
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir
from vivero.config.schema import Config
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.models.build import build_model
from vivero.processes import run_program
from vivero.stages import trainer
from vivero.tracking.mlflow_tracker import open_tracker
from vivero.training.checkpoints import CheckpointStore
from vivero.training.distributed import alone
from vivero.training.inputs import TrainInputs, read_inputs
from vivero.training.loop import Outlets, train
from vivero.training.record import run_spec

CHANNELS = [192, 384]  # bound by arithmetic, not by memory, so that the loops can be told apart
BATCH_IMAGES = 64
NUM_WARM_STEPS = 3


def bench_config(precision: str, num_steps: int) -> Config:
    """The repository's settings with the network of the bench, for so many steps."""
    config = load_config(project_dir() / PARAMS)
    total_images = (NUM_WARM_STEPS + num_steps + 1) * BATCH_IMAGES
    beats = {f"{what}_every_images": total_images for what in ("validate", "preview", "checkpoint")}
    changes = {
        "precision": precision,
        "batch_images": BATCH_IMAGES,
        "total_images": total_images,
        "warmup_images": BATCH_IMAGES,
        "log_every_images": 10 * BATCH_IMAGES,
        "num_processes": 1,
        "compile": torch.cuda.is_available(),
        "model": config.train.model.model_copy(update={"name": "unet", "channels": CHANNELS}),
        **beats,
    }
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def built_network(inputs: TrainInputs) -> nn.Module:
    """The network of both contestants."""
    torch.manual_seed(0)
    card, model = inputs.card, inputs.config.train.model
    return build_model(model, card.num_channels, len(card.class_names), card.image_size_px)


def flops_per_image(inputs: TrainInputs) -> float:
    """Operations of forward and backward on one image."""
    network, card = built_network(inputs), inputs.card
    with FlopCounterMode(display=False) as counter:
        images = torch.randn(2, card.num_channels, card.image_size_px, card.image_size_px)
        network(images, torch.zeros(2), torch.zeros(2, dtype=torch.int64)).sum().backward()
    return counter.get_total_flops() / 2


class Unconditional(nn.Module):
    """The network as the usual loop calls one: images and timesteps, the answer in `.sample`."""

    def __init__(self, network: nn.Module, null_label: int) -> None:
        super().__init__()
        self.network, self.null_label = network, null_label

    def forward(self, images: Tensor, timesteps: Tensor) -> SimpleNamespace:
        """Predict the noise."""
        labels = torch.full((len(images),), self.null_label, device=images.device)
        return SimpleNamespace(sample=self.network(images, timesteps / 1000, labels))


def usual_loader(inputs: TrainInputs, folder: Path) -> Any:
    """Images decoded and augmented by torchvision as they are asked for, in random order."""
    from datasets import load_dataset

    open_torchvision_door()
    from torchvision import transforms

    images = load_dataset(
        "parquet",
        data_files=str(project_dir() / "data" / "train-*.parquet"),
        split="train",
        cache_dir=str(folder / "cache"),
    )
    size, mode = inputs.card.image_size_px, "L" if inputs.card.num_channels == 1 else "RGB"
    augment = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.CenterCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5], [0.5]),
        ]
    )
    images.set_transform(
        lambda rows: {"input": [augment(image.convert(mode)) for image in rows["image"]]}
    )
    return torch.utils.data.DataLoader(images, batch_size=BATCH_IMAGES, shuffle=True)


def usual_steps(inputs: TrainInputs, folder: Path) -> Iterator[None]:
    """Train as diffusers' example does; yields before every step."""
    from accelerate import Accelerator

    loader = usual_loader(inputs, folder)  # before diffusers, which imports torchvision
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(
        mixed_precision={"fp32": "no", "bf16": "bf16"}[inputs.config.train.precision],
        log_with="tensorboard",
        project_dir=str(folder),
        cpu=not torch.cuda.is_available(),
    )
    model: Any = Unconditional(built_network(inputs), len(inputs.card.class_names))
    average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
    betas, decay = (0.95, 0.999), 1e-6
    optimizer: Any = torch.optim.AdamW(model.parameters(), 1e-4, betas, weight_decay=decay)
    rate: Any = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=10_000)
    model, optimizer, loader, rate = accelerator.prepare(model, optimizer, loader, rate)
    average.to(accelerator.device)
    accelerator.init_trackers("usual")
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    model.train()
    for step, batch in enumerate(batches_of(loader)):
        yield
        with accelerator.accumulate(model):
            loss = noise_error(model, scheduler, batch["input"])
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        average.step(model.parameters())
        logs = {"loss": loss.detach().item(), "lr": rate.get_last_lr()[0]}
        accelerator.log({**logs, "ema_decay": average.cur_decay_value}, step=step)


def noise_error(model: Any, scheduler: Any, clean: Tensor) -> Tensor:
    """Mean squared error of the predicted noise at random timesteps."""
    noise = torch.randn(clean.shape, device=clean.device)
    timesteps = torch.randint(0, 1000, (len(clean),), device=clean.device)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    return F.mse_loss(model(noisy, timesteps).sample.float(), noise)


def batches_of(loader: Any) -> Iterator[dict[str, Tensor]]:
    """One epoch after another."""
    while True:
        yield from loader


def moments_of_the_usual(inputs: TrainInputs, folder: Path) -> list[float]:
    """When each step of the usual loop began."""
    moments = []
    for _ in usual_steps(inputs, folder):
        wait(alone().device)
        moments.append(time.perf_counter())
        if len(moments) * BATCH_IMAGES >= inputs.config.train.total_images:
            break
    return moments


def moments_of_ours(inputs: TrainInputs, folder: Path) -> list[float]:
    """When each step of our loop began."""
    workers, moments = alone(), []

    def phase(name: str) -> contextlib.AbstractContextManager[None]:
        if name == "batch":
            wait(workers.device)
            moments.append(time.perf_counter())
        return contextlib.nullcontext()

    tracker = open_tracker(folder, replace(run_spec(inputs), journal_path=folder / "journal.jsonl"))
    while tracker.ids.run_id is None:  # MLflow's start-up belongs to no step
        time.sleep(0.1)
    state = trainer.new_state(inputs, workers)
    rig = replace(trainer.new_rig(state, inputs, workers), phase=phase)
    bank, previews = trainer.new_bank(inputs, rig), trainer.new_previews(inputs, rig)
    train(state, rig, Outlets(tracker, CheckpointStore(folder, 1), bank, previews))
    tracker.close("FINISHED")
    return moments


def main() -> None:
    """Run one contestant."""
    contestant, precision, num_steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    root = project_dir()
    inputs = replace(read_inputs(bench_config(precision, num_steps), root), run_key="bench")
    with tempfile.TemporaryDirectory() as name:
        run = {"ours": moments_of_ours, "usual": moments_of_the_usual}[contestant]
        moments = run(inputs, Path(name))[NUM_WARM_STEPS:]
    step_s = statistics.median(end - begin for begin, end in pairwise(moments))
    figures = {
        "images_per_s": BATCH_IMAGES / step_s,
        "flops_per_s": BATCH_IMAGES / step_s * flops_per_image(inputs),
        "peak_memory_bytes": trainer.peak_memory_bytes(),
        "num_parameters": sum(weight.numel() for weight in built_network(inputs).parameters()),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    run_program("bench.contestants", main)
