"""From a file on the disk to a clean PNG, or to the reason why not; runs inside a worker.

Imports little, because every worker pays for it when it starts.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivero.data.clean_png import MAX_IMAGE_BYTES, compressed_png, is_clean_png
from vivero.data.facts import is_grey, pixel_hashes
from vivero.data.image_files import Refusal, decode
from vivero.data.provenance import Origin, carries_provenance

MAX_FILE_BYTES = 256_000_000


@dataclass(frozen=True)
class ImportedImage:
    """A file as it goes into a shard: a PNG of pixels and nothing else; and where it is from."""

    content: bytes
    is_grey: bool
    origin: Origin


def import_file(path: Path) -> ImportedImage | Refusal:
    """Read, decode and clean one file; runs in a worker, since the file may be hostile."""
    content = file_content(path)
    if isinstance(content, Refusal):
        return content
    image = decode(content, path.name)
    if isinstance(image, Refusal):
        return image
    try:
        cleaned = content if is_clean_png(content) else compressed_png(image)
        grey = is_grey(np.asarray(image))
        origin = Origin(carries_provenance(content), pixel_hashes(image))
    except MemoryError:
        return Refusal("decompression_bomb", "storing it needs more memory than a worker may use")
    if len(cleaned) > MAX_IMAGE_BYTES:
        return Refusal("too_large", f"{len(cleaned)} bytes as PNG; at most {MAX_IMAGE_BYTES}")
    return ImportedImage(cleaned, grey, origin)


def file_content(path: Path) -> bytes | Refusal:
    """The bytes of a regular file; what has become something else meanwhile is not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return Refusal("unreadable", str(error.strerror))
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            return Refusal("not_a_file", "it is no regular file any more")
        if facts.st_size > MAX_FILE_BYTES:
            return Refusal("too_large", f"{facts.st_size} bytes; at most {MAX_FILE_BYTES}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        return Refusal("unreadable", str(error.strerror))
    finally:
        os.close(descriptor)
