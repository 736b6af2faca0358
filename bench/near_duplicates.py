"""How many copies and repetitions are found, and how many real images are called so by mistake?

    python -m bench.near_duplicates                 # needs artifacts/prepare_data of the demo

Real test images are planted in the training data once or several times, and samples are those
images. Models that repeat K test images are compared with real images of equal number. Pixels only.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vivero.data.prepared import open_split
from vivero.evaluation.diversity import LabelledImages, repetition
from vivero.evaluation.intervals import share_estimate
from vivero.evaluation.memorisation import (
    has_near_equal,
    near_equal_distance,
    nearest_training_images,
)
from vivero.evaluation.metrics import as_float

NUM_PLANTED = 200
NUM_HELD_OUT = 2000
NUM_SAMPLES = 5000
DISTINCT = (50, 200, 1000)
Version = Callable[[np.ndarray], np.ndarray]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def resized(images: np.ndarray, side_px: int) -> np.ndarray:
    """Grey images resized to another side and back."""
    back = images.shape[-1]

    def one(image: np.ndarray) -> np.ndarray:
        first = Image.fromarray(image[0]).resize((side_px, side_px), Image.Resampling.BICUBIC)
        return np.asarray(first.resize((back, back), Image.Resampling.BICUBIC))[None]

    return np.stack([one(image) for image in images])


def noisy(images: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Images with normal noise, in units of 1 of 255."""
    return (images + rng.normal(0, std, images.shape)).clip(0, 255).round().astype(np.uint8)


def report_copies(training: np.ndarray, test: np.ndarray, rng: np.random.Generator) -> None:
    """Print false alarms on held-out images, and planted copies that are found."""
    planted, held_out = test[:NUM_PLANTED], as_float(test[NUM_PLANTED:][:NUM_HELD_OUT])
    own = as_float(training)
    distance = near_equal_distance(held_out, own)
    alarms = nearest_training_images(held_out, own, distance).num_copied
    share = share_estimate(alarms, len(held_out))
    _say(
        f"near-equal distance {distance:.3f}; held-out images called copies: {alarms} of "
        f"{len(held_out)}, {share.value:.4f} [{share.low:.4f}, {share.high:.4f}]"
    )
    _say(f"near-equal training images: {int(has_near_equal(own, distance).sum())} of {len(own)}")
    same, up, down = planted, resized(planted, 56), resized(planted, 24)
    for name, copies in (
        ("once", [same]),
        ("twice", [same, same]),
        ("and resized up", [same, up]),
        ("and resized down", [same, down]),
        ("10 times", [same, same, up, up, down, same, same, up, down, same]),
    ):
        rows = torch.cat([own, *map(as_float, copies)])
        found = [
            nearest_training_images(as_float(sample), rows, distance).num_copied
            for sample in (planted, noisy(planted, 2.0, rng))
        ]
        _say(f"planted {name}: {found[0]} of {NUM_PLANTED}, with noise {found[1]}")


def report_repetition(
    train: LabelledImages, test: LabelledImages, rng: np.random.Generator
) -> None:
    """Print the share of near-equal samples of models that repeat K images, with noise."""
    for count in DISTINCT:
        rows = rng.integers(count, size=NUM_SAMPLES)
        images = noisy(test.images[rows], 8.0, rng)
        found = repetition(LabelledImages(images, test.labels[rows]), train, test)
        _say(
            f"{count} distinct images: near-equal share {found.samples.mean():.3f}, "
            f"floor {found.held_out.mean():.3f}"
        )


def main() -> None:
    """Measure on the prepared images of this repository."""
    parser = argparse.ArgumentParser(description="Measure the rules for copies and repetitions.")
    default = Path("artifacts/prepare_data/images")
    parser.add_argument("--images", type=Path, default=default, help="Folder of prepared images.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed for noise and choices.")
    arguments = parser.parse_args()
    train, test = (open_split(arguments.images, name) for name in ("train", "test"))
    rng = np.random.default_rng(arguments.seed)
    report_copies(np.asarray(train.images), np.asarray(test.images), rng)
    sides = (LabelledImages(np.asarray(s.images), np.asarray(s.labels)) for s in (train, test))
    report_repetition(*sides, rng)


if __name__ == "__main__":
    main()
