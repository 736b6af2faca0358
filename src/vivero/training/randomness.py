"""Everything random in training, as a function of (seed, purpose, images seen).

No random state is ever saved: noise levels and dropped labels are drawn for the whole joint batch
from its own generator, and the noise of every lot of 16 images from one of its own. Each process
draws the lots that it needs, so that a run that was killed, or that goes on with another number of
processes, sees the same noise, and drawing it costs no more with many processes than with one.
Drawn on the CPU, so a GPU sees it as well.

B = images of the joint batch.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SigmaDraw = Callable[[Tensor], Tensor]  # uniform numbers (B,) to noise levels (B,)
LOT_IMAGES = 16


@dataclass(frozen=True)
class NoiseDraw:
    """What is random about some images of a batch.

    Attributes:
        noise: Standard normal, shape (B, C, H, W), float32.
        sigma: Noise level of each image, shape (B,), float32, > 0.
        is_unlabelled: Whether an image is trained without its label, shape (B,), bool.
    """

    noise: Tensor
    sigma: Tensor
    is_unlabelled: Tensor

    def __getitem__(self, images: slice) -> "NoiseDraw":
        """The draw of some of the images."""
        return NoiseDraw(self.noise[images], self.sigma[images], self.is_unlabelled[images])

    def to(self, device: torch.device) -> "NoiseDraw":
        """The draw on a device."""
        tensors = (self.noise, self.sigma, self.is_unlabelled)
        return NoiseDraw(*(to_device(tensor, device) for tensor in tensors))


@dataclass(frozen=True)
class Moment:
    """What names a joint batch.

    Attributes:
        seed: Of the run.
        purpose: What the noise is for, such as "train".
        begin: Images seen before the batch.
    """

    seed: int
    purpose: str
    begin: int


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a copy to a GPU does not wait."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def generator_at(moment: Moment) -> torch.Generator:
    """A generator of its own for each seed, purpose and moment of training; equal everywhere."""
    name = f"{moment.seed}/{moment.purpose}/{moment.begin}"
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def draw_noise(
    moment: Moment,
    shape: tuple[int, ...],
    images: slice,
    draw_sigma: SigmaDraw,
    label_dropout: float,
) -> NoiseDraw:
    """Noise, noise levels and dropped labels of some images of a joint batch.

    The uniform numbers behind the noise levels are stratified, one in each of B equal parts of
    [0, 1), in random order: each is still uniform, and no batch misses the high or the low noise.

    Args:
        moment: Names the joint batch.
        shape: (B, C, H, W) of the joint batch.
        images: Which of its images, as a range within [0, B).
        draw_sigma: From uniform numbers to noise levels.
        label_dropout: Share of images without their label.
    """
    generator, num_images = generator_at(moment), shape[0]
    parts = torch.randperm(num_images, generator=generator)
    uniform = (parts + torch.rand(num_images, generator=generator)) / num_images
    is_unlabelled = torch.rand(num_images, generator=generator) < label_dropout
    noise = _noise_of(moment, shape[1:], images)
    return NoiseDraw(noise, draw_sigma(uniform)[images], is_unlabelled[images])


def _noise_of(moment: Moment, image_shape: tuple[int, ...], images: slice) -> Tensor:
    first_lot, end_lot = images.start // LOT_IMAGES, -(-images.stop // LOT_IMAGES)
    lots = [
        torch.randn(
            (LOT_IMAGES, *image_shape),
            generator=generator_at(
                Moment(moment.seed, f"{moment.purpose}/lot {lot}", moment.begin)
            ),
        )
        for lot in range(first_lot, end_lot)
    ]
    offset = first_lot * LOT_IMAGES
    return torch.cat(lots)[images.start - offset : images.stop - offset]
