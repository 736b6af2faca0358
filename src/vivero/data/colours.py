"""Colours as a screen shows them: everything becomes sRGB, or is refused.

Viewers read the colour space that a file names, and take sRGB where it names none or a broken one.
"""

import functools
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4_000_000
BMP_V4_HEADER_BYTES = 108
SAME_LEVELS = 2  # a profile that moves no colour by more is sRGB with other rounding
SRGB_GAMMA = 45455  # 1 / 2.2, which stands for sRGB, in units of 1 / 100,000
GAMMA_TOLERANCE = 1000
MAX_GAMMA_OFFSET = 20_000  # what can be converted: exponents from 1.5 to 4
SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
CHROMATICITY_TOLERANCE = 1000
SRGB_CODE_POINTS = (1, 13, 0, 1)  # cICP: primaries, transfer, matrix, full range (ITU-T H.273)


def png_colour_problem(content: bytes) -> str | None:
    """The colour space of a PNG that Pillow would pass over; None for sRGB and for a profile.

    Source: PNG, third edition, 4.3 and 11.3.2: cICP before iCCP before sRGB before gAMA and cHRM.
    """
    chunks = dict(_colour_chunks(content))
    if b"cICP" in chunks:
        is_srgb = tuple(chunks[b"cICP"]) == SRGB_CODE_POINTS
        return None if is_srgb else f"cICP {tuple(chunks[b'cICP'])}"
    if b"iCCP" in chunks or b"sRGB" in chunks:
        return None
    gamma, chromaticities = chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")
    if len(gamma) != 4:  # primaries alone count for nothing, as viewers do
        return None
    (value,) = struct.unpack(">I", gamma)
    has_primaries = len(chromaticities) == 32
    if abs(value - SRGB_GAMMA) > (MAX_GAMMA_OFFSET if has_primaries else GAMMA_TOLERANCE):
        return f"gamma {value / 100_000:g}"
    if has_primaries:
        values = struct.unpack(">8I", chromaticities)
        differences = zip(values, SRGB_CHROMATICITIES, strict=True)
        if any(abs(value - srgb) > CHROMATICITY_TOLERANCE for value, srgb in differences):
            return "primaries that are not those of sRGB"
    return None


def bmp_colour_problem(content: bytes) -> str | None:
    """The colour space of a BMP with a V4 or V5 header, which Pillow does not read; None for sRGB.

    Source: BITMAPV4HEADER of the Windows API: bV4CSType, bV4GammaRed to bV4GammaBlue (16.16).
    """
    if len(content) < 122 or struct.unpack_from("<I", content, 14)[0] < BMP_V4_HEADER_BYTES:
        return None
    kind = content[70:74]
    if kind in (b"DEBM", b"KNIL"):
        return "a profile in a BMP"
    if kind != b"\0\0\0\0":  # not LCS_CALIBRATED_RGB: sRGB or the colours of Windows, its default
        return None
    gammas = [value / 65536 for value in struct.unpack_from("<3I", content, 110)]
    unusual = [gamma for gamma in gammas if gamma and not 2.1 <= max(gamma, 1 / gamma) <= 2.3]
    return f"gamma {unusual[0]:g} in a BMP" if unusual else None


def profile_problem(profile: object) -> str | None:
    """Why an ICC profile is not used although it may change the colours; None for any other."""
    if isinstance(profile, bytes) and len(profile) > MAX_PROFILE_BYTES:
        return f"a profile of {len(profile)} bytes, at most {MAX_PROFILE_BYTES} are read"
    return None


def png_gamma(content: bytes) -> float | None:
    """The exponent that a PNG states for the primaries of sRGB; None where sRGB's own curve holds.

    Viewers take gAMA for a curve of its own only beside cHRM, also the 1 / 2.2 that many programs
    write for sRGB: it differs from sRGB's curve in dark colours.
    """
    chunks = dict(_colour_chunks(content))
    if chunks.keys() & {b"cICP", b"iCCP", b"sRGB"} or len(chunks.get(b"cHRM", b"")) != 32:
        return None
    gamma = chunks.get(b"gAMA", b"")
    return 100_000 / struct.unpack(">I", gamma)[0] if len(gamma) == 4 else None


def from_gamma(image: Image.Image, exponent: float) -> Image.Image:
    """An image of mode L or RGB in sRGB, whose levels are intensities ** (1 / exponent)."""
    linear = (np.arange(256) / 255) ** exponent
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    levels = np.rint(encoded * 255).astype(int).tolist()
    return image.point(levels * len(image.getbands()))


def as_srgb(image: Image.Image, profile: object) -> Image.Image:
    """An image of mode L or RGB in sRGB.

    Args:
        image: As it was decoded.
        profile: Its ICC profile, or None; one that is broken, or is for other colours than these,
            counts as none, as viewers do.
    """
    if not isinstance(profile, bytes) or not profile:
        return image
    found = _transform(profile)
    if found is None or (found.mode == "L" and image.mode != "L"):
        return image
    converted = ImageCms.applyTransform(image.convert(found.mode), found.transform)
    return image if converted is None else converted.convert(image.mode)


@dataclass(frozen=True)
class _Conversion:
    """From colours of one mode, by a profile, to sRGB."""

    mode: str
    transform: ImageCms.ImageCmsTransform


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes) -> _Conversion | None:
    """From a profile to sRGB; None where the profile says nothing, or just sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L"}.get(source.profile.xcolor_space.strip())
        if mode is None:
            return None
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        probe = _probe(mode)
        moved = ImageCms.applyTransform(probe, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    before, after = np.asarray(probe.convert("RGB"), int), np.asarray(moved, int)
    is_srgb = np.abs(before - after).max() <= SAME_LEVELS
    return None if is_srgb else _Conversion(mode, transform)


def _probe(mode: str) -> Image.Image:
    """All grey levels, or a grid of colours."""
    levels = np.arange(256, dtype=np.uint8)
    if mode == "L":
        return Image.fromarray(levels[None])
    axis = np.append(levels[::16], np.uint8(255))
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    return Image.fromarray(np.ascontiguousarray(grid.reshape(1, -1, 3)))


def _colour_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Chunks of a PNG before its pixels; its structure was checked before."""
    position = 8
    while position + 12 <= len(content):
        num_bytes, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"IDAT":
            return
        yield kind, content[position + 8 : position + 8 + num_bytes]
        position += 12 + num_bytes
