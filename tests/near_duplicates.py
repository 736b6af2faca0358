"""Smooth random pictures, different from each other, and near-equal versions of them."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

SIDE_PX = 28
Images = np.ndarray


def pictures(num_images: int, seed: int) -> Images:
    """Smooth random images, uint8, shape (N, 1, 28, 28)."""
    coarse = np.random.default_rng(seed).normal(128, 70, (num_images, 5, 5)).clip(0, 255)
    return np.stack([_resized(image.astype(np.uint8), SIDE_PX) for image in coarse])[:, None]


def jpeg(images: Images, quality: int) -> Images:
    """The images, encoded as JPEG and decoded."""
    return np.stack([_from_jpeg(image[0], quality)[None] for image in images])


def resized(images: Images, side_px: int) -> Images:
    """The images, resized to another side and back."""
    return np.stack([_resized(_resized(image[0], side_px), SIDE_PX)[None] for image in images])


def noisy(images: Images, std: float, seed: int = 0) -> Images:
    """The images with noise, in units of 1 of 255."""
    noise = np.random.default_rng(seed).normal(0, std, images.shape)
    return (images + noise).clip(0, 255).round().astype(np.uint8)


def moved(images: Images, seed: int) -> Images:
    """Each image mirrored or not and shifted by up to one pixel, at random."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            np.roll(image[:, :, :: rng.choice([-1, 1])], tuple(rng.integers(-1, 2, 2)), (1, 2))
            for image in images
        ]
    )


VERSIONS: dict[str, Callable[[Images], Images]] = {
    "equal": lambda images: images,
    "jpeg 90": lambda images: jpeg(images, 90),
    "jpeg 75": lambda images: jpeg(images, 75),
    "resized up": lambda images: resized(images, 56),
    "resized down": lambda images: resized(images, 24),
    "noise": lambda images: noisy(images, 2.0),
}


def _resized(image: np.ndarray, side_px: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC))


def _from_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
