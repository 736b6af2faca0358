"""Ways in which images change, with a strength: what the drift tests are tried on.

Pure functions; randomness comes as a generator. Images are uint8, shape (N, C, H, W).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from vivero.evaluation.resize import clean_resized

GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601


@dataclass(frozen=True)
class Shift:
    """One kind of change at one strength.

    Attributes:
        family: Kind: none, blur, noise, brightness, class share, foreign images.
        strength: In the unit of the family.
        unit: What the strength counts.
    """

    family: str
    strength: float
    unit: str

    @property
    def name(self) -> str:
        """For tables and file names."""
        return self.family if self.family == "none" else f"{self.family} {self.strength:g}"


NO_SHIFT = Shift("none", 0.0, "")
UNITS = {
    "blur": "sigma, px",
    "noise": "std of 255",
    "brightness": "factor",
    "class share": "share of one class",
    "class share, no labels": "share of one class",
    "foreign images": "share of digits",
}
STRENGTHS: dict[str, tuple[float, ...]] = {
    "blur": (0.4, 0.6, 1.0),
    "noise": (4.0, 8.0, 16.0),
    "brightness": (0.95, 0.85, 0.7),
    "class share": (0.15, 0.2, 0.4),
    "class share, no labels": (0.15, 0.2, 0.4),
    "foreign images": (0.02, 0.05, 0.2),
}
SHIFTS = tuple(
    Shift(family, strength, UNITS[family])
    for family, strengths in STRENGTHS.items()
    for strength in strengths
)


def blurred(images: np.ndarray, sigma_px: float) -> np.ndarray:
    """Images through a Gaussian filter with mirrored borders; sigma in pixels of the image."""
    radius = max(1, round(3 * sigma_px))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma_px) ** 2)
    taps = taps / taps.sum()
    num_channels = images.shape[1]
    rows = taps.view(1, 1, 1, -1).expand(num_channels, 1, 1, -1)
    padded = functional.pad(
        torch.from_numpy(images.astype(np.float32)), [radius] * 4, mode="reflect"
    )
    across = functional.conv2d(padded, rows, groups=num_channels)
    both = functional.conv2d(across, rows.transpose(2, 3), groups=num_channels)
    made: np.ndarray = both.round().clamp(0, 255).byte().numpy()
    return made


def with_noise(images: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Images with Gaussian noise of a standard deviation in steps of 255."""
    noisy = images + std * rng.standard_normal(images.shape, np.float32)
    made: np.ndarray = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return made


def dimmed(images: np.ndarray, factor: float) -> np.ndarray:
    """Images whose values are multiplied by a factor."""
    return np.clip(np.round(images * np.float32(factor)), 0, 255).astype(np.uint8)


def changed_pixels(images: np.ndarray, shift: Shift, rng: np.random.Generator) -> np.ndarray:
    """Images after a shift of pixels.

    Raises:
        ValueError: When the shift is not one of pixels.
    """
    changes: dict[str, Callable[[], np.ndarray]] = {
        "blur": lambda: blurred(images, shift.strength),
        "noise": lambda: with_noise(images, shift.strength, rng),
        "brightness": lambda: dimmed(images, shift.strength),
    }
    if shift.family not in changes:
        raise ValueError(f"'{shift.family}' changes no pixels; known are {', '.join(changes)}")
    return changes[shift.family]()


def changes_pixels(shift: Shift) -> bool:
    """Whether a shift changes images one by one, and not which images there are."""
    return shift.family in ("blur", "noise", "brightness")


def digits(size_px: int, num_channels: int) -> np.ndarray:
    """The 1,797 handwritten digits of scikit-learn, enlarged: real images of another domain.

    Source:
        Alpaydin and Kaynak 1998, UCI repository, optical recognition of handwritten digits.
    """
    from sklearn.datasets import load_digits

    small = np.round(load_digits().images * 255 / 16).astype(np.uint8)[:, None]
    large = clean_resized(small, size_px)[:, :num_channels]
    made: np.ndarray = large.round().clamp(0, 255).byte().numpy()
    return made


def drawn_rows(
    labels: np.ndarray, shift: Shift, num_images: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of a pool that make a batch: any, or for a class shift one class more often.

    Args:
        labels: Of the pool, int64.
        shift: A shift of classes raises the share of one class, drawn at random, to its strength.
        num_images: Rows wanted.
        rng: Draws.
    """
    if not shift.family.startswith("class share"):
        return rng.choice(len(labels), num_images, replace=False)
    classes = np.unique(labels[labels >= 0])
    favoured = rng.choice(classes)
    num_favoured = rng.binomial(num_images, shift.strength)
    inside, outside = np.flatnonzero(labels == favoured), np.flatnonzero(labels != favoured)
    return np.concatenate(
        [
            rng.choice(inside, num_favoured, replace=num_favoured > len(inside)),
            rng.choice(outside, num_images - num_favoured, replace=False),
        ]
    )
