"""Makes images of any size equal: one square size, one number of channels, uint8."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vivero.data.image_files import Refusal, decode


@dataclass(frozen=True)
class RawImage:
    """The bytes of one image, and the form it shall have."""

    content: bytes
    size_px: int
    num_channels: int


def prepare_image(raw: RawImage) -> np.ndarray | Refusal:
    """Decode, convert, resize and pad; uint8, (C, size_px, size_px)."""
    image = decode(raw.content)
    if isinstance(image, Refusal):
        return image
    return np.ascontiguousarray(square_pixels(image, raw.size_px, raw.num_channels))


def square_pixels(image: Image.Image, size_px: int, num_channels: int) -> np.ndarray:
    """Pixels of an image of mode L or RGB as uint8, (num_channels, size_px, size_px).

    The whole image is kept: it is resized to fit, with its proportions, and the rest is filled
    with the median colour of its border, so that a black ground stays black and a white one white.
    An image that has the size already is not touched. Colour becomes grey by ITU-R 601.
    """
    converted = image.convert("L" if num_channels == 1 else "RGB")
    if converted.size == (size_px, size_px):
        return _channels_first(np.asarray(converted))
    scale = size_px / max(converted.size)
    width, height = (max(1, round(side * scale)) for side in converted.size)
    if (width, height) != converted.size:
        converted = converted.resize((width, height), Image.Resampling.LANCZOS)
    pixels = _channels_first(np.asarray(converted))
    square = np.empty((num_channels, size_px, size_px), np.uint8)
    square[:] = border_colour(pixels)[:, None, None]
    top, left = (size_px - height) // 2, (size_px - width) // 2
    square[:, top : top + height, left : left + width] = pixels
    return square


def border_colour(pixels: np.ndarray) -> np.ndarray:
    """Median of the outermost pixels, a value per channel; (C, H, W) to (C,), uint8."""
    edges = (pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1])
    medians: np.ndarray = np.median(np.concatenate(edges, axis=1), axis=1)
    return medians.astype(np.uint8)


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) to (C, H, W)."""
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
