"""What the first bytes and the structure of an image file say, before any decoder sees it."""

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_BITS_PER_SAMPLE = 258
JPEG_STANDALONE = {0x01, *range(0xD0, 0xD8)}
CRITICAL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}


@dataclass(frozen=True)
class Damage:
    """What is wrong with the structure of a file."""

    reason: Literal["truncated", "damaged"]
    detail: str


def format_of(content: bytes) -> str | None:
    """PNG, JPEG, WEBP, GIF, BMP or TIFF by its first bytes; None for everything else."""
    if content.startswith(PNG_SIGNATURE):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if content.startswith(b"BM"):
        return "BMP"
    return "TIFF" if content.startswith(TIFF_STARTS) else None


def damage(content: bytes, kind: str) -> Damage | None:
    """A flaw in the structure that a decoder might pass over, or None."""
    if kind == "PNG":
        return _png_damage(content)
    if kind == "JPEG" and not _jpeg_has_end(content):
        return Damage("truncated", "the end marker of the JPEG is missing")
    if kind == "WEBP" and len(content) < 8 + struct.unpack_from("<I", content, 4)[0]:
        return Damage("truncated", "shorter than its header says")
    if kind == "GIF" and b"\x3b" not in content[-4096:]:
        return Damage("truncated", "the end marker of the GIF is missing")
    return None


def _png_damage(content: bytes) -> Damage | None:
    """Walk the chunks: each whole, the critical ones with the right checksum, IEND at the end."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        num_bytes, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + num_bytes
        if end > len(content):
            break
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        is_right = zlib.crc32(memoryview(content)[position + 4 : end - 4]) == checksum
        if kind in CRITICAL_CHUNKS and not is_right:
            return Damage("damaged", f"wrong checksum in the PNG chunk {kind.decode('ascii')}")
        if kind == b"IEND":
            return None
        position = end
    return Damage("truncated", "the PNG ends before its IEND chunk")


def _jpeg_has_end(content: bytes) -> bool:
    """Whether an end marker follows the start of the scan (one in a thumbnail does not count)."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xDA:
            return content.find(b"\xff\xd9", position) >= 0
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in JPEG_STANDALONE:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", content, position + 2)[0]
    return False


def is_sixteen_bit(image: Image.Image, kind: str, content: bytes) -> bool:
    """Whether a channel has more than 8 bits; Pillow cuts some of those to 8 without a word."""
    if image.mode.startswith(("I", "F")):
        return True
    if kind == "PNG":
        return len(content) > 24 and content[24] == 16
    if kind == "TIFF":
        bits = image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    return False
