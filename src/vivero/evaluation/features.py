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
from tqdm import tqdm

from vivero.code_digest import module_closure_digest
from vivero.errors import ExtractorError
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.extractors import Extractor
from vivero.files import sha256_of_json
from vivero.integrity.caches import load_tensors, save_tensors

LOG_EVERY_S = 30.0
CODE = ("vivero.evaluation.features", "vivero.evaluation.extractors")
CODE_WITHOUT_EFFECT = ("vivero.code_digest", "vivero.config", "vivero.errors", "vivero.integrity")

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

    Raises:
        ExtractorError: When a feature or logit is NaN or infinite.
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
    features = torch.cat([part_features for part_features, _ in parts])
    logits = [part_logits for _, part_logits in parts if part_logits is not None]
    _refuse_non_finite(extractor, features, *logits)
    return Features(features, torch.cat(logits) if logits else None)


def cached_features(
    extractor: Extractor,
    images: np.ndarray,
    batch_images: int,
    cache_dir: Path,
    subject: str = "images",
) -> Features:
    """As extract, but kept in cache_dir under the hash of the images, extractor, resize and code.

    An entry that is damaged is computed again.
    """
    made_from = (extractor.name, extractor.weights_sha256, extractor.resize, batch_images)
    code = module_closure_digest(CODE, CODE_WITHOUT_EFFECT)
    key = sha256_of_json([*made_from, code, torch.__version__, sha256_of_array(images)])
    path = cache_dir / f"{extractor.name}-{key[:32]}.safetensors"
    cached = load_tensors(path, key)
    if cached is not None:
        return Features(cached["features"], cached.get("logits"))
    made = extract(extractor, images, batch_images, subject)
    tensors = {"features": made.features}
    if made.logits is not None:
        tensors["logits"] = made.logits
    save_tensors(path, key, tensors)
    return made


def _refuse_non_finite(extractor: Extractor, *values: torch.Tensor) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in values):
        raise ExtractorError(
            f"the extractor {extractor.name} returned a feature that is NaN or infinite, so no "
            f"metric can be computed from it. Check that its weights are the published ones "
            f"(sha256 {extractor.weights_sha256[:12]}...), then run the same command again"
        )


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
