"""One step: noise a batch, fit it, move the average."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivero.config.schema import TrainConfig
from vivero.data.batches import batch_indices
from vivero.diffusion.preconditioning import Denoise, Network
from vivero.errors import ViveroError
from vivero.training.distributed import Workers
from vivero.training.ema import ema_decay, update_ema
from vivero.training.feed import Feed
from vivero.training.learning_rate import cosine_with_warmup
from vivero.training.loss import Objective, denoising_loss, kept_labels
from vivero.training.randomness import NoiseDraw, draw_noise, generator_at
from vivero.training.state import TrainState


@dataclass(frozen=True)
class Rig:
    """What a step works with and does not change.

    Attributes:
        config: Settings of the run.
        workers: This process among those that train together.
        feed: The images to train on.
        objective: What is learned.
        denoise: The denoiser over the network that is trained.
    """

    config: TrainConfig
    workers: Workers
    feed: Feed
    objective: Objective
    denoise: Denoise


def build_rig(
    state: TrainState, config: TrainConfig, workers: Workers, feed: Feed, objective: Objective
) -> Rig:
    """A rig that trains the state's model, with all workers."""
    network = mixed(workers.wrap(state.model), workers.device, config.precision)
    return Rig(config, workers, feed, objective, objective.denoiser(network))


def mixed(network: Network, device: torch.device, precision: str) -> Network:
    """The network under autocast when precision is bf16; its output is float32 either way."""
    if precision == "fp32":
        return network

    def in_bf16(scaled: Tensor, noise_condition: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return network(scaled, noise_condition, labels).float()

    return in_bf16


def train_step(state: TrainState, rig: Rig) -> None:
    """Fit the joint batch that begins at state.images_seen; nothing waits for the device."""
    config, begin = rig.config, state.images_seen
    clean, labels, draw = batch_at(begin, rig)
    losses = denoising_loss(rig.denoise, rig.objective.weight, clean, labels, draw)

    state.optimizer.zero_grad(set_to_none=True)
    losses.mean().backward()  # type: ignore[no-untyped-call]
    weights = list(state.model.parameters())
    gradient_norm = torch.nn.utils.clip_grad_norm_(weights, config.max_gradient_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = rate_at(begin, config)
    state.optimizer.step()

    state.images_seen += config.batch_images
    decay = ema_decay(state.images_seen, config.batch_images, config.ema_halflife_images)
    update_ema(list(state.ema.values()), weights, decay)
    state.tally.add(losses.detach(), gradient_norm, begin)


def rate_at(images_seen: int, config: TrainConfig) -> float:
    """The learning rate of the batch that begins after images_seen images."""
    return cosine_with_warmup(
        images_seen,
        peak=config.learning_rate,
        warmup_images=config.warmup_images,
        total_images=config.total_images,
    )


def batch_at(begin: int, rig: Rig) -> tuple[Tensor, Tensor, NoiseDraw]:
    """This worker's images, labels and noise of the joint batch that begins at `begin`."""
    config, device = rig.config, rig.workers.device
    mine = rig.workers.share_of(config.batch_images)
    clean, labels = rig.feed.at(indices_at(begin, rig)[mine])
    draw = draw_at(begin, rig)[mine].to(device)
    return clean, kept_labels(labels, draw.is_unlabelled, rig.objective.null_label), draw


def indices_at(begin: int, rig: Rig) -> np.ndarray:
    """Rows of the joint batch that begins at `begin`, shape (batch_images,)."""
    return np.asarray(batch_indices(rig.config.seed, len(rig.feed), begin, rig.config.batch_images))


def draw_at(begin: int, rig: Rig) -> NoiseDraw:
    """The noise of the joint batch that begins at `begin`."""
    shape = (rig.config.batch_images, *rig.feed.images.shape[1:])
    generator, objective = generator_at(rig.config.seed, "train", begin), rig.objective
    return draw_noise(generator, shape, objective.schedule.draw_sigma, objective.label_dropout)


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
        smaller = max(config.num_processes, config.batch_images // 2)
        raise ViveroError(
            f"training ran out of memory with train.batch_images: {config.batch_images}; write "
            f"train.batch_images: {smaller} in params.yaml (or fewer channels) and run the same "
            f"command again. The device said: {str(error)[:200] or 'nothing'}"
        ) from error
