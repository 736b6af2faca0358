"""All that training changes: weights, their averages, the optimiser's moments, and the clock.

Nothing else has to be saved to go on to the same bits, because randomness is a function of the
clock (`training.randomness`).
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from vivero.config.schema import TrainConfig
from vivero.errors import CheckpointError, ConfigError
from vivero.training.clipping import whole
from vivero.training.ema import ema_decay, update_ema
from vivero.training.loss import loss_terms

ADAM_BETA1 = 0.9
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
USUAL_DECAY = 0.98  # the usual loss is an average over the last 50 batches or so
NUM_STEPS_UNTIL_USUAL = 50

TensorFiles = Mapping[str, Mapping[str, Tensor]]


@dataclass
class Tally:
    """Sums since the last log point, kept on the device so that no step waits for it.

    Attributes:
        loss: Sum of the batches' mean losses, float64 scalar.
        gradient_norm: Sum of the gradient's norms before clipping, float64 scalar.
        terms: Sum of the batches' means of each named part of the loss, float64 scalars.
        num_steps: How many batches were summed.
        usual_loss: Running mean of the loss over all steps before the first bad one, float64.
        bad_begin: Clock at the first batch with a bad loss or gradient; -1 = none.
        bad_losses: Loss of each image of that batch (of this process), shape (B,).
        max_jump: How many times the usual loss counts as exploded.
        may_overflow: Whether a gradient that is not finite is normal (fp16 then skips the step).
    """

    loss: Tensor
    gradient_norm: Tensor
    terms: dict[str, Tensor]
    num_steps: int
    usual_loss: Tensor
    bad_begin: Tensor
    bad_losses: Tensor
    max_jump: float
    may_overflow: bool

    def add(
        self,
        losses: Tensor,
        terms: Mapping[str, Tensor],
        gradient_norm: Tensor,
        begin: int,
        num_before: int,
    ) -> None:
        """Count a batch.

        Args:
            losses: Of its images, shape (B,).
            terms: Mean of each named part of the loss, as far as the batch has it.
            gradient_norm: Before clipping, a scalar.
            begin: Images seen before it.
            num_before: Batches before it, since the start of training.
        """
        mean = losses.mean().double()
        if self.may_overflow:
            gradient_norm = torch.nan_to_num(gradient_norm, posinf=0.0)
        is_bad = ~torch.isfinite(mean + gradient_norm)
        if num_before >= NUM_STEPS_UNTIL_USUAL:
            is_bad |= mean > self.max_jump * self.usual_loss
        is_first_bad = (self.bad_begin < 0) & is_bad
        self.bad_begin = torch.where(is_first_bad, begin, self.bad_begin)
        self.bad_losses = torch.where(is_first_bad, losses, self.bad_losses)
        usual = torch.lerp(mean, self.usual_loss, USUAL_DECAY if num_before else 0.0)
        self.usual_loss = torch.where(self.bad_begin < 0, usual, self.usual_loss)
        self.loss += mean
        self.gradient_norm += gradient_norm
        for name, mean_of_term in terms.items():
            self.terms[name] += mean_of_term
        self.num_steps += 1

    def begin_anew(self) -> None:
        """Forget the sums of the log point that has been reported."""
        self.loss.zero_()
        for total in (self.gradient_norm, *self.terms.values()):
            total.zero_()
        self.num_steps = 0


def new_tally(config: TrainConfig, device: torch.device) -> Tally:
    """Nothing counted yet."""
    zero = torch.zeros((), dtype=torch.float64, device=device)
    return Tally(
        loss=zero,
        gradient_norm=zero.clone(),
        terms={name: zero.clone() for name in loss_terms(config)},
        num_steps=0,
        usual_loss=zero.clone(),
        bad_begin=torch.full((), -1, dtype=torch.int64, device=device),
        bad_losses=torch.zeros(config.batch_images // config.num_processes, device=device),
        max_jump=config.max_loss_jump,
        may_overflow=config.precision == "fp16",
    )


@dataclass(frozen=True)
class Best:
    """The least validation loss so far and the clock at it."""

    loss: float = math.inf
    images_seen: int = 0


@dataclass
class TrainState:
    """One run at one moment.

    Attributes:
        model: The network that is trained; its weights are cut up where sharding says so.
        averages: For each half-life in images: the average of its parameters by name.
        optimizer: AdamW over its parameters.
        scaler: Scales the loss where precision is fp16; otherwise does nothing.
        tally: Sums since the last log point.
        images_seen: The clock.
        train_s: Seconds spent in the loop, over all starts.
        resumed_from: The clock at each start that was not the first.
        other_surroundings: At each start that was not exact to the bit: why not.
        best: By validation loss of the first average.
        validation_loss: Of this very moment; None where it was not computed.
        has_stopped_early: Whether validation ended the run.
    """

    model: nn.Module
    averages: dict[int, dict[str, Tensor]]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    tally: Tally
    images_seen: int = 0
    train_s: float = 0.0
    resumed_from: list[int] = field(default_factory=list)
    other_surroundings: list[str] = field(default_factory=list)
    best: Best = field(default_factory=Best)
    validation_loss: float | None = None
    has_stopped_early: bool = False

    def is_complete(self, total_images: int) -> bool:
        """Whether no step is left."""
        return self.has_stopped_early or self.images_seen >= total_images

    def average_weights(self, batch_images: int) -> None:
        """Move every average towards the weights, after a batch."""
        weights = [local(weight.detach()) for weight in self.model.parameters()]
        for halflife_images, average in self.averages.items():
            decay = ema_decay(self.images_seen, batch_images, halflife_images)
            update_ema([local(tensor) for tensor in average.values()], weights, decay)

    @contextlib.contextmanager
    @torch.no_grad()
    def averaged(self, halflife_images: int) -> Iterator[nn.Module]:
        """The model with averaged weights within the context, its own afterwards."""
        pairs = list(zip(self.model.parameters(), self.average(halflife_images), strict=True))
        kept = [weight.detach().clone() for weight, _ in pairs]
        self.model.eval()
        try:
            for weight, mean in pairs:
                local(weight).copy_(local(mean))
            yield self.model
        finally:
            for (weight, _), own in zip(pairs, kept, strict=True):
                local(weight).copy_(local(own))
            self.model.train()

    def average(self, halflife_images: int) -> list[Tensor]:
        """One average, in the order of the model's parameters."""
        return list(self.averages[halflife_images].values())

    def average_state_dict(self, halflife_images: int) -> dict[str, Tensor]:
        """An average under the names of model.state_dict(), whole; every process must ask."""
        state = {**self.model.state_dict(), **self.averages[halflife_images]}
        return {name: whole(tensor) for name, tensor in state.items()}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is cut up; otherwise the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def new_train_state(model: nn.Module, config: TrainConfig, device: torch.device) -> TrainState:
    """The state before the first image; the model's weights are drawn, on the device, cut up."""
    optimizer = torch.optim.AdamW(
        decay_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(ADAM_BETA1, config.adam_beta2),
        fused=True,
    )
    # AdamW's own way is to wait for a weight's first gradient, which some never get
    optimizer.state.update({weight: fresh_moments(weight) for weight in model.parameters()})
    averages = {
        halflife: {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for halflife in config.ema_halflives_images
    }
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    return TrainState(model, averages, optimizer, scaler, new_tally(config, device))


@torch.no_grad()
def fresh_moments(weight: Tensor) -> dict[str, Tensor]:
    """AdamW's moments of a weight before its first step, cut up as the weight is."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=weight.device),
        "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
    }


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters in two groups: matrices and kernels decay; gains, biases and such do not.

    Source:
        Loshchilov and Hutter 2019, arXiv:1711.05101 (the decay apart from the gradient).
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for weight in model.parameters():
        groups[weight.numel() > weight.shape[0] if weight.ndim else False].append(weight)
    return [
        {"params": weights, "weight_decay": weight_decay if is_decayed else 0.0}
        for is_decayed, weights in groups.items()
        if weights
    ]


@torch.no_grad()
def start_from(state: TrainState, weights: Mapping[str, Tensor]) -> None:
    """Begin with the weights of another model of the same shape, in the averages as well.

    Raises:
        ConfigError: When names or shapes are not this model's.
    """
    try:
        _copy_into(state.model.state_dict(), weights, "its weights")
    except CheckpointError as error:
        raise ConfigError(
            f"train.initial_model does not fit train.model and the prepared images: {error}. Write "
            f"the train.model it was trained with (it stands in its config.json), or null"
        ) from error
    for average in state.averages.values():
        for name, weight in state.model.named_parameters():
            local(average[name]).copy_(local(weight))


def tensors_of(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """A copy of the tensors to save, by file: weights, ema-<half-life>, optimizer.

    Contiguous, on the CPU, whole: every process must ask. From a GPU the copies may still be under
    way when this returns; `torch.cuda.synchronize` waits for them.
    """
    moments = {
        f"{name}/{moment}": state.optimizer.state[weight][moment]
        for name, weight in state.model.named_parameters()
        for moment in MOMENTS
    }
    averages = {f"ema-{halflife}": average for halflife, average in state.averages.items()}
    files = {"weights": state.model.state_dict(), **averages, "optimizer": moments}
    return {
        file: {name: snapshot(tensor) for name, tensor in tensors.items()}
        for file, tensors in files.items()
    }


def snapshot(tensor: Tensor) -> Tensor:
    """A whole, contiguous copy on the CPU; from a GPU it does not wait."""
    values = whole(tensor.detach())
    is_cuda = values.device.type == "cuda"
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=is_cuda)
    return copy.copy_(values, non_blocking=is_cuda)


@torch.no_grad()
def restore_tensors(state: TrainState, files: TensorFiles) -> None:
    """Put saved tensors into a new state.

    Raises:
        CheckpointError: When names or shapes are not this model's.
    """
    averages = {f"ema-{halflife}": average for halflife, average in state.averages.items()}
    targets = {"weights": state.model.state_dict(), **averages}
    if files.keys() != {*targets, "optimizer"}:
        raise CheckpointError(
            f"the checkpoint holds {sorted(files)}; expected {sorted([*targets, 'optimizer'])}. "
            f"Delete it and run the same command again"
        )
    for file, tensors in targets.items():
        _copy_into(tensors, files[file], file)
    moments = {}
    for name, weight in state.model.named_parameters():
        state.optimizer.state[weight] = fresh = fresh_moments(weight)
        moments.update({f"{name}/{moment}": tensor for moment, tensor in fresh.items()})
    _copy_into(moments, files["optimizer"], "optimizer")


def _copy_into(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], file: str) -> None:
    if targets.keys() != saved.keys():
        odd = sorted(targets.keys() ^ saved.keys())[:3]
        raise CheckpointError(
            f"{file} are of another model: {len(targets)} tensors were expected, {len(saved)} "
            f"came, and the names differ, for instance {odd}"
        )
    for name, target in targets.items():
        if target.shape != saved[name].shape:
            raise CheckpointError(
                f"{file} are of another model: {name} should have the shape "
                f"{tuple(target.shape)}, what came has {tuple(saved[name].shape)}"
            )
        if isinstance(target, DTensor):
            values = saved[name].to(target.device)
            cut = distribute_tensor(
                values, target.device_mesh, target.placements, src_data_rank=None
            )
            local(target).copy_(local(cut))
        else:
            target.copy_(saved[name])
