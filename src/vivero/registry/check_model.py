"""Does a model work in a process that knows nothing of its training? Run before an alias moves.

    python -m vivero.registry.check_model BUNDLE --num-images 10

Loads the bundle, makes pairs of images, each pair of one class from different noise, with the
bundle's own settings, and compares them all: none may be blank, no two nearly equal. Prints one
line of JSON and exits with 0, or says why not and exits with 1.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vivero.errors import BundleError, PromotionError, ViveroError
from vivero.processes import run_program
from vivero.registry.bundle import load_bundle
from vivero.registry.own_images import own_images

MIN_PIXEL_STD = 1.0  # of 255; a blank image has 0
MIN_DIFFERENCE = 0.1  # see least_difference; of 500 sets of 20 real images the least was 0.19
IMAGES_PER_CLASS = 2  # from different noise


def check_bundle(bundle_dir: Path, num_images: int) -> dict[str, float]:
    """Load a bundle, make images, compare them.

    Args:
        bundle_dir: The bundle.
        num_images: Images to make, at least 2; twice as many as classes show every class.

    Returns:
        What was seen: images made, their mean and their least standard deviation, in 0..255, and
        the least difference of two images, as `least_difference` computes it.

    Raises:
        BundleError: When the bundle is damaged, or its images are blank or nearly equal.
    """
    bundle = load_bundle(bundle_dir)
    labels = torch.arange(num_images) // IMAGES_PER_CLASS % max(1, len(bundle.class_names))
    images = own_images(bundle, num_images, labels=labels).float()
    least_std = images.flatten(1).std(dim=1).min().item()
    if least_std < MIN_PIXEL_STD:
        raise BundleError(f"the model makes blank images (standard deviation {least_std:.3g})")
    difference, first, second = least_difference(images)
    if difference < MIN_DIFFERENCE:
        raise BundleError(
            f"the model makes nearly the same image from different noise: images {first} and "
            f"{second} differ by {difference:.2g} of how much their pixels vary, and the least "
            f"that is allowed is {MIN_DIFFERENCE}"
        )
    return {
        "num_images": num_images,
        "mean": images.mean().item(),
        "least_std": least_std,
        "least_difference": difference,
    }


def least_difference(images: Float[Tensor, "N C H W"]) -> tuple[float, int, int]:
    """The two images of all pairs that differ least, and by how much.

    difference[i, j] = rms(image_i - image_j) / rms(deviations of both from their means)

    Two unrelated images have about sqrt(2) or more; equal ones have 0.

    Args:
        images: Shape (N, C, H, W), N >= 2; none of them blank.

    Returns:
        The difference, and the places of the two images.
    """
    rows = images.flatten(1)
    variances = rows.var(dim=1, correction=0)
    mean_variances = (variances[:, None] + variances) / 2
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    differences = distances / (rows.shape[1] * mean_variances).sqrt()
    differences.fill_diagonal_(torch.inf)
    first, second = divmod(int(differences.argmin()), len(rows))
    return float(differences[first, second]), first, second


def check_in_clean_process(bundle_dir: Path, num_images: int, timeout_s: int) -> dict[str, float]:
    """Run `check_bundle` in a process of its own.

    Raises:
        PromotionError: When it fails or takes too long, with what it said.
    """
    command = [
        *(sys.executable, "-m", "vivero.registry.check_model", str(bundle_dir)),
        *("--num-images", str(num_images)),
    ]
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PromotionError(
            f"the model made no {num_images} images within {timeout_s} s in a clean process; the "
            f"champion is unchanged. promote.check_timeout_s in params.yaml sets the time"
        ) from error
    if result.returncode:
        said = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PromotionError(
            f"the model does not work in a clean process, so the champion is unchanged: {said}"
        )
    return dict(json.loads(result.stdout))


def main() -> None:
    """Check one bundle from the command line."""
    parser = argparse.ArgumentParser(description="Load a bundle and make images.")
    parser.add_argument("bundle_dir", type=Path)
    parser.add_argument("--num-images", type=int, default=10)
    arguments = parser.parse_args()
    try:
        seen = check_bundle(arguments.bundle_dir, arguments.num_images)
    except ViveroError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    run_program("check_model", main)
