"""Prepared images as the batches that training asks for, by index, on its device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivero.data.prepared import PreparedSplit, to_model_range
from vivero.training.randomness import to_device

MAX_BYTES_IN_MEMORY = 2_000_000_000  # above this, rows are read from the mapped file


@dataclass(frozen=True)
class Feed:
    """One split.

    Attributes:
        images: All images, shape (N, C, H, W), uint8; in memory or a mapped file.
        labels: Class of each, shape (N,), int64; -1 = none.
        keys: Stable name of each.
        device: Where batches go.
    """

    images: np.ndarray
    labels: np.ndarray
    keys: Sequence[str]
    device: torch.device

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], shape (B, C, H, W), and labels, shape (B,), of some rows."""
        images = torch.from_numpy(self.images[indices])
        labels = torch.from_numpy(self.labels[indices])
        return to_model_range(to_device(images, self.device)), to_device(labels, self.device)


def open_feed(split: PreparedSplit, device: torch.device) -> Feed:
    """The images of a split; read into memory when they are few."""
    is_small = split.images.nbytes <= MAX_BYTES_IN_MEMORY
    images = np.array(split.images) if is_small else split.images
    return Feed(images, np.array(split.labels), split.keys, device)
