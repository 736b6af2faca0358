"""What becomes of every kind of image file, good and bad."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.data.pictures import (
    animated_gif,
    animated_png,
    encoded,
    picture,
    png_chunk,
    png_claiming,
    sixteen_bit_rgb_png,
)
from vivero.data.clean_png import compressed_png, is_clean_png, stored_png
from vivero.data.facts import inspect_image, is_grey, pixel_sha256
from vivero.data.image_files import Refusal, decode


def refused(content: bytes, file_name: str | None = None) -> Refusal:
    outcome = decode(content, file_name)
    assert isinstance(outcome, Refusal), f"decoded to {outcome}"
    return outcome


def pixels_of(content: bytes) -> np.ndarray:
    image = decode(content)
    assert isinstance(image, Image.Image), image
    return np.asarray(image)


RGB = encoded(picture(1))
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_formats_keep_every_pixel(kind: str, mode: str):
    image = picture(2, mode=mode)
    assert (pixels_of(encoded(image, kind)) == np.asarray(image)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_allowed_format_is_read_by_content_alone(kind: str):
    assert pixels_of(encoded(picture(3), kind)).shape == (16, 20, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_refused(kind: str, share: float):
    content = encoded(picture(4, 64, 64), kind)
    assert refused(content[: int(len(content) * share)]).reason in ("truncated", "damaged")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_without_its_last_bytes_is_called_truncated(kind: str):
    content = encoded(picture(4, 64, 64), kind)
    for num_missing in (1, 5, 200):
        assert refused(content[:-num_missing]).reason == "truncated"


def test_a_flipped_bit_in_a_png_is_noticed():
    content = bytearray(encoded(picture(4, 64, 64)))
    content[len(content) // 2] ^= 1
    assert refused(bytes(content)).reason == "damaged"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero_bytes"),
        (b"hello, I am a text", "not_an_image"),
        (b"\0" * 100, "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "unsupported_format"),
        (b"P5\n2 2\n255\n\0\0\0\0", "unsupported_format"),
        (b"%PDF-1.7", "unsupported_format"),
        (b"\0\0\0\x1cftypavif", "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"RIFF", "not_an_image"),
    ],
)
def test_what_is_no_image_gets_its_reason(content: bytes, reason: str):
    assert refused(content).reason == reason


def test_sixteen_bits_a_channel_are_refused_in_every_form():
    grey = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 100)
    assert refused(encoded(grey, "PNG")).reason == "sixteen_bit"
    assert refused(encoded(grey, "TIFF")).reason == "sixteen_bit"
    assert refused(sixteen_bit_rgb_png()).reason == "sixteen_bit"
    floats = Image.fromarray(np.zeros((9, 9), np.float32))
    assert refused(encoded(floats, "TIFF")).reason == "sixteen_bit"


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_refused(kind: str):
    assert refused(encoded(picture(5, mode="CMYK"), kind)).reason == "cmyk"


@pytest.mark.parametrize("kind", ["WEBP", "TIFF"])
def test_more_than_one_frame_or_page_is_refused(kind: str):
    frames = [picture(6), picture(7)]
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert refused(content).reason == "animated"


def test_animated_gif_and_png_are_refused_quickly_however_long():
    assert refused(animated_gif(300)).reason == "animated"
    assert refused(animated_png()).reason == "animated"


@pytest.mark.parametrize("side", [50_000, 2_000_000_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int):
    assert refused(png_claiming(side, side)).reason == "decompression_bomb"


def test_a_bomb_in_a_text_chunk_is_refused():
    bomb = b"comment\0\0" + zlib.compress(b"a" * 100_000_000, 9)
    content = RGB[:33] + png_chunk(b"zTXt", bomb) + RGB[33:]
    outcome = decode(content)
    assert isinstance(outcome, Image.Image) or outcome.reason == "decompression_bomb"


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "a.jpg"), ("JPEG", "a.png"), ("GIF", "b.WEBP"), ("BMP", "notes.txt")]
)
def test_a_mislabelled_file_is_refused(kind: str, name: str):
    outcome = refused(encoded(picture(8), kind), name)
    assert outcome.reason == "extension_mismatch"
    assert kind in outcome.detail


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "a.PNG"), ("JPEG", "a.jpeg"), ("TIFF", "x.tif"), ("PNG", "bare")]
)
def test_a_fitting_or_missing_extension_is_fine(kind: str, name: str):
    assert isinstance(decode(encoded(picture(8), kind), name), Image.Image)


def test_a_palette_becomes_its_colours():
    palette = picture(9).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (pixels_of(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()


def test_a_transparent_palette_is_composited_on_white():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 1)
    pixels = pixels_of(encoded(palette, transparency=0))
    assert pixels[0, 0].tolist() == [40, 50, 60]
    assert (pixels[1:] == 255).all()


@pytest.mark.parametrize(("mode", "colour"), [("LA", (0, 0)), ("RGBA", (0, 0, 0, 0))])
def test_alpha_is_composited_on_white(mode: str, colour: tuple[int, ...]):
    assert (pixels_of(encoded(Image.new(mode, (9, 9), colour))) == 255).all()


def test_a_bilevel_image_becomes_grey():
    image = Image.new("1", (9, 9), 1)
    assert (pixels_of(encoded(image)) == 255).all()
    assert pixels_of(encoded(image)).shape == (9, 9)


def test_the_rotation_of_exif_is_done():
    image = picture(10, 20, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
    pixels = pixels_of(encoded(image, "PNG", exif=exif))
    assert (pixels == np.rot90(np.asarray(image), -1)).all()


def test_nothing_but_pixels_survives_cleaning():
    exif = Image.Exif()
    exif[0x010E] = "GPS of my home"
    content = encoded(picture(11), "PNG", exif=exif, icc_profile=b"secret profile")
    content = content[:33] + png_chunk(b"tEXt", b"Author\0secret name") + content[33:]
    image = decode(content)
    assert isinstance(image, Image.Image)
    cleaned = compressed_png(image)
    assert not is_clean_png(content)
    assert is_clean_png(cleaned)
    assert b"secret" not in cleaned
    assert b"GPS" not in cleaned
    assert Image.open(io.BytesIO(cleaned)).info == {}
    assert (np.asarray(Image.open(io.BytesIO(cleaned))) == np.asarray(picture(11))).all()


def test_bytes_after_the_end_are_not_clean():
    assert is_clean_png(RGB)
    assert not is_clean_png(RGB + b"PK\3\4 a hidden archive")


@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    is_grey_image=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_a_stored_png_holds_its_pixels(seed: int, width: int, height: int, is_grey_image: bool):
    image = picture(seed, width, height, "L" if is_grey_image else "RGB")
    content = stored_png(np.asarray(image))
    assert is_clean_png(content)
    assert (pixels_of(content) == np.asarray(image)).all()


@given(
    kind=st.sampled_from(KINDS),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=8),
    tail=st.binary(max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_no_mutant_ever_raises(kind: str, cut: float, flips: list, tail: bytes):
    content = bytearray(encoded(picture(12, 32, 24), kind))
    for place, mask in flips:
        content[int(place * len(content))] ^= mask
    outcome = decode(bytes(content[: int(cut * len(content)) + 1]) + tail)
    assert isinstance(outcome, Image.Image | Refusal)
    if isinstance(outcome, Image.Image):
        assert outcome.mode in ("L", "RGB")


def test_facts_are_those_of_the_pixels():
    image = picture(13)
    facts = inspect_image(encoded(image, "BMP"))
    pixels = np.asarray(image).astype(np.float64)
    assert not isinstance(facts, Refusal)
    assert (facts.width_px, facts.height_px, facts.mode) == (20, 16, "RGB")
    assert facts.mean == pytest.approx(pixels.mean(), abs=1e-4)
    assert facts.std == pytest.approx(pixels.std(), abs=1e-4)
    assert facts.pixel_sha256 == pixel_sha256(image)


def test_equal_pixels_have_equal_hashes_in_any_format_and_mode():
    grey = picture(14, mode="L")
    contents = [encoded(grey, kind) for kind in ("PNG", "BMP", "TIFF")]
    contents.append(encoded(grey.convert("RGB")))
    hashes = {inspect_image(content).pixel_sha256 for content in contents}  # type: ignore[union-attr]
    assert len(hashes) == 1
    assert is_grey(np.asarray(grey.convert("RGB")))


def test_the_same_bytes_in_another_shape_are_another_image():
    flat, tall = Image.new("L", (4, 2)), Image.new("L", (2, 4))
    assert pixel_sha256(flat) != pixel_sha256(tall)


def test_a_header_that_lies_about_its_length_is_damaged():
    content = bytearray(RGB)
    struct.pack_into(">I", content, 33, 2**31)
    assert refused(bytes(content)).reason == "truncated"
