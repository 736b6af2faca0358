"""Work spread over cores: whole pieces in parallel, one torch thread each.

For small networks this is faster than all cores on one piece, does not stall when others use the
machine too, and gives the same bytes whatever the number of cores.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def spread_over_cores(
    function: Callable[[Piece], Result], pieces: Iterable[Piece]
) -> Iterator[Result]:
    """Results of function in the order of the pieces, on as many threads as torch may use."""
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=_use_one_thread) as pool:
        yield from pool.map(function, pieces)


def _use_one_thread() -> None:
    torch.set_num_threads(1)  # of this thread alone: OpenMP keeps the number per thread
