"""The Haar tree of an image: an orthonormal split of 2 x 2 pixels into their mean and differences.

White noise stays white under an orthonormal transform, so the coarse part of a noisy image is a
noisy image of half the side with the same noise deviation: one noise draw serves every level.

A level image is in orthonormal scale: at level l it is 2^l times the mean of 2^l x 2^l pixels.
Details are the band that a split takes away: 3C channels, first the horizontal difference of every
colour, then the vertical, then the diagonal.

Letters: B images, C channels, H rows, W columns; h = H / 2, w = W / 2. Pure: no files, no
randomness.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Float
from torch import Tensor

HADAMARD = (
    (1.0, 1.0, 1.0, 1.0),
    (1.0, -1.0, 1.0, -1.0),
    (1.0, 1.0, -1.0, -1.0),
    (1.0, -1.0, -1.0, 1.0),
)


def haar_split(
    images: Float[Tensor, "B C H W"],
) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B 3*C h w"]]:
    """The coarse image and the details of one level; the two together have the same norm.

    coarse = (a + b + c + d) / 2, horizontal = (a - b + c - d) / 2, vertical = (a + b - c - d) / 2,
    diagonal = (a - b - c + d) / 2, where a b are the upper pixels of a square and c d the lower.

    Args:
        images: Shape (B, C, H, W); H and W even.

    Returns:
        coarse, shape (B, C, H/2, W/2), and details, shape (B, 3C, H/2, W/2).

    Raises:
        ValueError: If H or W is odd.

    Source:
        Mallat 1989, IEEE PAMI 11(7), with the filters of Haar.
    """
    height, width = images.shape[-2:]
    if height % 2 or width % 2:
        raise ValueError(f"a split needs even height and width; got {height} x {width}")
    halves = images / 2
    upper, lower = halves[..., ::2, :], halves[..., 1::2, :]
    upper_sum, upper_difference = _sum_and_difference(upper[..., ::2], upper[..., 1::2])
    lower_sum, lower_difference = _sum_and_difference(lower[..., ::2], lower[..., 1::2])
    coarse, vertical = _sum_and_difference(upper_sum, lower_sum)
    horizontal, diagonal = _sum_and_difference(upper_difference, lower_difference)
    return coarse, torch.cat([horizontal, vertical, diagonal], dim=1)


def haar_join(
    coarse: Float[Tensor, "B C h w"], details: Float[Tensor, "B 3*C h w"]
) -> Float[Tensor, "B C H W"]:
    """The inverse of haar_split: the finer image, twice as high and wide, of the same norm."""
    horizontal, vertical, diagonal = (details / 2).chunk(3, dim=1)
    upper_sum, lower_sum = _sum_and_difference(coarse / 2, vertical)
    upper_difference, lower_difference = _sum_and_difference(horizontal, diagonal)
    pixels = (
        *_sum_and_difference(upper_sum, upper_difference),
        *_sum_and_difference(lower_sum, lower_difference),
    )
    return F.pixel_shuffle(torch.stack(pixels, dim=2).flatten(1, 2), 2)


def haar_pool(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """The coarse part of haar_split alone: twice the mean of each 2 x 2 pixels."""
    return 2 * F.avg_pool2d(images, 2)


def haar_pyramid(
    images: Float[Tensor, "B C H W"], num_levels: int
) -> list[Float[Tensor, "B C _ _"]]:
    """The level images of a tree, the images themselves first, the root last.

    Args:
        images: Shape (B, C, H, W); H and W divisible by 2^(num_levels - 1).
        num_levels: At least 1.

    Returns:
        num_levels images in orthonormal scale, shapes (B, C, H / 2^l, W / 2^l).

    Raises:
        ValueError: If num_levels is below 1 or the size does not divide.
    """
    height, width = images.shape[-2:]
    if num_levels < 1 or height % (divisor := 2 ** (num_levels - 1)) or width % divisor:
        raise ValueError(
            f"a tree of L >= 1 levels needs height and width divisible by 2^(L - 1); "
            f"got {num_levels} levels for {height} x {width}"
        )
    levels = [images]
    while len(levels) < num_levels:
        levels.append(haar_pool(levels[-1]))
    return levels


def with_coarse(
    images: Float[Tensor, "B C H W"], coarse: Float[Tensor, "B C _ _"]
) -> Float[Tensor, "B C H W"]:
    """The images with another coarse part, at any depth below; their details stay.

    Args:
        images: Shape (B, C, H, W).
        coarse: A level image of the same tree, shape (B, C, H / 2^k, W / 2^k), k >= 0.

    Returns:
        Shape (B, C, H, W); k times haar_pool gives coarse.
    """
    if images.shape == coarse.shape:
        return coarse
    own_coarse, details = haar_split(images)
    return haar_join(with_coarse(own_coarse, coarse), details)


def haar_rotation() -> Float[Tensor, "4 4"]:
    """The orthonormal 4 x 4 matrix that turns the pixels of a patch, row by row, into channels.

    Returns:
        Shape (4, 4), float32; rows give the coarse pixel and the horizontal, vertical and diagonal
        differences, as haar_split does.
    """
    return torch.tensor(HADAMARD) / 2


def pack_patches(
    images: Float[Tensor, "B C H W"], patch_px: int, rotation: Float[Tensor, "4 4"]
) -> Float[Tensor, "B _ _ _"]:
    """Turn patches of pixels into channels, those of one colour side by side.

    The rotation packs the mean and the differences of the four pixels, so that the channels of
    smooth images differ in scale instead of all saying the same. As a product with a matrix it runs
    in the precision of autocast, as the convolutions around it do; for 4 pixels it is applied
    twice.

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


def unpack_patches(
    packed: Float[Tensor, "B _ _ _"], patch_px: int, rotation: Float[Tensor, "4 4"]
) -> Float[Tensor, "B C H W"]:
    """The inverse of pack_patches: channels back to pixels."""
    while patch_px > 1:
        pixels = torch.einsum("ji,bcjhw->bcihw", rotation, _grouped(packed))
        packed = F.pixel_shuffle(pixels.flatten(1, 2), 2)
        patch_px //= 2
    return packed


def _sum_and_difference(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return one + other, one - other


def _grouped(channels: Tensor) -> Tensor:
    num_images, num_channels, height, width = channels.shape
    return channels.reshape(num_images, num_channels // 4, 4, height, width)
