"""What a user would pick instead: diffusers' `UNet2DModel`, trained as its example trains.

`python -m bench.usual_model [SECONDS]` runs what is not yet done of `next_run`, one run after the
other, each in a process of its own; a finished run is a folder of work/bench/usual with
result.json, both kinds of weights and its samples. Stopped, the same command goes on.

The loop is examples/unconditional_image_generation of diffusers: accelerate, a DataLoader, DDPM
noise, AdamW, clipping, its EMA. What it asks for and we leave out costs it nothing: no TensorBoard,
no decoding of files (images lie in memory), random flips off as they are by default. 28 px are
padded to 32, since `UNet2DModel` halves its images; padding is cropped away before judgement.

Three sizes. "docs" is the `UNet2DModel` of Hugging Face's course on diffusion for 32 px, where the
library sends its beginners; "small" the same pattern with its channels halved and less, 2.3 M
parameters; "equal" narrowed further, to our parameter count. The default runs keep every default of
the example (500 steps of warm-up, 100 epochs of cosine, however few of them fit into the time). The
search and the best runs get what helps them: a class label, which our model has as well, and a
cosine that ends with the time. All runs are judged by the better of EMA and last weights, and by
the better of DDIM as it is and with its clipped output.
"""

import dataclasses
import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.contest import (
    CORES,
    NUM_SEARCH_IMAGES,
    SECONDS,
    Clock,
    contest_bank,
    contest_environment,
    denoising_rows,
    images_of,
    mean_loss,
)
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir, work_dir
from vivero.data.prepared import to_model_range
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.integrity.caches import load_tensors, read_record, save_tensors, write_record
from vivero.processes import run_program, speak_of_our_own

SIZES: dict[str, tuple[int, ...]] = {
    "docs": (64, 128, 128, 256),
    "small": (32, 64, 64, 64),
    "equal": (24, 48, 48, 48),
}
NUM_NORM_GROUPS = {"docs": 32, "small": 32, "equal": 8}  # 32 is theirs; 24 channels have no 32
NUM_CLASSES = 10
NUM_TIMESTEPS = 1000
NUM_SAMPLING_STEPS = 50
SAMPLINGS = {"plain": False, "clipped": True}  # DDIM's use_clipped_model_output
SAMPLING_BATCH_IMAGES = 100
PADDING_PX = 2
DEFAULT_BATCH_IMAGES = 64
LEARNING_RATES = (3e-4, 1e-3, 2e-3)
BATCHES_IMAGES = (16, 32)
SEARCH_DIVISOR = 4  # a run of the search has so small a part of the time
WARMUP_SHARE = 0.05  # of a run whose rate is fitted to its time
NUM_EPOCHS, NUM_WARMUP_STEPS = 100, 500  # the example's defaults

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UsualRun:
    """One training.

    Attributes:
        name: Of its folder.
        size: Key of SIZES.
        seconds: How long it trains, in seconds of all cores.
        batch_images: Of one step.
        learning_rate: The highest.
        is_fitted: Whether warm-up and cosine span the time, and labels are given; else the
            example's defaults.
        ema_decay: The most that EMA's decay rises to.
        num_samples: How many images it makes in the end.
    """

    name: str
    size: Literal["docs", "small", "equal"]
    seconds: float
    batch_images: int = DEFAULT_BATCH_IMAGES
    learning_rate: float = 1e-4
    is_fitted: bool = False
    ema_decay: float = 0.9999
    num_samples: int = 1000


def next_run(losses: dict[str, float], seconds: float = SECONDS) -> UsualRun | None:
    """The first run that is not done, in order of importance; None when all are.

    The default; learning rates, then batch sizes at the best of them, a quarter of the time each;
    the best of these at full length, and once more at our parameter count; the size of the
    documentation; the default with the batch size that the example has when no one names another.

    Args:
        losses: Held-out loss of what is done, by name; it decides what is the best.
        seconds: How long a full run trains.
    """
    search = {
        "size": "small",
        "seconds": seconds / SEARCH_DIVISOR,
        "is_fitted": True,
        "num_samples": 0,
    }
    rates = {f"rate-{rate:g}": rate for rate in LEARNING_RATES}
    runs = [UsualRun("default", "small", seconds)]
    runs += [UsualRun(name, learning_rate=rate, **search) for name, rate in rates.items()]
    if losses.keys() >= rates.keys():
        best_rate = rates[min(rates, key=losses.__getitem__)]
        batches = {f"batch-{images}": images for images in BATCHES_IMAGES}
        runs += [
            UsualRun(name, batch_images=images, learning_rate=best_rate, **search)
            for name, images in batches.items()
        ]
        if losses.keys() >= batches.keys():
            names = rates.keys() | batches.keys()
            winner = min(sorted(names), key=losses.__getitem__)
            best = {"learning_rate": rates.get(winner, best_rate), "ema_decay": 0.999}
            best["batch_images"] = batches.get(winner, DEFAULT_BATCH_IMAGES)
            runs.append(UsualRun("best", "small", seconds, is_fitted=True, **best))
            runs.append(UsualRun("best-equal", "equal", seconds, is_fitted=True, **best))
            runs.append(UsualRun("docs", "docs", seconds, num_samples=256))
            runs.append(UsualRun("default-16", "small", seconds, batch_images=16))
    return next((run for run in runs if run.name not in losses), None)


