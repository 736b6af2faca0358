"""Patches as channels: an orthonormal Haar (Hadamard) rotation of 2 x 2 pixels.

A patch of p x p pixels becomes p^2 channels and the image p times smaller, with nothing lost. The
rotation packs the mean and the differences of the four pixels, so that the channels of smooth
images differ in scale instead of all saying the same. For p = 4 it is applied twice.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

HADAMARD = (
    (1.0, 1.0, 1.0, 1.0),
    (1.0, -1.0, 1.0, -1.0),
    (1.0, 1.0, -1.0, -1.0),
    (1.0, -1.0, -1.0, 1.0),
)


def haar_rotation() -> Tensor:
    """The orthonormal 4 x 4 matrix that turns the pixels of a patch, row by row, into channels.

    Returns:
        Shape (4, 4), float32; rows give the sum and the horizontal, vertical and diagonal
        differences, each halved.
    """
    return torch.tensor(HADAMARD) / 2


def pack_patches(images: Tensor, patch_px: int, rotation: Tensor) -> Tensor:
    """Turn patches of pixels into channels.

    Args:
        images: Shape (B, C, H, W); H and W divisible by patch_px.
        patch_px: 1, 2 or 4.
        rotation: What haar_rotation returns.

    Returns:
        Shape (B, C * patch_px^2, H / patch_px, W / patch_px); the same norm.
    """
    while patch_px > 1:
        pixels = _grouped(F.pixel_unshuffle(images, 2))
        images = torch.einsum("ij,bcjhw->bcihw", rotation, pixels).flatten(1, 2)
        patch_px //= 2
    return images


def unpack_patches(packed: Tensor, patch_px: int, rotation: Tensor) -> Tensor:
    """The inverse of pack_patches: channels back to pixels."""
    while patch_px > 1:
        pixels = torch.einsum("ji,bcjhw->bcihw", rotation, _grouped(packed))
        packed = F.pixel_shuffle(pixels.flatten(1, 2), 2)
        patch_px //= 2
    return packed


def _grouped(channels: Tensor) -> Tensor:
    num_images, num_channels, height, width = channels.shape
    return channels.reshape(num_images, num_channels // 4, 4, height, width)
