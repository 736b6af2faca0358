"""The rules of the contest against the usual model: time, held-out images and how errors count.

Time is processor time: a contestant trains until its process has used CORES x seconds of it, data
loading included, so that what else the machine does takes nothing from anyone. Noise levels are
those of DDPM's own timesteps, so that a model which knows no others is asked for nothing between.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir
from vivero.config.schema import Config
from vivero.data.prepared import PreparedSplit, open_split, read_card
from vivero.data.shards import Split
from vivero.diffusion.weights import edm_weight
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.denoising import BATCH_IMAGES, Denoise, NoiseBank, held_out_bank
from vivero.processes import TUNING

CORES = 2
SECONDS = 600  # of both cores; how long a contestant trains
NUM_SEARCH_IMAGES = 256  # of the validation split, by which settings and weights are picked


class Clock:
    """Processor time of this process since the clock began, against what may be used.

    Args:
        seconds: The budget, in seconds of CORES cores.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begin()

    def begin(self) -> None:
        """Begin, or begin anew."""
        self._began_cpu_s, self._began_at = time.process_time(), time.perf_counter()

    @property
    def cpu_s(self) -> float:
        """Processor time used, of all threads."""
        return time.process_time() - self._began_cpu_s

    @property
    def share(self) -> float:
        """Share of the budget that is used; 1 and more when it is spent."""
        return self.cpu_s / CORES / self.seconds

    def used_for(self, num_images: int) -> dict[str, float]:
        """What so many images took: num_images, cpu_s, wall_s, images_per_s (of all cores)."""
        cpu_s, wall_s = self.cpu_s, time.perf_counter() - self._began_at
        images_per_s = num_images * CORES / cpu_s
        used = {"num_images": num_images, "cpu_s": cpu_s, "wall_s": wall_s}
        return {**used, "images_per_s": images_per_s}


def contest_environment() -> dict[str, str]:
    """The environment of every contestant: two threads, memory and waiting as our stages have."""
    return {**os.environ, **TUNING, "OMP_NUM_THREADS": str(CORES)}


def images_of(root: Path, split: Split) -> PreparedSplit:
    """One split of the prepared images."""
    return open_split(artifacts_dir(root, "prepare_data") / "images", split)


def contest_bank(root: Path, split: Split, num_images: int | None, sigmas: Tensor) -> NoiseBank:
    """The product's own bank of held-out images, at the nearest of some noise levels.

    Args:
        root: Top of the repository.
        split: Which images; "validation" is for choosing, "test" for the verdict.
        num_images: How many; None = as many as the product's evaluation takes.
        sigmas: Noise levels that a contestant knows, shape (T,), rising.
    """
    config = load_config(root / PARAMS)
    card = read_card(artifacts_dir(root, "prepare_data") / "images")
    settings = config.evaluate
    if num_images is not None:
        settings = settings.model_copy(update={"num_denoising_images": num_images})
    bank = held_out_bank(images_of(root, split), settings, len(card.class_names))
    nearest = [(sigmas.log() - level).abs().argmin() for level in bank.sigmas.log()]
    return replace(bank, sigmas=sigmas[torch.stack(nearest)])


def denoising_rows(denoise: Denoise, bank: NoiseBank, config: Config) -> list[dict[str, float]]:
    """Mean squared error of denoised at each level of the bank, one row a level.

    Keys: sigma; mse; mse_clipped, after denoised was clipped to [-1, 1], the range of images, as
    samplers do; edm, mse by EDM's weight; edm_clipped.
    """
    rows = []
    for level, sigma in enumerate(bank.sigmas.tolist()):
        errors = torch.cat(list(_errors_of_level(denoise, bank, level, sigma))).mean(dim=0)
        weight = edm_weight(torch.tensor([sigma]), config.train.diffusion.sigma_data).item()
        mse, mse_clipped = errors.tolist()
        row = {"sigma": sigma, "mse": mse, "mse_clipped": mse_clipped}
        rows.append({**row, "edm": weight * mse, "edm_clipped": weight * mse_clipped})
    return rows


def _errors_of_level(
    denoise: Denoise, bank: NoiseBank, level: int, sigma: float
) -> Iterator[Tensor]:
    noisy = bank.clean + sigma * bank.noise(level)
    yield from spread_over_cores(
        partial(_errors, denoise, noisy, bank, sigma), range(0, len(noisy), BATCH_IMAGES)
    )


@torch.inference_mode()
def _errors(denoise: Denoise, noisy: Tensor, bank: NoiseBank, sigma: float, start: int) -> Tensor:
    """Squared error of each image as it is and clipped, shape (B, 2)."""
    rows = slice(start, start + BATCH_IMAGES)
    levels = torch.full((len(noisy[rows]),), sigma)
    denoised = denoise(noisy[rows], levels, bank.labels[rows])
    errors = [image - bank.clean[rows] for image in (denoised, denoised.clamp(-1, 1))]
    return torch.stack([error.square().mean(dim=(1, 2, 3)) for error in errors], dim=1)


def mean_loss(rows: list[dict[str, float]]) -> float:
    """One figure for choosing: EDM's loss over all levels, clipped as samplers clip."""
    return sum(row["edm_clipped"] for row in rows) / len(rows)
