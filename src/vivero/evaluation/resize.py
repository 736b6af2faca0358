"""Resizing as clean-fid does it: PIL bicubic with anti-aliasing, float result, never re-quantised.

Shapes: N images, C channels (1 or 3), H x W pixels, S = size_px.
"""

from collections.abc import Callable

import numpy as np
import torch

from vivero.evaluation.torchvision_door import open_torchvision_door

RESIZE = "clean-fid PIL bicubic, antialiased, float"


def resize_description(size_px: int) -> str:
    """How images are resized, in the words that every metric carries."""
    return f"{RESIZE}, {size_px} px"


def clean_resized(images: np.ndarray, size_px: int) -> torch.Tensor:
    """Images resized by clean-fid's own resizer, grey ones repeated to three channels.

    clean-fid resizes each of three channels on its own, so three grey images ride in one call.

    Args:
        images: uint8, shape (N, C, H, W), C is 1 or 3.
        size_px: Side S of the result.

    Returns:
        float32, shape (N, 3, S, S), range [0, 255].

    Raises:
        ValueError: When images are not uint8 with one or three channels.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"need uint8 images of shape (N, 1 or 3, H, W); got {images.dtype} {images.shape}"
        )
    resizer = _resizer(size_px)
    num_images, num_channels = images.shape[:2]
    planes = images.reshape(num_images * num_channels, *images.shape[2:])
    num_padding = -len(planes) % 3
    planes = np.concatenate([planes, planes[:1].repeat(num_padding, axis=0)])
    triples = planes.reshape(-1, 3, *planes.shape[1:]).transpose(0, 2, 3, 1)
    resized = np.stack([resizer(triple) for triple in triples]).transpose(0, 3, 1, 2)
    resized = resized.reshape(-1, size_px, size_px)[: num_images * num_channels]
    batch = torch.from_numpy(resized.reshape(num_images, num_channels, size_px, size_px))
    return batch.expand(num_images, 3, size_px, size_px)


def _resizer(size_px: int) -> Callable[[np.ndarray], np.ndarray]:
    open_torchvision_door()
    from cleanfid.resize import make_resizer

    resizer: Callable[[np.ndarray], np.ndarray] = make_resizer(
        "PIL", False, "bicubic", (size_px, size_px)
    )
    return resizer
