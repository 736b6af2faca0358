"""Does an image say of itself that Vivero made it? Such images are never taken for new data."""

import io

from PIL import Image

PROVENANCE_KEY = "vivero"  # of the PNG's tEXt chunk


def carries_provenance(content: bytes) -> bool:
    """Whether the bytes of an image file carry the record of a generated image.

    False for what cannot be opened. The file may be hostile: to be called in a worker.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return PROVENANCE_KEY in picture.info
    except Exception:  # noqa: BLE001  decoders raise anything at all on broken content
        return False
