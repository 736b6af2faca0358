"""The order in which images are trained on, as a pure function of the seed and the position.

Nothing is remembered between calls: a run that stops and resumes, or that is spread over other
workers, sees the same images at the same positions.
"""

from functools import lru_cache

import numpy as np


def batch_indices(seed: int, num_images: int, begin: int, size: int) -> np.ndarray:
    """Indices of the images at positions [begin, begin + size) of the endless training stream.

    The stream is one permutation of all images after another; that of epoch e is drawn from
    (seed, e), so a batch may end one epoch and begin the next.

    Args:
        seed: Of the run; at least 0.
        num_images: In the training split; at least 1.
        begin: Images seen before; at least 0.
        size: How many; at least 0.

    Returns:
        Indices, shape (size,), int64, in [0, num_images).

    Raises:
        ValueError: When an argument is out of range.
    """
    if seed < 0 or num_images < 1 or begin < 0 or size < 0:
        raise ValueError(
            f"need seed, begin, size >= 0 and num_images >= 1; "
            f"got {seed}, {begin}, {size} and {num_images}"
        )
    parts = [np.empty(0, np.int64)]
    position, end = begin, begin + size
    while position < end:
        epoch, index_of_epoch = divmod(position, num_images)
        num_taken = min(num_images - index_of_epoch, end - position)
        order = epoch_order(seed, num_images, epoch)
        parts.append(order[index_of_epoch : index_of_epoch + num_taken])
        position += num_taken
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def epoch_order(seed: int, num_images: int, epoch: int) -> np.ndarray:
    """The permutation of [0, num_images) in which one epoch goes; int64, read-only.

    Kept for the last two epochs, since every batch asks for it again.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch))))
    order = generator.permutation(num_images).astype(np.int64)
    order.flags.writeable = False
    return order
