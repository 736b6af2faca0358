"""A small convolutional classifier, trained on the spot: a judge that no one could have gamed.

Same images, labels and seed: same weights. Shapes: N images, C channels,
H x W pixels, K classes.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from tqdm import tqdm

from vivero.data.prepared import NO_LABEL, to_model_range
from vivero.errors import NotComputableError
from vivero.files import write_whole

NAME = "small_cnn"
WIDTHS = (16, 32, 64)
KERNELS = (5, 3, 3)  # a first stride of 2 makes it four times cheaper and costs 1 % of accuracy
BATCH_IMAGES = 128
MAX_LEARNING_RATE = 1e-2
WARMUP_SHARE = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Teaching:
    """How a classifier is taught.

    Attributes:
        num_classes: K.
        epochs: Passes over the images.
        seed: Of the first weights and the order of the images.
    """

    num_classes: int
    epochs: int
    seed: int


class SmallCnn(nn.Sequential):
    """Three convolutions of stride 2 and one linear layer; about 26,000 weights."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        layers: list[nn.Module] = []
        width = num_channels
        for next_width, kernel in zip(WIDTHS, KERNELS, strict=True):
            layers += [
                nn.Conv2d(width, next_width, kernel, stride=2, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(next_width),
                nn.ReLU(),
            ]
            width = next_width
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes)]
        super().__init__(*layers)


def train_classifier(images: np.ndarray, labels: np.ndarray, teaching: Teaching) -> SmallCnn:
    """A classifier that has learned these images; rows without a label are left out.

    Args:
        images: uint8, shape (N, C, H, W); may be memory-mapped.
        labels: int64, shape (N,), in [0, K) or NO_LABEL.
        teaching: Classes, length and seed.

    Raises:
        NotComputableError: When fewer than two rows have a label.
    """
    rows = torch.from_numpy(np.flatnonzero(labels != NO_LABEL))
    if len(rows) < 2:
        raise NotComputableError(f"a classifier needs at least 2 labelled images; got {len(rows)}")
    generator = torch.Generator().manual_seed(teaching.seed)
    network = _fresh(images.shape[1], teaching.num_classes, generator)
    steps_per_epoch = max(1, len(rows) // BATCH_IMAGES)
    optimizer = torch.optim.AdamW(network.parameters(), lr=MAX_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_share(step, teaching.epochs * steps_per_epoch)
    )
    network.train()
    for epoch in tqdm(range(teaching.epochs), desc=f"{NAME} learns", unit="epoch", disable=None):
        order = rows[torch.randperm(len(rows), generator=generator)]
        loss_sum = 0.0
        for batch in order.tensor_split(steps_per_epoch):
            chosen = np.sort(batch.numpy())  # in the order of the file, which may be mapped
            clean = _as_input(images[chosen])
            loss = nn.functional.cross_entropy(network(clean), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            loss_sum += loss.item()
        log.debug("%s: epoch %d, loss %.4f", NAME, epoch + 1, loss_sum / steps_per_epoch)
    return network.eval().requires_grad_(False)


def predicted_labels(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """The class that the network sees in each image; int64, shape (N,)."""
    with torch.inference_mode():
        parts = [
            network(_as_input(images[start : start + 500])).argmax(dim=1)
            for start in range(0, len(images), 500)
        ]
    return torch.cat(parts).numpy()


def save_classifier(network: SmallCnn, path: Path) -> None:
    """Write the weights as safetensors, whole or not at all."""
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with write_whole(path) as part_path:
        part_path.write_bytes(save(weights))


def load_classifier(path: Path) -> SmallCnn:
    """Read what save_classifier wrote; the sizes are those of the weights."""
    weights = load(path.read_bytes())
    num_channels = weights["0.weight"].shape[1]
    num_classes = weights[max(weights, key=lambda name: int(name.split(".")[0]))].shape[0]
    network = SmallCnn(num_channels, num_classes)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _fresh(num_channels: int, num_classes: int, generator: torch.Generator) -> SmallCnn:
    network = SmallCnn(num_channels, num_classes)
    for module in network:  # again from our generator: the global one is not ours to rely on
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _as_input(images: np.ndarray) -> Tensor:
    batch = to_model_range(torch.from_numpy(np.array(images)))
    return batch.contiguous(memory_format=torch.channels_last)


def _learning_rate_share(step: int, total_steps: int) -> float:
    """Up in a straight line for WARMUP_SHARE of the steps, then down to zero."""
    warmup_steps = max(1, round(WARMUP_SHARE * total_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
