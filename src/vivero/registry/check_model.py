"""Does a model work in a process that knows nothing of its training? Run before an alias moves.

    python -m vivero.registry.check_model BUNDLE --num-images 10

Loads the bundle, makes images of all classes in turn with its own settings, and looks at them:
none may be blank, no two the same. Prints one line of JSON and exits with 0, or says why not and
exits with 1.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch

from vivero.errors import BundleError, PromotionError, ViveroError
from vivero.processes import run_program
from vivero.registry.bundle import load_bundle
from vivero.registry.own_images import own_images

MIN_PIXEL_STD = 1.0  # of 255; a blank image has 0


def check_bundle(bundle_dir: Path, num_images: int) -> dict[str, float]:
    """Load a bundle, make images, look at them.

    Returns:
        What was seen: images made, their mean and their least standard deviation, in 0..255.

    Raises:
        BundleError: When the bundle is damaged or its images are blank or all the same.
    """
    images = own_images(load_bundle(bundle_dir), num_images).float()
    least_std = images.flatten(1).std(dim=1).min().item()
    if least_std < MIN_PIXEL_STD:
        raise BundleError(f"the model makes blank images (standard deviation {least_std:.3g})")
    if num_images > 1 and torch.equal(images[0], images[1]):
        raise BundleError("the model makes the same image from different noise")
    return {"num_images": num_images, "mean": images.mean().item(), "least_std": least_std}


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
