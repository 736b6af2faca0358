"""Does Vivero know an image as one that it made? Such images are never taken for new data."""

import io
from dataclasses import dataclass

from PIL import Image

PROVENANCE_KEY = "vivero"  # of the PNG's tEXt chunk


@dataclass(frozen=True)
class Origin:
    """What a file tells about where its image comes from.

    Attributes:
        has_record: Whether it carries the record of a generated image.
        pixel_hashes: By which a generated image is found that lost its record.
    """

    has_record: bool
    pixel_hashes: tuple[str, ...]


def carries_provenance(content: bytes) -> bool:
    """Whether the bytes of an image file carry the record of a generated image.

    False for what cannot be opened. The file may be hostile: to be called in a worker.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return PROVENANCE_KEY in picture.info
    except Exception:  # noqa: BLE001  decoders raise anything at all on broken content
        return False
