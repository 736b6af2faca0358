"""One step: noise a batch, fit it part by part, move the averages."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from vivero.config.schema import TrainConfig
from vivero.errors import ViveroError
from vivero.models.denoisers import AnyDenoiser
from vivero.training.batches import Batch, Batches
from vivero.training.clipping import clip_gradients
from vivero.training.distributed import Workers, gradient_exchange
from vivero.training.learning_rate import rate_at
from vivero.training.loss import Objective
from vivero.training.state import TrainState

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Phase = Callable[[str], contextlib.AbstractContextManager[object]]
Call = Callable[..., Any]  # a network, however it is called


@dataclass(frozen=True)
class Rig:
    """What a step works with and does not change.

    Attributes:
        config: Settings of the run.
        workers: This process among those that train together.
        batches: What is trained on, by position.
        objective: What is learned.
        network: The module whose gradients are exchanged between processes.
        denoise: The denoiser over the network that is trained.
        phase: A context that names what is done within it, for a profile.
    """

    config: TrainConfig
    workers: Workers
    batches: Batches
    objective: Objective
    network: nn.Module
    denoise: AnyDenoiser
    phase: Phase = record_function


def build_rig(
    state: TrainState, config: TrainConfig, workers: Workers, batches: Batches, objective: Objective
) -> Rig:
    """A rig that trains the state's model, with all workers."""
    network = workers.wrap(state.model)
    called: Call = torch.compile(network) if config.compile else network
    denoise = objective.denoiser(state.model, mixed(called, workers.device, config.precision))
    router = objective.router(denoise, batches.feed.images.shape[-1])
    return Rig(config, workers, replace(batches, router=router), objective, network, denoise)


def mixed(network: Call, device: torch.device, precision: str) -> Call:
    """The network under autocast unless precision is fp32; a denoiser brings its output back."""
    if precision == "fp32":
        return network

    def in_half(*inputs: Any) -> Any:
        with torch.autocast(device.type, DTYPES[precision]):
            return network(*inputs)

    return in_half


def train_step(state: TrainState, rig: Rig) -> None:
    """Fit the joint batch that begins at state.images_seen; nothing waits for the device."""
    config, begin = rig.config, state.images_seen
    with rig.phase("batch"):
        batch = rig.batches.at(begin)
    losses, terms = accumulate_gradients(state, rig, batch)

    with rig.phase("optimiser"):
        weights = list(state.model.parameters())
        state.scaler.unscale_(state.optimizer)
        gradient_norm = clip_gradients(weights, config)
        for group in state.optimizer.param_groups:
            group["lr"] = rate_at(begin, config)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)

    state.images_seen += config.batch_images
    with rig.phase("average"):
        state.average_weights(config.batch_images)
        state.tally.add(losses, terms, gradient_norm, begin, begin // config.batch_images)


def accumulate_gradients(
    state: TrainState, rig: Rig, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """Leave the gradient of the mean loss of the joint batch in the weights.

    Returns:
        The loss of each image of this process, shape (B,), and the mean of each named part of it.
    """
    num_parts, losses = rig.config.num_micro_batches, []
    terms: dict[str, Tensor] = {}
    for index, part in enumerate(batch.parts(num_parts)):
        with gradient_exchange(rig.network, is_due=index == num_parts - 1):
            with rig.phase("forward"):
                each = rig.objective.losses(
                    rig.denoise, part.clean, part.labels, part.draw, part.routing
                )
                loss = each.per_image.mean() / num_parts
            with rig.phase("backward"):
                state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        losses.append(each.per_image.detach())
        for name, mean in each.terms.items():
            terms[name] = mean / num_parts + terms.get(name, 0.0)
    return torch.cat(losses), terms


@contextlib.contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """Turn "out of memory" of a device or the machine into a sentence that says what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        said = str(error).lower()
        is_about_memory = "out of memory" in said or "allocate memory" in said
        if not (isinstance(error, MemoryError) or is_about_memory):
            raise
        raise ViveroError(
            f"training ran out of memory; {less_memory(config)}. "
            f"The device said: {str(error)[:200] or 'nothing'}"
        ) from error


def less_memory(config: TrainConfig) -> str:
    """The settings to change when memory is short, the mildest first."""
    num_parts = config.num_micro_batches * 2
    if config.batch_images % (num_parts * config.num_processes) == 0:
        change = f"num_micro_batches: {num_parts}"
    elif not config.gradient_checkpointing:
        change = "gradient_checkpointing: true"
    else:
        return (
            "write a smaller train.batch_images or fewer train.model.channels in params.yaml and "
            "run the same command again"
        )
    return (
        f"write train.{change} in params.yaml and run the same command again: it resumes from the "
        f"last checkpoint, and the model stays the same up to rounding"
    )
