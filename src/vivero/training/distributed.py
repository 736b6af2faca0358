"""Several processes that train as one: who is first, who takes which images, means over all.

The processes are started by torchrun; without it there is one. Gloo on CPUs, NCCL on GPUs.
Every process holds the whole state, so only the first one writes, and any number can resume.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """This process among those that train together.

    Attributes:
        rank: Number of this process, from 0.
        num_processes: How many there are.
        device: Where this process computes.
    """

    rank: int
    num_processes: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share_of(self, batch_images: int) -> slice:
        """The images of the joint batch that are this process's, as a range."""
        size = batch_images // self.num_processes
        return slice(self.rank * size, (self.rank + 1) * size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over all processes."""
        if self.num_processes == 1:
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model, device_ids=device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.num_processes > 1:
            dist.all_reduce(value, dist.ReduceOp.SUM)
            value = value / self.num_processes
        return value

    def largest(self, value: int) -> int:
        """The largest of the values that the processes give."""
        if self.num_processes == 1:
            return value
        shared = torch.tensor(value, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared.item())

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.num_processes > 1:
            dist.barrier()


def alone(device: torch.device | None = None) -> Workers:
    """One process, on a GPU where there is one."""
    return Workers(0, 1, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


@contextlib.contextmanager
def join_workers() -> Iterator[Workers]:
    """This process among those of torchrun; alone when torchrun did not start it."""
    if not is_launched():
        yield alone()
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    try:
        yield Workers(rank, dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def torchrun_command(module: str, num_processes: int) -> list[str]:
    """The command that runs a module in several processes on this machine."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(num_processes), "-m", module),
    ]
