"""PNG bytes that hold pixels and nothing else."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What one image, or the images of one shard together, may have, so that a shard stays below 64 MB:
# the rest is room for keys and the footer.
MAX_IMAGE_BYTES = 60_000_000
STORED_BLOCK_BYTES = 0xFFFF
COLOUR_TYPES = {1: 0, 3: 2}  # PNG's numbers for grey and RGB


def stored_png(pixels: np.ndarray) -> bytes:
    """Pixels as a PNG whose deflate stream is stored, not compressed.

    Compressed bytes depend on the zlib that made them; these do not, so a data set built from them
    is the same on every machine. Parquet compresses them afterwards, many images at a time.

    Args:
        pixels: uint8, shape (H, W) for grey or (H, W, 3) for colour.
    """
    height, width = pixels.shape[:2]
    num_channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[num_channels], 0, 0, 0)
    rows = np.zeros((height, 1 + width * num_channels), np.uint8)  # a row starts with filter 0
    rows[:, 1:] = pixels.reshape(height, -1)
    data = _stored_zlib(rows.tobytes())
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def compressed_png(image: Image.Image) -> bytes:
    """A PNG of mode L or RGB with the pixels of image and none of its metadata."""
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    buffer = io.BytesIO()
    bare.save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def is_clean_png(content: bytes) -> bool:
    """Whether content is a PNG of 8-bit grey or RGB with nothing in it but pixels.

    Only bytes with the right structure may be asked about; `image_formats.damage` tells.
    """
    if not content.startswith(SIGNATURE) or content[24:26] not in (b"\x08\x00", b"\x08\x02"):
        return False
    position = len(SIGNATURE)
    while position < len(content):
        num_bytes, kind = struct.unpack_from(">I4s", content, position)
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            return False
        position += 12 + num_bytes
        if kind == b"IEND":
            break
    return position == len(content)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _stored_zlib(data: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks (RFC 1951, 3.2.4)."""
    blocks = [
        data[begin : begin + STORED_BLOCK_BYTES]
        for begin in range(0, len(data), STORED_BLOCK_BYTES)
    ]
    parts = [b"\x78\x01"]
    for index, block in enumerate(blocks):
        is_last = index == len(blocks) - 1
        parts.append(struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF) + block)
    return b"".join(parts) + struct.pack(">I", zlib.adler32(data))
