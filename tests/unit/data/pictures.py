"""Images of known content, and files that only look like images."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

NUM_CHANNELS = {"L": 0, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}


def picture(seed: int, width: int = 20, height: int = 16, mode: str = "RGB") -> Image.Image:
    """Reproducible noise."""
    num_channels = NUM_CHANNELS[mode]
    shape = (height, width, num_channels) if num_channels else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims a size that would fill the memory."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    parts = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", data), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sixteen_bit_rgb_png() -> bytes:
    """What Pillow reads as 8-bit RGB without a word."""
    width, height = 8, 8
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = (b"\0" + bytes(range(48))) * height
    parts = (
        png_chunk(b"IHDR", header),
        png_chunk(b"IDAT", zlib.compress(rows)),
        png_chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def animated_gif(num_frames: int) -> bytes:
    frames = [Image.new("P", (8, 8), index % 250) for index in range(num_frames)]
    for frame in frames:
        frame.putpalette(list(range(256)) * 3)
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)


def animated_png() -> bytes:
    return encoded(picture(6), "PNG", save_all=True, append_images=[picture(7)])