class PaddedImages(Dataset[dict[str, Tensor]]):
    """The training images as the example's transform leaves them: float, [-1, 1], 32 px."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(np.array(images)), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input": padded(to_model_range(self.images[row])), "label": self.labels[row]}


def padded(images: Tensor) -> Tensor:
    """Images with a border of black."""
    return F.pad(images, [PADDING_PX] * 4, value=-1.0)


def cropped(images: Tensor) -> Tensor:
    """Images without their border."""
    return images[..., PADDING_PX:-PADDING_PX, PADDING_PX:-PADDING_PX]


def built_unet(run: UsualRun) -> nn.Module:
    """The network of a run, with new weights; diffusers' own."""
    open_torchvision_door()  # before diffusers, which imports torchvision
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    network: nn.Module = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=SIZES[run.size],
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=NUM_NORM_GROUPS[run.size],
        num_class_embeds=NUM_CLASSES if run.is_fitted else None,
    )
    return network


def fitted_rate(share: float) -> float:
    """Factor of the learning rate when a share of the time is used: warm-up, then a cosine to 0."""
    if share < WARMUP_SHARE:
        return max(share / WARMUP_SHARE, 0.01)
    progress = min((share - WARMUP_SHARE) / (1 - WARMUP_SHARE), 1.0)
    return 0.5 * (1 + math.cos(math.pi * progress))


def train(run: UsualRun, network: nn.Module, root: Path) -> tuple[nn.Module, dict[str, float]]:
    """Train the network in place until the time is used.

    Returns:
        EMA's copy of the network, and what was used: num_steps, num_images, cpu_s, wall_s,
        images_per_s (of all cores) and loss (mean of the last 50 steps).
    """
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    split = images_of(root, "train")
    loader: Any = DataLoader(PaddedImages(split.images, split.labels), run.batch_images, True)
    accelerator = Accelerator(cpu=True)
    average = EMAModel(network.parameters(), decay=run.ema_decay, use_ema_warmup=True, power=0.75)
    clock = Clock(run.seconds)
    rates = learning_rates(run, network, len(loader), clock)
    model, optimizer, loader, rate = accelerator.prepare(network, rates.optimizer, loader, rates)
    scheduler = DDPMScheduler(num_train_timesteps=NUM_TIMESTEPS)
    model.train()
    losses: list[float] = []
    clock.begin()
    for batch in endless(loader):
        with accelerator.accumulate(model):
            loss = noise_error(model, scheduler, batch, run.is_fitted)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
        average.step(model.parameters())
        losses.append(loss.detach().item())
        if clock.share >= 1:
            break
    used = {**clock.used_for(len(losses) * run.batch_images), "num_steps": len(losses)}
    averaged = built_unet(run)
    average.copy_to(averaged.parameters())
    return averaged, {**used, "loss": float(np.mean(losses[-50:]))}


def learning_rates(run: UsualRun, network: nn.Module, epoch_steps: int, clock: Clock) -> Any:
    """The schedule of the learning rate, over the example's AdamW, which is its `.optimizer`."""
    from diffusers.optimization import get_scheduler

    betas, decay = (0.95, 0.999), 1e-6
    optimizer = torch.optim.AdamW(
        network.parameters(), run.learning_rate, betas, weight_decay=decay
    )
    if run.is_fitted:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: fitted_rate(clock.share))
    return get_scheduler(
        "cosine",
        optimizer,
        num_warmup_steps=NUM_WARMUP_STEPS,
        num_training_steps=epoch_steps * NUM_EPOCHS,
    )


def endless(loader: Any) -> Iterator[dict[str, Tensor]]:
    """One epoch after another."""
    while True:
        yield from loader


