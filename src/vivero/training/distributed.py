"""Several processes that train as one: who is first, who takes which images, means over all.

The processes are started by torchrun or by Ray; without them there is one. Gloo on CPUs, NCCL on
GPUs. Unless the state is cut up (sharding: full), every process holds all of it. Only the first
one writes, whole tensors, so any number of processes can resume.
"""

import atexit
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from vivero.config.schema import TrainConfig
from vivero.errors import ConfigError
from vivero.models.tree import TreeNetwork

# Beside a GPU's gradients the processes agree on small things, which gloo does without the GPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}

WORD_LETTERS = 64

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

    @property
    def num_machines(self) -> int:
        """Over how many machines the processes are spread, as torchrun says it; else 1."""
        per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", self.num_processes))
        return max(1, self.num_processes // per_machine)

    def share_of(self, batch_images: int) -> slice:
        """The images of the joint batch that are this process's, as a range."""
        size = batch_images // self.num_processes
        return slice(self.rank * size, (self.rank + 1) * size)

    def place(self, model: nn.Module, config: TrainConfig) -> nn.Module:
        """The model on this process's device, its weights cut up where config says so."""
        model = model.to(self.device)
        if config.sync_batch_norm:
            self._refuse_sync_batch_norm_here()
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        if config.sharding == "full":
            model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            mesh = init_device_mesh(self.device.type, (self.num_processes,))
            for unit in sharding_units(model):
                fully_shard(unit, mesh=mesh)
            # The root as well: a look without gradients would leave it whole, and stale, otherwise.
            fully_shard(model, mesh=mesh, reshard_after_forward=True)
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over all processes."""
        if self.num_processes == 1 or isinstance(model, FSDPModule):
            return model
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model,
            device_ids=device_ids,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            # a small part of a batch may hold no image for some branch of a tree
            find_unused_parameters=isinstance(model, TreeNetwork),
        )

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.num_processes > 1:
            value = value.clone()
            dist.all_reduce(value, dist.ReduceOp.SUM)
            value = value / self.num_processes
        return value

    def each(self, value: Tensor) -> list[float]:
        """A number of each process, in the order of their ranks."""
        if self.num_processes == 1:
            return [value.item()]
        values = [torch.empty_like(value) for _ in range(self.num_processes)]
        dist.all_gather(values, value)
        return [each.item() for each in values]

    def largest(self, value: int) -> int:
        """The largest of the values that the processes give."""
        if self.num_processes == 1:
            return value
        shared = torch.tensor(value)  # on the CPU: asked at every step, it may not wait for a GPU
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared.item())

    def word_of_the_first(self, word: str) -> str:
        """What the first process says, of at most 64 letters."""
        if self.num_processes == 1:
            return word
        letters = torch.zeros(WORD_LETTERS, dtype=torch.uint8)
        encoded = word.encode()
        letters[: len(encoded)] = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        dist.broadcast(letters, src=0)
        return bytes(letters.tolist()).rstrip(b"\0").decode()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.num_processes > 1:
            dist.barrier()

    def _refuse_sync_batch_norm_here(self) -> None:
        if self.device.type == "cpu":
            raise ConfigError(
                "train.sync_batch_norm works on GPUs only, and no network of models/ has batch "
                "normalisation so far; write train.sync_batch_norm: false"
            )


def sharding_units(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that are cut up and gathered one at a time: its blocks."""
    return [
        block
        for blocks in model.modules()
        if isinstance(blocks, nn.ModuleList)
        for block in blocks
        if not isinstance(block, nn.ModuleList)
    ]


@contextlib.contextmanager
def gradient_exchange(model: nn.Module, is_due: bool) -> Iterator[None]:
    """Within this context the gradients of a wrapped model are exchanged only if it is due."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_due)
        yield
    elif isinstance(model, DistributedDataParallel) and not is_due:
        with model.no_sync():
            yield
    else:
        yield


def alone(device: torch.device | None = None) -> Workers:
    """One process, on a GPU where there is one."""
    return Workers(0, 1, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def is_launched() -> bool:
    """Whether torchrun or Ray started this process as one of several."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ
    return by_torchrun or (dist.is_available() and dist.is_initialized())


@contextlib.contextmanager
def join_workers() -> Iterator[Workers]:
    """This process among those of torchrun or Ray; alone when neither started it."""
    if not is_launched():
        yield alone()
        return
    is_ours = not dist.is_initialized()  # Ray has opened its group already and closes it itself
    device = _own_device()
    if is_ours:
        device_id = device if device.type == "cuda" else None
        dist.init_process_group(BACKENDS[device.type], device_id=device_id)
    try:
        yield Workers(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if is_ours:
            _leave_group()


def _leave_group() -> None:
    """Close the group, but hold it until the interpreter exits.

    A DDP model that outlives it would be its last holder and wait, with Python's lock in its hand,
    for gloo's threads, which may need that lock to end: torch 2.13 on a busy machine hung so.
    """
    atexit.register(_free_models, dist.group.WORLD)
    dist.destroy_process_group()


def _free_models(_group: dist.ProcessGroup | None) -> None:
    gc.collect()  # models are cycles; the group that this call holds goes after them


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def torchrun_command(module: str, num_processes: int, max_restarts: int = 0) -> list[str]:
    """The command that runs a module in several processes on this machine.

    When one of them dies, all are started again, up to max_restarts times.
    """
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(num_processes), "--max-restarts", str(max_restarts)),
        *("-m", module),
    ]
