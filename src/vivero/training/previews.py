"""Images that a model makes while it learns: few, and always from the same seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vivero.diffusion.generation import GenerationSpec, generate
from vivero.diffusion.schedules import NoiseSchedule
from vivero.models.denoisers import AnyDenoiser

MAX_IMAGES = 30
IMAGES_PER_CLASS = 3
SEED = 0
SaveGrid = Callable[[np.ndarray, Path, int], None]  # images, path, number of columns


@dataclass(frozen=True)
class Previews:
    """Makes one grid: a row of images for each class.

    Attributes:
        folder: Where the grids go, one PNG for each moment.
        schedule: Noise levels to sample with.
        spec: How to sample.
        image_shape: (C, H, W).
        device: Where images are made.
        save_grid: Writes images (N, C, H, W), uint8, as a PNG.
    """

    folder: Path
    schedule: NoiseSchedule
    spec: GenerationSpec
    image_shape: tuple[int, int, int]
    device: torch.device
    save_grid: SaveGrid

    def __call__(self, denoiser: AnyDenoiser, images_seen: int) -> Path:
        """Make images and write the grid; returns its path."""
        labels = preview_labels(denoiser.null_label).to(self.device)
        chunks = generate(
            denoiser, self.schedule, self.spec, labels, range(len(labels)), self.image_shape
        )
        path = self.folder / f"{images_seen:010d}.png"
        self.save_grid(torch.cat(list(chunks)).numpy(), path, IMAGES_PER_CLASS)
        return path


PREVIEW = GenerationSpec(  # fixed, so that a change of `sampling` needs no new training
    seed=SEED,
    sampler="dpm_solver_pp_2m",
    num_steps=12,
    guidance=1.5,
    guidance_interval=(0.15, 15.0),
    batch_images=MAX_IMAGES,
)


def preview_labels(num_classes: int) -> torch.Tensor:
    """Labels of the preview, shape (N,), int64: IMAGES_PER_CLASS of each class while they fit.

    Without classes, MAX_IMAGES times the null label 0.
    """
    if num_classes == 0:
        return torch.zeros(MAX_IMAGES, dtype=torch.int64)
    num_rows = min(num_classes, MAX_IMAGES // IMAGES_PER_CLASS)
    return torch.arange(num_rows).repeat_interleave(IMAGES_PER_CLASS)
