"""What a sampler does with a model: images, passes, time, and distance from the flow's solution.

The probability-flow equation dx / dsigma = (x - denoised) / sigma turns each noise into one image.
A deterministic sampler solves it in few steps; the converged solution is that of so many steps
that more change nothing that matters, and their distance is the sampler's error, free of the
error of the model. Letters: N images, C channels, H rows, W columns.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from vivero.diffusion.generation import GenerationSpec, SamplingLevels, generate, image_seed
from vivero.diffusion.guidance import Guided
from vivero.diffusion.samplers import SAMPLERS
from vivero.evaluation.sampler_comparison import Cell
from vivero.models.denoisers import AnyDenoiser

CONVERGED = Cell("heun", 256)
HALF_CONVERGED = Cell("heun", 128)
NUM_TIMED_PASSES = 5

Advance = Callable[[int], object]  # is told how many passes of one image were done


@dataclass(frozen=True)
class Subject:
    """A model, and how it is asked for images.

    Attributes:
        network: What is counted and timed; on the device of labels.
        denoiser: What the samplers call; its network is network.
        schedule: Its noise levels.
        image_shape: (C, H, W).
        labels: Class of each image, shape (N,), int64.
        seed: Of the noise.
        guidance: 1 = none.
        guidance_interval: (low, high) in sigma.
        batch_images: Images made at a time.
        adaptive_threshold: Of the hierarchical sampler.
    """

    network: nn.Module
    denoiser: AnyDenoiser
    schedule: SamplingLevels
    image_shape: tuple[int, int, int]
    labels: Tensor
    seed: int
    guidance: float
    guidance_interval: tuple[float, float]
    batch_images: int
    adaptive_threshold: float | None = None


@dataclass(frozen=True)
class Made:
    """Images of a cell: uint8, (N, C, H, W); evaluations and milliseconds for one of them."""

    images: np.ndarray
    evaluations: float
    ms_per_image: float


@dataclass(frozen=True)
class Converged:
    """The solution of the flow: images, float32, (N, C, H, W), and how sure it is.

    Attributes:
        images: From CONVERGED.num_steps steps.
        uncertainty: Root mean square distance from half as many steps. A method of second order
            errs by a third of it, one of first order, which a guidance interval can make of it, by
            all of it.
    """

    images: Tensor
    uncertainty: float


def made_images(subject: Subject, cell: Cell, num_images: int, advance: Advance) -> Made:
    """Make the first num_images images with a sampler, as `vivero sample` does.

    Raises:
        SamplingError: When the sampler diverges; with step, sigma and value.
    """
    spec = GenerationSpec(
        seed=subject.seed,
        sampler=cell.sampler,
        num_steps=cell.num_steps,
        guidance=subject.guidance,
        guidance_interval=subject.guidance_interval,
        batch_images=subject.batch_images,
        adaptive_threshold=subject.adaptive_threshold,
    )
    labels = subject.labels[:num_images]
    batches, seconds = [], []
    with _counted_images(subject.network) as num_passed:
        begin = time.perf_counter()
        for images in generate(
            subject.denoiser,
            subject.schedule,
            spec,
            labels,
            range(len(labels)),
            subject.image_shape,
        ):
            end = time.perf_counter()
            seconds.append((end - begin) / len(images))
            batches.append(images)
            advance(cell.num_passes * len(images))
            begin = time.perf_counter()
    whole = [s for s, b in zip(seconds, batches, strict=True) if len(b) == len(batches[0])]
    return Made(
        images=torch.cat(batches).numpy(),
        evaluations=num_passed[0] / len(labels),
        ms_per_image=1e3 * median(whole),
    )


def flow_images(subject: Subject, cell: Cell, num_images: int) -> Tensor:
    """Images of a deterministic sampler before they are rounded, float32, (N, C, H, W), on the CPU.

    They start from the same noise as those of made_images.
    """
    guided = Guided(
        subject.denoiser,
        subject.guidance,
        subject.guidance_interval,
        subject.denoiser.null_label,
    )
    sigmas = subject.schedule.sampling_sigmas(cell.num_steps)
    labels = subject.labels[:num_images]
    parts = []
    for begin in range(0, len(labels), subject.batch_images):
        part = labels[begin : begin + subject.batch_images]
        noise = torch.stack([_noise(subject, begin + row) for row in range(len(part))])
        with torch.inference_mode():
            solve = SAMPLERS[cell.sampler]
            parts.append(solve(guided, noise.to(labels.device), sigmas, part, _no_noise).cpu())
    return torch.cat(parts)


def divergence(subject: Subject, cell: Cell, made: np.ndarray, solution: Tensor) -> float | None:
    """How far a sampler's images are from the solution of the flow; None where it follows none.

    Args:
        subject: The model.
        cell: The sampler and its steps.
        made: Its images as made_images gives them.
        solution: The converged images, float32, shape (N, C, H, W).

    Returns:
        Root mean square distance of pixels in [-1, 1]; see ABOUT_DIVERGENCE.
    """
    if not cell.has_divergence:
        return None
    if cell.sampler in SAMPLERS:
        return rms_distance(flow_images(subject, cell, len(solution)), solution)
    images = torch.from_numpy(made[: len(solution)]).float() / 127.5 - 1
    return rms_distance(images, solution.clamp(-1, 1))


def converged_solution(subject: Subject, num_images: int) -> Converged:
    """The flow solved in very many steps, and how much half of them would change."""
    images = flow_images(subject, CONVERGED, num_images)
    return Converged(images, rms_distance(images, flow_images(subject, HALF_CONVERGED, num_images)))


def rms_distance(first: Tensor, second: Tensor) -> float:
    """Root mean square difference of two sets of images of equal shape, over all their pixels."""
    return float((first.double() - second.double()).square().mean().sqrt())


def full_evaluation_ms(subject: Subject) -> float:
    """Milliseconds of one evaluation of one image at the least noise, where a tree is finest.

    In a batch of batch_images without guidance, the median of a few; what a pass costs.
    """
    count = min(subject.batch_images, len(subject.labels))
    labels = subject.labels[:count]
    noisy = torch.stack([_noise(subject, row) for row in range(count)]).to(labels.device)
    sigma = noisy.new_full((count,), subject.schedule.sampling_sigmas(2)[-2].item())
    seconds = []
    for _ in range(1 + NUM_TIMED_PASSES):  # the first one warms up
        begin = time.perf_counter()
        with torch.inference_mode():
            subject.denoiser(noisy, sigma, labels).cpu()  # waits for a GPU
        seconds.append(time.perf_counter() - begin)
    return 1e3 * median(seconds[1:]) / count


def _noise(subject: Subject, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(image_seed(subject.seed, index))
    return torch.randn(subject.image_shape, generator=generator)


def _no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


@contextmanager
def _counted_images(network: nn.Module) -> Iterator[list[int]]:
    """Count the images that pass through a network, in the one entry of the list."""
    num_passed = [0]

    def count(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        num_passed[0] += len(arguments[1])  # the noise condition, one for each image

    handle = network.register_forward_pre_hook(count)
    try:
        yield num_passed
    finally:
        handle.remove()
