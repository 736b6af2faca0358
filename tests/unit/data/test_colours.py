"""Colours are those of a screen: by the definitions of the colour spaces, not by our own code."""

import struct

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.pictures import encoded, picture, png_chunk
from tests.unit.data.profiles import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    grey_profile,
    rgb_profile,
    shown_on_screen,
)
from vivero.data.image_files import Refusal, decode

PICTURE = picture(1)
PIXELS = np.asarray(PICTURE)
SRGB_CHRM = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_CHRM = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


def pixels_of(content: bytes) -> np.ndarray:
    image = decode(content)
    assert isinstance(image, Image.Image), image
    return np.asarray(image)


def with_chunks(image: Image.Image = PICTURE, **chunks: bytes) -> bytes:
    content = encoded(image)
    return (
        content[:33]
        + b"".join(png_chunk(k.encode(), v) for k, v in chunks.items())
        + (content[33:])
    )


def assert_shown(got: np.ndarray, pixels: np.ndarray, primaries: tuple, gamma: float) -> None:
    expected = shown_on_screen(pixels, primaries, gamma)
    assert np.abs(got - expected).max() <= 1.6
    assert np.abs(got - pixels.astype(int)).max() > 8, "the profile must make a difference"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("primaries", [ADOBE_RGB, DISPLAY_P3])
def test_the_colours_of_a_profile_become_srgb(kind: str, primaries: tuple):
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(PICTURE, kind, icc_profile=rgb_profile(primaries, 2.19921875), **options)
    assert_shown(pixels_of(content), PIXELS, primaries, 2.19921875)


def test_a_jpeg_with_a_profile_becomes_srgb():
    flat = Image.new("RGB", (16, 16), (200, 80, 40))
    content = encoded(flat, "JPEG", quality=100, icc_profile=rgb_profile(ADOBE_RGB, 2.19921875))
    plain = pixels_of(encoded(flat, "JPEG", quality=100))
    assert_shown(pixels_of(content), plain, ADOBE_RGB, 2.19921875)


@pytest.mark.parametrize("profile", [grey_profile(1.8), rgb_profile(SRGB, 1.8)])
def test_grey_with_a_profile_stays_grey(profile: bytes):
    grey = picture(2, mode="L")
    got = pixels_of(encoded(grey, icc_profile=profile))
    assert got.ndim == 2
    colours = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    expected = shown_on_screen(colours, SRGB, round(1.8 * 256) / 256)[..., 0]
    assert np.abs(got - expected).max() <= 1.6


@pytest.mark.parametrize("profile", [b"no profile", b"", grey_profile(1.8)])
def test_a_profile_that_is_broken_or_of_other_colours_counts_as_none(profile: bytes):
    assert (pixels_of(encoded(PICTURE, "TIFF", icc_profile=profile)) == PIXELS).all()


def test_a_profile_that_is_srgb_changes_no_pixel():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (pixels_of(encoded(PICTURE, icc_profile=profile)) == PIXELS).all()


def test_transparency_is_composited_after_the_colours_are_converted():
    image = Image.new("RGBA", (4, 4), (200, 80, 40, 128))
    got = pixels_of(encoded(image, icc_profile=rgb_profile(ADOBE_RGB, 2.19921875)))
    shown = shown_on_screen(np.array([200, 80, 40]), ADOBE_RGB, 2.19921875)
    assert np.abs(got - (shown * 128 + 255 * 127) / 255).max() <= 1.6


def test_a_palette_with_a_profile_becomes_srgb():
    palette = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE)
    got = pixels_of(encoded(palette, icc_profile=rgb_profile(ADOBE_RGB, 2.19921875)))
    assert_shown(got, np.asarray(palette.convert("RGB")), ADOBE_RGB, 2.19921875)


def test_gamma_beside_primaries_is_a_curve_of_its_own():
    content = with_chunks(gAMA=struct.pack(">I", 45455), cHRM=SRGB_CHRM)
    got, expected = pixels_of(content), shown_on_screen(PIXELS, SRGB, 100_000 / 45455)
    assert np.abs(got - expected).max() <= 0.6
    assert (got != PIXELS).any()


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": struct.pack(">I", 45455)},
        {"cHRM": ADOBE_CHRM},
        {"sRGB": b"\0", "gAMA": struct.pack(">I", 45455), "cHRM": SRGB_CHRM},
        {"cICP": bytes((1, 13, 0, 1))},
    ],
)
def test_what_means_srgb_changes_no_pixel(chunks: dict[str, bytes]):
    assert (pixels_of(with_chunks(**chunks)) == PIXELS).all()


@pytest.mark.parametrize(
    "chunks",
    [
        {"gAMA": struct.pack(">I", 100_000)},
        {"gAMA": struct.pack(">I", 0), "cHRM": SRGB_CHRM},
        {"gAMA": struct.pack(">I", 45455), "cHRM": ADOBE_CHRM},
        {"cICP": bytes((12, 13, 0, 1))},
        {"cICP": bytes((9, 16, 0, 1))},
    ],
)
def test_colours_that_would_be_shown_wrong_are_refused(chunks: dict[str, bytes]):
    outcome = decode(with_chunks(**chunks))
    assert isinstance(outcome, Refusal)
    assert outcome.reason == "colour_space"
    assert "convert it to sRGB" in outcome.detail


def test_a_bmp_with_a_profile_is_refused():
    content = bytearray(encoded(PICTURE, "BMP"))
    header = bytes((124, 0, 0, 0)) + bytes(content[18:54]) + bytes(16) + b"DEBM" + bytes(64)
    outcome = decode(bytes(content[:14]) + header + bytes(content[54:]))
    assert isinstance(outcome, Refusal)
    assert outcome.reason == "colour_space"


def test_premultiplied_alpha_is_composited_on_white():
    from vivero.data.image_files import _plain

    half_black = Image.new("La", (4, 4), (0, 128))
    assert np.asarray(_plain(half_black, b"")).tolist() == [[127] * 4] * 4


@pytest.mark.parametrize(
    ("gamma", "is_refused"),
    [(0.0, False), (2.2, False), (1 / 2.2, False), (1.0, True), (1.8, True)],
)
def test_a_bmp_with_a_gamma_of_its_own_is_refused(gamma: float, is_refused: bool):
    content = encoded(PICTURE, "BMP")
    gammas = struct.pack("<3I", *[round(gamma * 65536)] * 3)
    header = bytes((108, 0, 0, 0)) + content[18:54] + bytes(16) + bytes(4) + bytes(36) + gammas
    offset = struct.pack("<I", 122)
    outcome = decode(content[:10] + offset + header + content[54:])
    if is_refused:
        assert isinstance(outcome, Refusal)
        assert outcome.reason == "colour_space"
    else:
        assert np.array_equal(np.asarray(outcome), PIXELS)


def test_a_profile_that_is_too_large_to_read_is_refused():
    profile = rgb_profile(ADOBE_RGB, 2.19921875) + bytes(4_000_000)
    outcome = decode(encoded(PICTURE, "TIFF", icc_profile=profile))
    assert isinstance(outcome, Refusal)
    assert outcome.reason == "colour_space"