def noise_error(model: Any, scheduler: Any, batch: dict[str, Tensor], has_labels: bool) -> Tensor:
    """Mean squared error of the predicted noise at random timesteps."""
    clean = batch["input"]
    noise = torch.randn(clean.shape)
    timesteps = torch.randint(0, NUM_TIMESTEPS, (len(clean),))
    noisy = scheduler.add_noise(clean, noise, timesteps)
    return F.mse_loss(predicted_noise(model, noisy, timesteps, batch["label"], has_labels), noise)


def predicted_noise(
    network: nn.Module, noisy: Tensor, timesteps: Tensor, labels: Tensor, has_labels: bool
) -> Tensor:
    """What the network says, with labels where it takes them."""
    prediction: Tensor = network(noisy, timesteps, labels if has_labels else None).sample
    return prediction


def ddpm_sigmas() -> Tensor:
    """Noise levels of DDPM's timesteps, as EDM counts them; shape (NUM_TIMESTEPS,), rising."""
    from diffusers import DDPMScheduler

    alpha_bar = DDPMScheduler(num_train_timesteps=NUM_TIMESTEPS).alphas_cumprod
    sigmas: Tensor = ((1 - alpha_bar) / alpha_bar).sqrt()
    return sigmas


class UsualDenoiser:
    """A network that predicts noise, asked as ours is: noisy = clean + sigma * noise, at 28 px."""

    def __init__(self, network: nn.Module, has_labels: bool) -> None:
        self.network, self.has_labels = network.eval(), has_labels
        self.sigmas = ddpm_sigmas()

    def __call__(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Expected clean image, (B, C, H, W).

        The border, which the network was trained with, gets noise of its own; each sigma is taken
        for the nearest timestep.
        """
        levels = sigma.view(-1, 1, 1, 1)
        frame = torch.randn(padded(noisy).shape, generator=torch.Generator().manual_seed(0))
        noisy_frame = levels * frame - 1
        noisy_frame[..., PADDING_PX:-PADDING_PX, PADDING_PX:-PADDING_PX] = noisy
        timesteps = (self.sigmas.log()[None] - sigma.log()[:, None]).abs().argmin(dim=1)
        scaled = noisy_frame / (1 + levels.square()).sqrt()
        noise = predicted_noise(self.network, scaled, timesteps, labels, self.has_labels)
        return cropped(noisy_frame - levels * noise)


@torch.inference_mode()
def ddim_samples(
    network: nn.Module, num_images: int, has_labels: bool, is_clipped: bool
) -> np.ndarray:
    """Images of diffusers' own DDIM; uint8, (N, 1, 28, 28). Labels come in turn.

    is_clipped is its option use_clipped_model_output, off by default: the noise is taken from the
    clipped image, too, which helps a model that has not learned for long.
    """
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=NUM_TIMESTEPS)
    scheduler.set_timesteps(NUM_SAMPLING_STEPS)
    generator = torch.Generator().manual_seed(1)
    batches = []
    for labels in (torch.arange(num_images) % NUM_CLASSES).split(SAMPLING_BATCH_IMAGES):
        images = torch.randn(len(labels), 1, 32, 32, generator=generator)
        for timestep in scheduler.timesteps:
            timesteps = timestep.expand(len(labels))
            noise = predicted_noise(network, images, timesteps, labels, has_labels)
            images = scheduler.step(
                noise, timestep, images, use_clipped_model_output=is_clipped
            ).prev_sample
        batches.append(((cropped(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(batches).numpy()


def judged(run: UsualRun, weights: dict[str, nn.Module], root: Path) -> dict[str, Any]:
    """Held-out loss of both kinds of weights; for full runs also the verdict on the better one."""
    config, sigmas = load_config(root / PARAMS), ddpm_sigmas()
    bank = contest_bank(root, "validation", NUM_SEARCH_IMAGES, sigmas)
    rows = {
        kind: denoising_rows(UsualDenoiser(network, run.is_fitted), bank, config)
        for kind, network in weights.items()
    }
    better = min(rows, key=lambda kind: mean_loss(rows[kind]))
    report: dict[str, Any] = {"validation": rows, "weights": better}
    report["validation_loss"] = mean_loss(rows[better])
    if run.num_samples:
        test = contest_bank(root, "test", None, sigmas)
        report["test"] = denoising_rows(UsualDenoiser(weights[better], run.is_fitted), test, config)
        report["test_loss"] = mean_loss(report["test"])
    return report


def run_folder(root: Path, name: str) -> Path:
    """Where a run leaves its weights, samples and result."""
    return work_dir(root) / "bench" / "usual" / name


def run_one(run: UsualRun, root: Path) -> None:
    """Train, sample and judge; result.json is written last. Weights already there are taken."""
    torch.set_num_threads(CORES)
    folder = run_folder(root, run.name)
    folder.mkdir(parents=True, exist_ok=True)
    trained_path, settings = folder / "trained.json", dataclasses.asdict(run)
    weights = {"raw": built_unet(run), "ema": built_unet(run)}
    trained, key = read_record(trained_path, settings), json.dumps(settings)
    paths = {kind: folder / f"{kind}.safetensors" for kind in weights}
    kept = {kind: load_tensors(path, key) if trained else None for kind, path in paths.items()}
    if trained is not None and None not in kept.values():
        used = trained["used"]
        for kind, network in weights.items():
            network.load_state_dict(kept[kind])
    else:
        weights["ema"], used = train(run, weights["raw"], root)
        for kind, network in weights.items():
            save_tensors(paths[kind], key, network.state_dict())
        for path in folder.glob("sampling-*.json"):  # of former weights
            path.unlink()
        write_record(trained_path, settings, {"used": used})
    log.info("%s: %s", run.name, {key: round(value, 4) for key, value in used.items()})
    report = {"run": settings, "used": used, **judged(run, weights, root)}
    report["num_parameters"] = sum(weight.numel() for weight in weights["raw"].parameters())
    if run.num_samples:
        report["samplings"] = samplings(run, weights[report["weights"]], folder)
    write_record(folder / "result.json", run.name, report)
    log.info("%s: held-out loss %.4f (%s)", run.name, report["validation_loss"], report["weights"])


def samplings(run: UsualRun, network: nn.Module, folder: Path) -> dict[str, dict[str, float]]:
    """What the samples of each kind took; those that are there already are not made again."""
    found = {}
    for kind, is_clipped in SAMPLINGS.items():
        used_path = folder / f"sampling-{kind}.json"
        used = read_record(used_path, kind)
        if used is None or samples_of(folder, kind) is None:
            clock = Clock(run.seconds)
            samples = ddim_samples(network, run.num_samples, run.is_fitted, is_clipped)
            used = clock.used_for(len(samples))
            tensors = {"images": torch.from_numpy(samples)}
            save_tensors(samples_path(folder, kind), kind, tensors)
            write_record(used_path, kind, used)
        found[kind] = used
    return found


def samples_path(folder: Path, kind: str) -> Path:
    """The file of the samples of a kind."""
    return folder / f"samples-{kind}.safetensors"


def samples_of(folder: Path, kind: str) -> np.ndarray | None:
    """The samples of a kind, uint8, (N, 1, 28, 28); None when they are missing or damaged."""
    tensors = load_tensors(samples_path(folder, kind), kind)
    return None if tensors is None else tensors["images"].numpy()


def results(root: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """What the finished runs of a contest of so many seconds found, by name."""
    paths = run_folder(root, "").glob("*/result.json")
    found = {path.parent.name: read_record(path, path.parent.name) for path in paths}
    lengths = (seconds, seconds / SEARCH_DIVISOR)
    return {
        name: report
        for name, report in found.items()
        if report
        and report["run"]["seconds"] in lengths
        and (not report["run"]["num_samples"] or _has_samples(run_folder(root, name), report))
    }


def _has_samples(folder: Path, report: dict[str, Any]) -> bool:
    """Whether the samples of each kind are there and undamaged."""
    is_known = report.get("samplings", {}).keys() == {*SAMPLINGS}
    return is_known and all(samples_of(folder, kind) is not None for kind in SAMPLINGS)


def losses_of(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Held-out loss by run."""
    return {name: report["validation_loss"] for name, report in found.items()}


def main() -> None:
    """Do all runs that are not done; with `run JSON`, one of them in this process."""
    speak_of_our_own()
    root = project_dir()
    if sys.argv[1:2] == ["run"]:
        run_one(UsualRun(**json.loads(sys.argv[2])), root)
        return
    seconds = float(sys.argv[1]) if sys.argv[1:] else SECONDS
    while run := next_run(losses_of(results(root, seconds)), seconds):
        log.info("begins: %s", run)
        command = [sys.executable, "-m", "bench.usual_model", "run"]
        command.append(json.dumps(dataclasses.asdict(run)))
        subprocess.run(command, cwd=root, env=contest_environment(), check=True)


if __name__ == "__main__":
    run_program("bench.usual_model", main)
