"""Everything random in training, as a function of (seed, purpose, images seen).

No random state is ever saved: the noise of a batch is drawn for the whole joint batch from its own
generator, and each process takes its slice. A run that was killed, or that goes on with another
number of processes, therefore sees the same noise. Drawn on the CPU, so a GPU sees it as well.

B = images of the joint batch.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SigmaDraw = Callable[[Tensor], Tensor]  # uniform numbers (B,) to noise levels (B,)


@dataclass(frozen=True)
class NoiseDraw:
    """What is random about a batch.

    Attributes:
        noise: Standard normal, shape (B, C, H, W), float32.
        sigma: Noise level of each image, shape (B,), float32, > 0.
        is_unlabelled: Whether an image is trained without its label, shape (B,), bool.
    """

    noise: Tensor
    sigma: Tensor
    is_unlabelled: Tensor

    def __getitem__(self, images: slice) -> "NoiseDraw":
        """The draw of some images of the batch."""
        return NoiseDraw(self.noise[images], self.sigma[images], self.is_unlabelled[images])

    def to(self, device: torch.device) -> "NoiseDraw":
        """The draw on a device."""
        tensors = (self.noise, self.sigma, self.is_unlabelled)
        return NoiseDraw(*(to_device(tensor, device) for tensor in tensors))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a copy to a GPU does not wait."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def generator_at(seed: int, purpose: str, images_seen: int) -> torch.Generator:
    """A generator of its own for each seed, purpose and moment of training; equal everywhere."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{images_seen}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def draw_noise(
    generator: torch.Generator,
    shape: tuple[int, ...],
    draw_sigma: SigmaDraw,
    label_dropout: float,
) -> NoiseDraw:
    """Noise, noise levels and dropped labels of one joint batch of `shape` (B, C, H, W).

    The uniform numbers behind the noise levels are stratified, one in each of B equal parts of
    [0, 1), in random order: each is still uniform, and no batch misses the high or the low noise.
    """
    num_images = shape[0]
    parts = torch.randperm(num_images, generator=generator)
    uniform = (parts + torch.rand(num_images, generator=generator)) / num_images
    return NoiseDraw(
        noise=torch.randn(shape, generator=generator),
        sigma=draw_sigma(uniform),
        is_unlabelled=torch.rand(num_images, generator=generator) < label_dropout,
    )
