"""Images as PNG: exact pixels, whole files, and the record of what made them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vivero.errors import DataError
from vivero.evaluation.grids import GAP_PX, read_provenance, save_grid, save_image


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_pixels_come_back_as_they_went(tmp_path: Path, num_channels: int):
    image = noise(num_channels, 5, 7)
    save_image(tmp_path / "image.png", image)

    pixels = np.asarray(Image.open(tmp_path / "image.png"))
    expected = image[0] if num_channels == 1 else image.transpose(1, 2, 0)
    assert np.array_equal(pixels, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


def test_the_record_travels_with_the_image(tmp_path: Path):
    record = {"seed": 7, "lineage": {"code_commit": None}, "class_name": "Ärmel"}
    save_image(tmp_path / "image.png", noise(1, 4, 4), record)

    assert read_provenance(tmp_path / "image.png") == record
    assert "vivero" in Image.open(tmp_path / "image.png").text


def test_an_image_without_a_record_says_so(tmp_path: Path):
    save_image(tmp_path / "image.png", noise(1, 4, 4))
    Image.fromarray(noise(4, 4)).save(tmp_path / "other.jpg")
    assert read_provenance(tmp_path / "image.png") is None
    assert read_provenance(tmp_path / "other.jpg") is None


def test_a_file_that_is_no_image_is_refused(tmp_path: Path):
    (tmp_path / "image.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"cannot read .*image\.png.*expected an image made by"):
        read_provenance(tmp_path / "image.png")


@pytest.mark.parametrize("text", ["{", "3"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str):
    info = PngImagePlugin.PngInfo()
    info.add_text("vivero", text)
    Image.fromarray(noise(4, 4)).save(tmp_path / "image.png", pnginfo=info)
    with pytest.raises(DataError, match=r"the record in .*image\.png is damaged"):
        read_provenance(tmp_path / "image.png")


@pytest.mark.parametrize(
    "image",
    [noise(2, 4, 4), noise(4, 4), noise(1, 4, 4).astype(np.float32)],
    ids=["two channels", "no channels", "floats"],
)
def test_what_is_no_image_is_refused_and_leaves_nothing(tmp_path: Path, image: np.ndarray):
    with pytest.raises(ValueError, match="need"):
        save_image(tmp_path / "image.png", image)
    assert list(tmp_path.iterdir()) == []


def test_a_grid_shows_every_image_in_its_place(tmp_path: Path):
    images = noise(5, 3, 64, 60)
    save_grid(images, tmp_path / "grid.png", num_columns=3)

    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 66 + GAP_PX, 3 * 62 + GAP_PX, 3)
    assert np.array_equal(grid[68 : 68 + 64, 64 : 64 + 60], images[4].transpose(1, 2, 0))
    assert (grid[68:, 128:] == 255).all()


def test_small_images_are_enlarged_without_smoothing(tmp_path: Path):
    images = noise(2, 1, 28, 28)
    save_grid(images, tmp_path / "grid.png", num_columns=2)

    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert np.array_equal(grid[2:58:2, 2:58:2], images[0, 0])
    assert np.array_equal(grid[3:58:2, 3:58:2], images[0, 0])


def test_captions_stand_under_their_images(tmp_path: Path):
    images = np.full((2, 1, 56, 56), 255, dtype=np.uint8)
    save_grid(images, tmp_path / "plain.png", 2)
    save_grid(images, tmp_path / "named.png", 2, ["shirt", "a name too long for its image"])

    plain, named = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("plain", "named"))
    assert (plain == 255).all()
    assert named.shape[0] > plain.shape[0]
    assert (named[58:, :58] < 128).any()
    assert (named[58:, 116:] == 255).all()  # cut off inside its own tile


def test_grids_refuse_numbers_that_do_not_fit(tmp_path: Path):
    with pytest.raises(ValueError, match="N >= 1"):
        save_grid(noise(0, 1, 4, 4), tmp_path / "grid.png", 3)
    with pytest.raises(ValueError, match="num_columns >= 1"):
        save_grid(noise(1, 1, 4, 4), tmp_path / "grid.png", 0)
    with pytest.raises(ValueError, match="one caption per image; got 1 for 2"):
        save_grid(noise(2, 1, 4, 4), tmp_path / "grid.png", 2, ["one"])
