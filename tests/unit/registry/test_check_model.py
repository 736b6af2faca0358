"""The check before an alias moves: no blank images, none nearly equal, whatever the noise."""

from pathlib import Path

import pytest
import torch

from tests.model_versions import make_artifacts
from vivero.config.schema import Config
from vivero.errors import BundleError
from vivero.registry.bundle import BundleContents, load_bundle, write_bundle
from vivero.registry.check_model import MIN_DIFFERENCE, check_bundle, least_difference

WHITE = torch.tensor([100.0, 0.0, 0.0, 0.0])  # the coarse half alone, so great that pixels saturate
PATTERN = torch.tensor([0.0, 0.0, 0.0, 600.0])  # one kind of details alone, likewise


def bundle_with_head(root: Path, config: Config, pattern: torch.Tensor) -> Path:
    """A model whose network answers with one pattern for every input."""
    make_artifacts(root, config)
    bundle = load_bundle(root / "artifacts" / "sample" / "bundle")
    weights = dict(bundle.network.state_dict())
    for place in ("finest.head", "finest.child.head"):
        bias = weights[f"{place}.bias"]
        weights[f"{place}.gain"] = torch.zeros_like(weights[f"{place}.gain"])
        weights[f"{place}.bias"] = torch.zeros_like(bias)
    weights["finest.head.bias"][:4] = pattern
    weights["finest.child.head.bias"][0] = pattern[0]
    lineage = bundle.lineage.values()
    contents = BundleContents(weights, bundle.config.model_dump(), lineage, "# One image\n")
    write_bundle(root / "collapsed", contents)
    return root / "collapsed"


def test_a_model_that_answers_to_its_noise_passes(tmp_path: Path, tiny_config: Config):
    make_artifacts(tmp_path, tiny_config)
    seen = check_bundle(tmp_path / "artifacts" / "sample" / "bundle", num_images=6)
    assert seen["least_difference"] > MIN_DIFFERENCE


@pytest.mark.parametrize("num_images", [2, 3, 6])
def test_a_model_that_ignores_its_noise_is_refused(
    tmp_path: Path, tiny_config: Config, num_images: int
):
    bundle_dir = bundle_with_head(tmp_path, tiny_config, PATTERN)
    with pytest.raises(BundleError, match=r"nearly the same image from different noise: images"):
        check_bundle(bundle_dir, num_images)


def test_a_model_that_makes_blank_images_is_refused(tmp_path: Path, tiny_config: Config):
    bundle_dir = bundle_with_head(tmp_path, tiny_config, WHITE)
    with pytest.raises(BundleError, match="blank images"):
        check_bundle(bundle_dir, num_images=2)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 5), (4, 5)])
@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_two_nearly_equal_images_are_found_wherever_they_are(first: int, second: int, noise: float):
    generator = torch.Generator().manual_seed(0)
    images = 60 * torch.randn(6, 1, 8, 8, generator=generator) + 128
    assert least_difference(images)[0] > 1
    images[second] = images[first] + noise * torch.randn(1, 8, 8, generator=generator)
    difference, one, two = least_difference(images)
    assert difference < MIN_DIFFERENCE
    assert (one, two) == (first, second)


def test_the_difference_is_a_share_of_how_much_the_pixels_vary():
    image = torch.tensor([[0.0, 10.0], [0.0, 10.0]])
    images = torch.stack([image, image.flip(1)])[:, None]
    assert least_difference(images)[0] == pytest.approx(10 / 5)
    assert least_difference(images / 100 + 7)[0] == pytest.approx(10 / 5, rel=1e-4)
