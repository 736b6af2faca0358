"""Images of any size become equal squares, and nothing is cut off."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.data.pictures import encoded, picture
from vivero.data.image_files import Refusal
from vivero.data.resizing import RawImage, border_colour, prepare_image, square_pixels


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_of_the_right_size_is_not_touched(mode: str):
    image = picture(1, 24, 24, mode)
    pixels = square_pixels(image, 24, 1 if mode == "L" else 3)
    expected = np.asarray(image)
    assert (pixels == (expected[None] if mode == "L" else expected.transpose(2, 0, 1))).all()


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size_px=st.integers(8, 40),
    mode=st.sampled_from(["L", "RGB"]),
    num_channels=st.sampled_from([1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_every_size_becomes_the_square(width, height, size_px, mode, num_channels):
    pixels = square_pixels(picture(2, width, height, mode), size_px, num_channels)
    assert pixels.shape == (num_channels, size_px, size_px)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("ground", [0, 255, 90])
def test_padding_continues_the_ground(ground: int):
    image = Image.new("L", (40, 20), ground)
    image.paste(200, (10, 5, 30, 15))
    pixels = square_pixels(image, 20, 1)[0]
    assert (pixels[:5] == ground).all()
    assert (pixels[15:] == ground).all()
    assert abs(int(pixels[10, 10]) - 200) <= 10  # Lanczos overshoots a little


def test_grey_becomes_three_equal_channels():
    pixels = square_pixels(picture(3, 16, 16, "L"), 16, 3)
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[0] == pixels[2]).all()


def test_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    pixels = square_pixels(Image.fromarray(stripes), 16, 1)[0, 4:-4, 4:-4]
    assert np.abs(pixels.astype(int) - 127).max() < 12


def test_border_colour_is_the_median_of_each_channel():
    pixels = np.zeros((3, 5, 5), np.uint8)
    pixels[0] = 9
    pixels[1, 0] = 200
    assert border_colour(pixels).tolist() == [9, 0, 0]


def test_what_cannot_be_decoded_is_a_refusal():
    assert isinstance(prepare_image(RawImage(b"no", 16, 1)), Refusal)
    prepared = prepare_image(RawImage(encoded(picture(4)), 16, 3))
    assert not isinstance(prepared, Refusal)
    assert prepared.shape == (3, 16, 16)
