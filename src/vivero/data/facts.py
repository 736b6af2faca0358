"""What the manifest records of an image: the hash of its pixels, its size and its brightness."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vivero.data.image_files import Refusal, decode


@dataclass(frozen=True)
class ImageFacts:
    """Facts of one decoded image.

    pixel_sha256 is equal for equal pixels, whatever file format or mode held them: a colour image
    whose channels agree counts as grey. mean and std are over all pixels and channels, 0 to 255.
    """

    pixel_sha256: str
    width_px: int
    height_px: int
    mode: str
    num_bytes: int
    mean: float
    std: float


def inspect_image(content: bytes, file_name: str | None = None) -> ImageFacts | Refusal:
    """Decode the bytes of a shard's row, or of a file with this name, and record what they show."""
    image = decode(content, file_name)
    if isinstance(image, Refusal):
        return image
    try:
        return _facts(image, len(content))
    except MemoryError:
        return Refusal("decompression_bomb", "looking at it needs more memory than a worker has")


def _facts(image: Image.Image, num_bytes: int) -> ImageFacts:
    width, height = image.size
    mean, std = _mean_and_std(image)
    return ImageFacts(
        pixel_sha256=pixel_sha256(image),
        width_px=width,
        height_px=height,
        mode=image.mode,
        num_bytes=num_bytes,
        mean=round(mean, 4),
        std=round(std, 4),
    )


def pixel_sha256(image: Image.Image) -> str:
    """Hex sha256 over size and pixels of an image of mode L or RGB: the one name of its pixels."""
    pixels, num_channels = _shortest(image)
    return _sha256(f"{image.width}x{image.height}x{num_channels}:", pixels)


def pixel_hashes(image: Image.Image) -> tuple[str, str]:
    """`pixel_sha256`, then the hash by which images made with Vivero 0.1 are recorded."""
    pixels, num_channels = _shortest(image)
    former = _sha256(f"{image.height}x{image.width}x{num_channels}\n", pixels)
    return pixel_sha256(image), former


def _shortest(image: Image.Image) -> tuple[np.ndarray, int]:
    """The pixels without what repeats, and the number of channels: 1 where there is no colour."""
    pixels = np.asarray(image)
    if is_grey(pixels):
        pixels = pixels.reshape(*pixels.shape[:2], -1)[:, :, 0]
    return pixels, 1 if pixels.ndim == 2 else 3


def _sha256(size: str, pixels: np.ndarray) -> str:
    digest = hashlib.sha256(size.encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def is_grey(pixels: np.ndarray) -> bool:
    """Whether an image of shape (H, W) or (H, W, 3) has no colour."""
    if pixels.ndim == 2:
        return True
    return bool((pixels == pixels[:, :, :1]).all())


def _mean_and_std(image: Image.Image) -> tuple[float, float]:
    """Over all pixels and channels, from the 256 counts: exact, and without a copy of the image."""
    counts = np.array(image.histogram(), np.float64).reshape(-1, 256).sum(axis=0)
    values = np.arange(256)
    mean = counts @ values / counts.sum()
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
