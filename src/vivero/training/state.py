"""All that training changes: weights, their average, the optimiser's moments, and the clock.

Nothing else has to be saved to go on to the same bits, because randomness is a function of the
clock (`training.randomness`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vivero.config.schema import TrainConfig
from vivero.errors import CheckpointError

ADAM_BETA1 = 0.9
MOMENTS = ("step", "exp_avg", "exp_avg_sq")

TensorFiles = Mapping[str, Mapping[str, Tensor]]


@dataclass
class Tally:
    """Sums since the last log point, kept on the device so that no step waits for it.

    Attributes:
        loss: Sum of the batches' mean losses, float64 scalar.
        gradient_norm: Sum of the gradient's norms before clipping, float64 scalar.
        num_steps: How many batches were summed.
        bad_begin: Clock at the first batch whose loss or gradient was not finite; -1 = none.
        bad_losses: Loss of each image of that batch (of this process), shape (B,).
    """

    loss: Tensor
    gradient_norm: Tensor
    num_steps: int
    bad_begin: Tensor
    bad_losses: Tensor

    def add(self, losses: Tensor, gradient_norm: Tensor, begin: int) -> None:
        """Count a batch that began at images_seen = begin; losses (B,) are its images'."""
        mean = losses.mean()
        is_first_bad = (self.bad_begin < 0) & ~torch.isfinite(mean + gradient_norm)
        self.bad_begin = torch.where(is_first_bad, begin, self.bad_begin)
        self.bad_losses = torch.where(is_first_bad, losses, self.bad_losses)
        self.loss += mean
        self.gradient_norm += gradient_norm
        self.num_steps += 1


def new_tally(num_images: int, device: torch.device) -> Tally:
    """Nothing counted yet; num_images is the batch of one process."""
    zero = torch.zeros((), dtype=torch.float64, device=device)
    bad_begin = torch.full((), -1, dtype=torch.int64, device=device)
    return Tally(zero, zero.clone(), 0, bad_begin, torch.zeros(num_images, device=device))


@dataclass
class TrainState:
    """One run at one moment.

    Attributes:
        model: The network that is trained.
        ema: Average of its parameters by name.
        optimizer: AdamW over its parameters.
        tally: Sums since the last log point.
        images_seen: The clock.
        train_s: Seconds spent in the loop, over all starts.
        resumed_from: The clock at each start that was not the first.
    """

    model: nn.Module
    ema: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    tally: Tally
    images_seen: int = 0
    train_s: float = 0.0
    resumed_from: list[int] = field(default_factory=list)

    def ema_state_dict(self) -> dict[str, Tensor]:
        """The averaged weights under the names of model.state_dict()."""
        return {**self.model.state_dict(), **self.ema}

    def ema_network(self) -> Callable[..., Tensor]:
        """The network with its averaged weights; holds no copy, so it follows the average."""

        def network(*inputs: Tensor) -> Tensor:
            output: Tensor = functional_call(self.model, self.ema, inputs)
            return output

        return network


def new_train_state(model: nn.Module, config: TrainConfig, device: torch.device) -> TrainState:
    """The state before the first image; the model's weights are drawn already."""
    model = model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(ADAM_BETA1, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    ema = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    tally = new_tally(config.batch_images // config.num_processes, device)
    return TrainState(model, ema, optimizer, tally)


def tensors_of(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """The tensors to save, by file: weights, ema, optimizer; contiguous, on the CPU."""
    moments = {
        f"{name}/{moment}": state.optimizer.state[weight][moment]
        for name, weight in state.model.named_parameters()
        for moment in MOMENTS
    }
    files = {"weights": state.model.state_dict(), "ema": state.ema, "optimizer": moments}
    return {
        file: {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        for file, tensors in files.items()
    }


@torch.no_grad()
def restore_tensors(state: TrainState, files: TensorFiles) -> None:
    """Put saved tensors into a new state.

    Raises:
        CheckpointError: When names or shapes are not this model's.
    """
    _copy_into(state.model.state_dict(), files["weights"], "weights")
    _copy_into(state.ema, files["ema"], "ema")
    moments = {}
    for name, weight in state.model.named_parameters():
        fresh = {
            "step": torch.zeros((), dtype=torch.float32, device=weight.device),
            "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
        }
        state.optimizer.state[weight] = fresh
        moments.update({f"{name}/{moment}": tensor for moment, tensor in fresh.items()})
    _copy_into(moments, files["optimizer"], "optimizer")


def _copy_into(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], file: str) -> None:
    if targets.keys() != saved.keys():
        odd = sorted(targets.keys() ^ saved.keys())[:3]
        raise CheckpointError(
            f"{file}.safetensors is of another model: {len(targets)} tensors were expected, "
            f"{len(saved)} came, and the names differ, for instance {odd}"
        )
    for name, target in targets.items():
        if target.shape != saved[name].shape:
            raise CheckpointError(
                f"{file}.safetensors is of another model: {name} should have the shape "
                f"{tuple(target.shape)}, the file has {tuple(saved[name].shape)}"
            )
        target.copy_(saved[name])
