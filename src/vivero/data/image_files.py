"""From the bytes of a file to pixels, or to the reason why not. The file may be hostile.

Allowed are PNG, JPEG, WebP, GIF, BMP and TIFF, told by content and not by name. What comes out is
8-bit grey (mode L) or colour (mode RGB), upright, without transparency and without metadata:

- bilevel images, and grey ones with alpha, become grey; all others colour;
- colours of an ICC profile become sRGB (`colours`), as a screen shows them;
- palettes become colour; transparency, also that of a palette, is composited on white;
- the rotation that EXIF asks for is done;
- the first image of an MPO file, which phones write as .jpg, is a JPEG like any other.

An image that would lose something else, or that is more than one image, is refused.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from vivero.data.colours import (
    as_srgb,
    bmp_colour_problem,
    from_gamma,
    png_colour_problem,
    png_gamma,
    profile_problem,
)
from vivero.data.image_formats import damage, format_of, is_sixteen_bit
from vivero.data.other_formats import RAW, RAW_EXTENSIONS, other_format

Reason = Literal[
    "zero_bytes",
    "not_an_image",
    "unsupported_format",
    "extension_mismatch",
    "truncated",
    "damaged",
    "sixteen_bit",
    "cmyk",
    "colour_space",
    "animated",
    "decompression_bomb",
    "too_small",
    "too_large",
]
MAX_PIXELS = 1 << 25  # 33.5 million: what fits into a worker's memory several times
MAX_SIDE_PX = 32_767
EXTENSIONS = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
}
EXTENSION_OF = {kind: f".{kind.lower()}" for kind in EXTENSIONS} | {"JPEG": ".jpg"}
SHOWN_NAMES = {"WEBP": "WebP"}
GREY_MODES = {"1", "L", "LA", "La"}
COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"}


@dataclass(frozen=True)
class Refusal:
    """Why a file is not an image that we take; detail is a sentence for a person."""

    reason: str
    detail: str


class _RefusedError(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.refusal = Refusal(reason, detail)


def decode(content: bytes, file_name: str | None = None) -> Image.Image | Refusal:
    """Pixels of an image file as mode L or RGB, or a Refusal. Never raises for bad content.

    Args:
        content: The whole file.
        file_name: When given, its extension must fit the content; no extension fits anything.
    """
    try:
        return _decode(content, file_name)
    except _RefusedError as error:
        return error.refusal
    except MemoryError:
        return Refusal("decompression_bomb", "decoding needs more memory than a worker may use")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Refusal("decompression_bomb", str(error))
    except UnidentifiedImageError:
        return Refusal("damaged", "starts like an image, but its header cannot be read")
    except Exception as error:  # noqa: BLE001  decoders raise anything at all on broken content
        message = str(error)
        if "Decompressed data too large" in message:
            return Refusal("decompression_bomb", message)
        is_cut = "truncated" in message.lower() or isinstance(error, EOFError)
        return Refusal("truncated" if is_cut else "damaged", f"{type(error).__name__}: {message}")


def _decode(content: bytes, file_name: str | None) -> Image.Image:
    kind = _checked_format(content, file_name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, which is dropped anyway
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=(kind,)) as image:
            _check_header(image, kind, content)
            image.load()
            return _plain(image, content)


def _checked_format(content: bytes, file_name: str | None) -> str:
    """Name of the format of content, when it is allowed, whole and fits the file's name."""
    if not content:
        raise _RefusedError("zero_bytes", "the file is empty")
    kind = format_of(content)
    if kind is None:
        other = other_format(content)
        if other:
            raise _RefusedError("unsupported_format", f"{other.name}; {other.advice}")
        raise _RefusedError("not_an_image", "the content is of no known image format")
    extension = PurePath(file_name or "").suffix.lower()
    if kind == "TIFF" and (extension in RAW_EXTENSIONS or content[8:10] == b"CR"):
        raise _RefusedError("unsupported_format", f"{RAW.name}; {RAW.advice}")
    if extension and extension not in EXTENSIONS[kind]:
        raise _RefusedError(
            "extension_mismatch",
            f"its content is {SHOWN_NAMES.get(kind, kind)}, although its name ends in "
            f"{extension}; rename it to end in {EXTENSION_OF[kind]}, or convert it",
        )
    flaw = damage(content, kind)
    if flaw:
        raise _RefusedError(flaw.reason, flaw.detail)
    return kind


def _check_header(image: Image.Image, kind: str, content: bytes) -> None:
    """Refuse what the header already tells, before any pixel is decoded."""
    width, height = image.size
    if width < 1 or height < 1:
        raise _RefusedError("damaged", f"its size is {width} x {height} pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        raise _RefusedError(
            "decompression_bomb",
            f"{width} x {height} pixels; at most {MAX_PIXELS} pixels and {MAX_SIDE_PX} a side",
        )
    if is_sixteen_bit(image, kind, content):
        raise _RefusedError("sixteen_bit", f"mode {image.mode} with more than 8 bits a channel")
    if image.mode == "CMYK":
        raise _RefusedError("cmyk", "its colours are CMYK; convert it to RGB with its profile")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise _RefusedError("animated", "it holds more than one frame or page")
    if image.mode not in GREY_MODES | COLOUR_MODES:
        raise _RefusedError("unsupported_format", f"colour mode {image.mode}; convert it to RGB")
    _check_colours(image, kind, content)


def _check_colours(image: Image.Image, kind: str, content: bytes) -> None:
    problem = png_colour_problem(content) if kind == "PNG" else None
    if kind == "BMP":
        problem = bmp_colour_problem(content)
    problem = problem or profile_problem(image.info.get("icc_profile"))
    if problem:
        raise _RefusedError("colour_space", f"its colours have {problem}; convert it to sRGB")


def _plain(image: Image.Image, content: bytes) -> Image.Image:
    """An upright image of mode L or RGB, in sRGB, composited on white."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return _on_screen(upright.convert(mode), image, content)
    straight = upright.convert("LA") if upright.mode == "La" else upright
    coloured = straight.convert("RGBA")
    shown = _on_screen(coloured.convert("RGB").convert(mode), image, content).convert("RGBA")
    shown.putalpha(coloured.getchannel("A"))
    white = Image.new("RGBA", coloured.size, "white")
    return Image.alpha_composite(white, shown).convert(mode)


def _on_screen(pixels: Image.Image, image: Image.Image, content: bytes) -> Image.Image:
    """The pixels in sRGB, by what the file that they are from says of its colours."""
    gamma = png_gamma(content) if image.format == "PNG" else None
    if gamma is not None:
        return from_gamma(pixels, gamma)
    return as_srgb(pixels, image.info.get("icc_profile"))
