"""Features of many images: batches in parallel threads, with a progress bar and a cache.

Shapes: N images, C channels, D features, K logits.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from tqdm import tqdm

from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.extractors import Extractor
from vivero.files import write_whole

LOG_EVERY_S = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """What an extractor says about a set of images.

    Attributes:
        features: float32, shape (N, D).
        logits: float32, shape (N, K); None where the extractor has none.
    """

    features: torch.Tensor
    logits: torch.Tensor | None


def extract(
    extractor: Extractor, images: np.ndarray, batch_images: int, subject: str = "images"
) -> Features:
    """Features of all images, in their order.

    Args:
        extractor: The network.
        images: uint8, shape (N, C, H, W); may be memory-mapped.
        batch_images: Images per batch; changes the last digits of the features.
        subject: What the images are, for the progress bar.
    """
    starts = range(0, len(images), batch_images)

    def part(start: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        return extractor(np.asarray(images[start : start + batch_images]))

    parts = []
    title = f"features of {subject}"
    with tqdm(total=len(images), desc=title, unit="img", disable=None) as bar:
        say = _speaker(title, len(images))
        for index, result in enumerate(spread_over_cores(part, starts)):
            parts.append(result)
            bar.update(len(result[0]))
            say(min((index + 1) * batch_images, len(images)))
    logits = [part_logits for _, part_logits in parts if part_logits is not None]
    return Features(torch.cat([f for f, _ in parts]), torch.cat(logits) if logits else None)


def cached_features(
    extractor: Extractor,
    images: np.ndarray,
    batch_images: int,
    cache_dir: Path,
    subject: str = "images",
) -> Features:
    """As extract, but kept in cache_dir under the hash of the images, extractor and resize.

    The cache holds what can be made again; a damaged entry is made again.
    """
    key = hashlib.sha256(
        f"{extractor.name}\0{extractor.weights_sha256}\0{extractor.resize}\0{batch_images}\0"
        f"{sha256_of_array(images)}".encode()
    ).hexdigest()
    path = cache_dir / f"{extractor.name}-{key[:32]}.safetensors"
    if path.is_file():
        try:
            tensors = load(path.read_bytes())  # not mapped: a cut file would kill the process
            return Features(tensors["features"], tensors.get("logits"))
        except (SafetensorError, KeyError):
            log.warning("the cached features %s are damaged; making them again", path.name)
    made = extract(extractor, images, batch_images, subject)
    tensors = {"features": made.features.contiguous()}
    if made.logits is not None:
        tensors["logits"] = made.logits.contiguous()
    with write_whole(path) as part_path:
        part_path.write_bytes(save(tensors))
    return made


def sha256_of_array(array: np.ndarray) -> str:
    """Hex sha256 over dtype, shape and values; reads a memory-mapped array in slices."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for start in range(0, len(array), 4096):
        digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


def _speaker(what: str, total: int) -> Callable[[int], None]:
    """A function that logs the progress every LOG_EVERY_S seconds, for logs without a terminal."""
    spoken_at = time.monotonic()

    def say(done: int) -> None:
        nonlocal spoken_at
        if time.monotonic() - spoken_at >= LOG_EVERY_S:
            spoken_at = time.monotonic()
            log.info("%s: %d of %d", what, done, total)

    return say
