"""Images as PNG: one by one with the record of what made them, or many in a grid.

Every file is written whole or not at all. Images are uint8 arrays, (C, H, W) with C 1 or 3.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from vivero.errors import DataError
from vivero.evaluation.drawn_text import write_line
from vivero.files import write_whole

PROVENANCE_KEY = "vivero"  # of the tEXt chunk
GAP_PX = 2
CAPTION_PX = 14
MIN_TILE_PX = 56  # smaller images are enlarged by whole factors, without smoothing


def save_image(path: Path, image: np.ndarray, provenance: dict[str, Any] | None = None) -> None:
    """Write one image as PNG.

    Args:
        path: Where to.
        image: Shape (C, H, W), uint8, C 1 (grey) or 3 (colour).
        provenance: What made it, as JSON values; None leaves no record.

    Raises:
        ValueError: If image is something else.
    """
    picture = _picture(image)
    info = PngImagePlugin.PngInfo()
    if provenance is not None:
        info.add_text(PROVENANCE_KEY, json.dumps(provenance, sort_keys=True, allow_nan=False))
    with write_whole(path) as part_path:
        picture.save(part_path, format="PNG", pnginfo=info)


def read_provenance(path: Path) -> dict[str, Any] | None:
    """What made an image, as `save_image` recorded it; None when it carries no record.

    Raises:
        DataError: When the file is no readable image or its record is damaged.
    """
    try:
        with Image.open(path) as picture:
            text = picture.info.get(PROVENANCE_KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"cannot read {path}: {error}; expected an image made by `vivero sample`"
        ) from error
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        values = str(error)
    if not isinstance(values, dict):
        raise DataError(
            f"unreadable record: the record in {path} is damaged ({str(values)[:80]!r}); expected "
            f"JSON. Look at "
            f"samples.json beside the original image instead"
        )
    return values


def save_grid(
    images: np.ndarray, path: Path, num_columns: int, captions: Sequence[str] | None = None
) -> None:
    """Write images as one PNG, row by row on white.

    Args:
        images: Shape (N, C, H, W), uint8, C 1 or 3, N at least 1.
        path: Where to.
        num_columns: Images in a row; at least 1.
        captions: Text under each image, cut off at its width; None leaves no room for text.

    Raises:
        ValueError: If the numbers do not fit.
    """
    if images.ndim != 4 or not len(images) or num_columns < 1:
        raise ValueError(
            f"need images of shape (N, C, H, W) with N >= 1, and num_columns >= 1; "
            f"got {images.shape} and {num_columns}"
        )
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"need one caption per image; got {len(captions)} for {len(images)}")
    height_px, width_px = images.shape[2:]
    factor = max(1, math.ceil(MIN_TILE_PX / min(height_px, width_px)))
    tile_px = (width_px * factor, height_px * factor)
    step_x = tile_px[0] + GAP_PX
    step_y = tile_px[1] + GAP_PX + (CAPTION_PX if captions else 0)
    num_rows = math.ceil(len(images) / num_columns)
    size = (GAP_PX + min(num_columns, len(images)) * step_x, GAP_PX + num_rows * step_y)
    sheet = Image.new(_mode(images.shape[1]), size, "white")
    for index, image in enumerate(images):
        row, column = divmod(index, num_columns)
        corner = (GAP_PX + column * step_x, GAP_PX + row * step_y)
        sheet.paste(_picture(image).resize(tile_px, Image.Resampling.NEAREST), corner)
        if captions:
            below = (corner[0], corner[1] + tile_px[1])
            write_line(ImageDraw.Draw(sheet), below, captions[index], 9, "black", tile_px[0])
    with write_whole(path) as part_path:
        sheet.save(part_path, format="PNG")


def _picture(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(
            f"need an image of shape (C, H, W), uint8; got {image.shape}, {image.dtype}"
        )
    mode = _mode(image.shape[0])
    rows = image[0] if mode == "L" else image.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(rows))


def _mode(num_channels: int) -> str:
    if num_channels not in (1, 3):
        raise ValueError(f"need 1 channel (grey) or 3 (colour); got {num_channels}")
    return "L" if num_channels == 1 else "RGB"
