"""Making images: every image from its own seed, whatever the batch it is made in.

Letters: B images, C channels, H rows, W columns. Randomness is a function of (seed, index).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from vivero.config.schema import SamplerName
from vivero.diffusion.guidance import Guided, GuidedTree
from vivero.diffusion.hierarchical import sample_hierarchical
from vivero.diffusion.preconditioning import Denoiser
from vivero.diffusion.samplers import SAMPLERS, DrawNoise
from vivero.diffusion.tree_denoiser import TreeDenoiser
from vivero.errors import SamplingError


@runtime_checkable
class SamplingLevels(Protocol):
    """Whatever names the noise levels to visit: a NoiseSchedule, or a scheduler of diffusers."""

    def sampling_sigmas(self, num_steps: int) -> Float[Tensor, " S"]:
        """Noise levels, shape (num_steps + 1,), strictly falling, ending in 0."""


@dataclass(frozen=True)
class GenerationSpec:
    """How images are made.

    Args:
        seed: With an image's index it fixes all of its noise; at least 0.
        sampler: Name in SAMPLERS.
        num_steps: Noise levels visited before 0; Heun passes the network twice for each but one.
        guidance: 1 = none.
        guidance_interval: (low, high) in sigma, between which guidance acts.
        batch_images: Images made at a time; changes no image beyond rounding.
        adaptive_threshold: Of the hierarchical sampler, see there; None = by the schedule alone.
    """

    seed: int
    sampler: SamplerName
    num_steps: int
    guidance: float
    guidance_interval: tuple[float, float]
    batch_images: int
    adaptive_threshold: float | None = None


def image_seed(seed: int, index: int) -> int:
    """Seed of image number index: 63 bits of sha256, so that neighbours have nothing in common."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def to_uint8(images: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
    """Pixels from [-1, 1] to 0..255: the nearest level, what lies outside is cut off."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def generate(
    denoiser: Denoiser | TreeDenoiser,
    schedule: SamplingLevels,
    spec: GenerationSpec,
    labels: Int64[Tensor, " N"],
    indices: Sequence[int],
    image_shape: tuple[int, int, int],
) -> Iterator[UInt8[Tensor, "B C H W"]]:
    """Make images, a batch at a time, so that the caller can show how far it is.

    Args:
        denoiser: The model; guidance is added here.
        schedule: Its noise levels.
        spec: How to sample.
        labels: Class of each image, shape (N,), null_label for none; images are made on their
            device.
        indices: Number of each image, which with spec.seed fixes its noise; length N.
        image_shape: (C, H, W).

    Yields:
        Images in the order of labels, shape (B, C, H, W), uint8, on the CPU; B is
        spec.batch_images but for the last.

    Raises:
        ValueError: If labels and indices differ in length or a label does not exist.
        SamplingError: When the model gives something that is not a finite number, or the sampler
            is hierarchical and the model is not a tree.
    """
    if len(labels) != len(indices):
        raise ValueError(f"need one index per label; got {len(indices)} for {len(labels)}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= denoiser.null_label:
        raise ValueError(
            f"labels must lie in 0..{denoiser.null_label}; "
            f"got {int(labels.min())}..{int(labels.max())}"
        )
    sample = _sample_function(denoiser, spec)
    sigmas = schedule.sampling_sigmas(spec.num_steps)
    for begin in range(0, len(labels), spec.batch_images):
        end = begin + spec.batch_images
        generators = [
            torch.Generator().manual_seed(image_seed(spec.seed, index))
            for index in indices[begin:end]
        ]
        noise = _NoiseOfImages(generators, image_shape, labels.device)
        with torch.inference_mode():
            images = sample(noise(), sigmas, labels[begin:end], noise)
        yield to_uint8(images).cpu()


def _sample_function(
    denoiser: Denoiser | TreeDenoiser, spec: GenerationSpec
) -> Callable[[Tensor, Tensor, Tensor, DrawNoise], Tensor]:
    """The sampler of spec over the guided denoiser."""
    guiding = (spec.guidance, spec.guidance_interval, denoiser.null_label)
    if spec.sampler != "hierarchical":
        return partial(SAMPLERS[spec.sampler], Guided(denoiser, *guiding))
    if not isinstance(denoiser, TreeDenoiser):
        raise SamplingError(
            "the sampler hierarchical needs a model of name: tree, and this one is none; write "
            "sampling.sampler: dpm_solver_pp_2m"
        )
    return partial(
        sample_hierarchical,
        GuidedTree(denoiser, *guiding),
        adaptive_threshold=spec.adaptive_threshold,
    )


@dataclass(frozen=True)
class _NoiseOfImages:
    """Standard normal noise, each image's from its own generator; (B, C, H, W), float32."""

    generators: list[torch.Generator]
    image_shape: tuple[int, int, int]
    device: torch.device

    def __call__(self) -> Float[Tensor, "B C H W"]:
        drawn = [torch.randn(self.image_shape, generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.device)
