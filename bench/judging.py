"""Judges that no contestant has seen: how far samples are from real images, by three networks.

Two small networks of different architectures learn the real training images here, once: their
classes, or where there are none by how many quarter turns an image was rotated. The third is
EfficientNet-Lite0 with the weights of ImageNet. Every distance is to the real test images and
stands beside its floor: as many real training images, judged in the same way.

Shapes: N images, M test images, C channels, H x W pixels, D features, K classes.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vivero.data.prepared import NO_LABEL, PreparedSplit, open_split, read_card, to_model_range
from vivero.errors import DataError
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.efficientnet import load_efficientnet_lite0
from vivero.evaluation.extractors import Extractor
from vivero.evaluation.features import cached_features, extract, sha256_of_array
from vivero.evaluation.frechet import Moments, frechet_estimate, moments
from vivero.evaluation.kernel import kernel_estimate, mean_kernel_of_pairs
from vivero.files import sha256_of_file, sha256_of_json
from vivero.integrity.caches import load_tensors, save_tensors

JudgeName = Literal["strided", "pooled"]
JUDGES: tuple[JudgeName, ...] = ("strided", "pooled")
EFFICIENTNET, EFFICIENTNET_PX = "efficientnet_lite0", 64
NUM_FEATURES = 64
BATCH_IMAGES, FEATURE_BATCH_IMAGES = 128, 250
EPOCHS, SEED = 4, 11
PEAK_LEARNING_RATE, WARMUP_SHARE, WEIGHT_DECAY = 4e-3, 0.2, 0.02
QUARTER_TURNS = 4
FLOOR_SEED = 5  # of the rows that stand for "as many real images"


@dataclass(frozen=True, eq=False)  # by identity, so that what is learned from it can be kept
class RealImages:
    """A prepared data set, and where what is learned from it is kept.

    Attributes:
        name: Of the data set.
        train: What contestants and judges learn from.
        test: What samples are compared with.
        num_classes: K; 0 without labels.
        judges_dir: Weights of the judges and features of the test images; safe to delete.
    """

    name: str
    train: PreparedSplit
    test: PreparedSplit
    num_classes: int
    judges_dir: Path

    @property
    def has_labels(self) -> bool:
        """Whether the judges can learn classes."""
        return self.num_classes > 1 and bool((self.train.labels != NO_LABEL).any())

    @property
    def num_answers(self) -> int:
        """Between how many answers a judge chooses: classes, or quarter turns."""
        return self.num_classes if self.has_labels else QUARTER_TURNS


def open_real_images(images_dir: Path, judges_dir: Path) -> RealImages:
    """The prepared images of a folder, as `prepare_data` writes it.

    Raises:
        DataError: When a file is missing or damaged.
    """
    card = read_card(images_dir)
    train, test = open_split(images_dir, "train"), open_split(images_dir, "test")
    return RealImages(card.name, train, test, len(card.class_names), judges_dir)


class Judge(nn.Module):
    """A small classifier whose penultimate layer has NUM_FEATURES units.

    Args:
        name: strided (large kernels, strides, ReLU) or pooled (small kernels, max pooling, SiLU).
        num_channels: C.
        num_answers: K.
    """

    def __init__(self, name: JudgeName, num_channels: int, num_answers: int) -> None:
        super().__init__()
        build = {"strided": _strided, "pooled": _pooled}[name]
        self.body = build(num_channels)
        self.head = nn.Linear(NUM_FEATURES, num_answers)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, D) and logits (B, K) of images (B, C, H, W) in [-1, 1]."""
        features = self.body(images)
        return features, self.head(features)


def _strided(num_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = num_channels
    for next_width, kernel in ((24, 5), (48, 3), (96, 3)):
        layers += [
            nn.Conv2d(width, next_width, kernel, stride=2, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(next_width),
            nn.ReLU(),
        ]
        width = next_width
    flat = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, NUM_FEATURES), nn.ReLU()]
    return nn.Sequential(*layers, *flat)


def _pooled(num_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    width = num_channels
    for next_width in (16, 32, NUM_FEATURES):
        layers += [
            nn.Conv2d(width, next_width, 3, padding=1, bias=False),
            nn.BatchNorm2d(next_width),
            nn.SiLU(),
            nn.MaxPool2d(2),
        ]
        width = next_width
    last = [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
    return nn.Sequential(*layers, *last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@dataclass(frozen=True)
class TaughtJudge:
    """A judge that has learned, ready to look at images.

    Attributes:
        name: Of its architecture.
        network: With its weights, in evaluation mode.
        weights_sha256: Of the file that they lie in.
        accuracy: On the real test images.
    """

    name: JudgeName
    network: Judge
    weights_sha256: str
    accuracy: float

    def look(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features (N, D) and the answer (N,) of uint8 images (N, C, H, W)."""

        def part(start: int) -> tuple[Tensor, Tensor]:
            with torch.inference_mode():
                features, logits = self.network(
                    _as_input(np.array(images[start : start + FEATURE_BATCH_IMAGES]))
                )
            return features, logits.argmax(dim=1)

        parts = list(spread_over_cores(part, range(0, len(images), FEATURE_BATCH_IMAGES)))
        return torch.cat([f for f, _ in parts]), torch.cat([a for _, a in parts])


def taught_judge(name: JudgeName, data: RealImages) -> TaughtJudge:
    """The judge of this name, from its file, or taught now (about a minute on one core).

    The same images: the same weights, whatever the number of cores.
    """
    made_from = [name, EPOCHS, SEED, PEAK_LEARNING_RATE, WEIGHT_DECAY, data.num_answers]
    key = sha256_of_json([*made_from, _sha256_of_images(data)])
    path = data.judges_dir / f"{data.name}-{name}-{key[:16]}.safetensors"
    network = Judge(name, data.train.images.shape[1], data.num_answers)
    weights = load_tensors(path, key)
    if weights is None:
        (network,) = spread_over_cores(partial(_teach, name), [data])  # one core: same weights
        save_tensors(path, key, network.state_dict())
    else:
        network.load_state_dict(weights)
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge = TaughtJudge(name, network, sha256_of_file(path), math.nan)
    return replace(judge, accuracy=_accuracy(judge, data))


@cache
def _sha256_of_images(data: RealImages) -> str:
    return sha256_of_array(data.train.images)


def _teach(name: JudgeName, data: RealImages) -> Judge:
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Judge(name, data.train.images.shape[1], data.num_answers)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows = np.flatnonzero(data.train.labels != NO_LABEL) if data.has_labels else None
    rows = np.arange(len(data.train.images)) if rows is None else rows
    if len(rows) < BATCH_IMAGES:
        raise DataError(f"a judge needs at least {BATCH_IMAGES} images; got {len(rows)}")
    num_steps = EPOCHS * (len(rows) // BATCH_IMAGES)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    network.train()
    bar = tqdm(total=num_steps, desc=f"judge {name} of {data.name} learns", disable=None)
    for step in range(num_steps):
        place = step % (num_steps // EPOCHS)
        if place == 0:
            order = rows[torch.randperm(len(rows), generator=generator).numpy()]
        chosen = order[place * BATCH_IMAGES : (place + 1) * BATCH_IMAGES]
        images, answers = _asked(data, chosen, generator)
        loss = nn.functional.cross_entropy(network(images)[1], answers, label_smoothing=0.05)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * _rate_share(step / num_steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        bar.update()
    bar.close()
    return network


def _rate_share(share: float) -> float:
    """Up in a straight line for WARMUP_SHARE, then down along half a cosine."""
    if share < WARMUP_SHARE:
        return share / WARMUP_SHARE
    return (1 + math.cos(math.pi * (share - WARMUP_SHARE) / (1 - WARMUP_SHARE))) / 2


def _asked(data: RealImages, rows: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Training images and the right answers: labels of mirrored images, or quarter turns."""
    images = _as_input(np.array(data.train.images[np.sort(rows)]))
    if not data.has_labels:
        return _turned(images, generator)
    is_mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(is_mirrored[:, None, None, None], images.flip(-1), images)
    return images, torch.from_numpy(np.array(data.train.labels[np.sort(rows)]))


def _turned(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image rotated by a random number of quarter turns, and that number.

    Source:
        Gidaris, Singh and Komodakis 2018, arXiv:1803.07728.
    """
    turns = torch.randint(0, QUARTER_TURNS, (len(images),), generator=generator)
    rotated = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(images, turns)])  # noqa: B905 - equal by construction
    return rotated, turns


def _accuracy(judge: TaughtJudge, data: RealImages) -> float:
    images = np.asarray(data.test.images)
    if data.has_labels:
        is_labelled = data.test.labels != NO_LABEL
        answers = judge.look(images[is_labelled])[1].numpy()
        return float((answers == data.test.labels[is_labelled]).mean())
    generator = torch.Generator().manual_seed(SEED)
    turns = torch.randint(0, QUARTER_TURNS, (len(images),), generator=generator).numpy()
    rotated = np.stack([np.rot90(image, k, (1, 2)) for image, k in zip(images, turns, strict=True)])
    return float((judge.look(rotated)[1].numpy() == turns).mean())


def _as_input(images: np.ndarray) -> Tensor:
    return to_model_range(torch.from_numpy(images)).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Bench:
    """All judges of a data set, with what they say about its real images.

    Attributes:
        data: The real images.
        judges: The taught ones.
        efficientnet: The one with the weights of ImageNet.
        references: By judge: features of the test images, their moments, their mean kernel.
    """

    data: RealImages
    judges: tuple[TaughtJudge, ...]
    efficientnet: Extractor
    references: dict[str, tuple[Tensor, Moments, float]]

    def features(self, images: np.ndarray) -> dict[str, Tensor]:
        """By judge: features of images."""
        looked: dict[str, Tensor] = {judge.name: judge.look(images)[0] for judge in self.judges}
        made = extract(self.efficientnet, images, FEATURE_BATCH_IMAGES, "samples")
        return {**looked, EFFICIENTNET: made.features}


@cache
def bench_of(data: RealImages) -> Bench:
    """The judges of a data set; the first call of all teaches them."""
    judges = tuple(taught_judge(name, data) for name in JUDGES)
    efficientnet = load_efficientnet_lite0(EFFICIENTNET_PX)
    images = np.asarray(data.test.images)
    of_test: dict[str, Tensor] = {judge.name: judge.look(images)[0] for judge in judges}
    of_test[EFFICIENTNET] = cached_features(
        efficientnet, images, FEATURE_BATCH_IMAGES, data.judges_dir, "test images"
    ).features
    references = {
        name: (features, moments(features), mean_kernel_of_pairs(features))
        for name, features in of_test.items()
    }
    return Bench(data, judges, efficientnet, references)


@cache
def floors(data: RealImages, num_images: int) -> dict[str, dict[str, float]]:
    """By judge: distances of as many real training images, drawn by a fixed seed."""
    chosen = np.random.default_rng(FLOOR_SEED).choice(
        len(data.train.images), min(num_images, len(data.train.images)), replace=False
    )
    return _distances(bench_of(data), np.array(data.train.images[np.sort(chosen)]))


def judge_samples(
    samples: np.ndarray, data: RealImages, labels: np.ndarray | None = None
) -> dict[str, Any]:
    """What every judge says about samples.

    Args:
        samples: uint8, shape (N, C, H, W), as the prepared images; at least 2.
        data: The real images.
        labels: The class that each sample was asked for, shape (N,); None without classes.

    Returns:
        `n`, and `judges`: for strided, pooled and efficientnet_lite0 the Frechet distance `fd`,
        its standard error `fd_std_error` over the draw of the samples, the kernel distance
        `kernel`, each with `fd_floor` and `kernel_floor`; for the taught two also
        `weights_sha256`, `accuracy` on real test images and, with labels, `agreement`, the share
        of samples that are labelled as asked.

    Raises:
        ValueError: When samples have another shape than the real images.
    """
    if samples.shape[1:] != data.test.images.shape[1:] or samples.dtype != np.uint8:
        raise ValueError(
            f"samples must be uint8 of shape (N, {', '.join(map(str, data.test.images.shape[1:]))})"
            f"; got {samples.dtype} of {samples.shape}"
        )
    bench = bench_of(data)
    found: dict[str, dict[str, Any]] = {**_distances(bench, samples)}
    for name, floor in floors(data, len(samples)).items():
        found[name] |= {"fd_floor": floor["fd"], "kernel_floor": floor["kernel"]}
    for judge in bench.judges:
        facts = {"weights_sha256": judge.weights_sha256, "accuracy": judge.accuracy}
        found[judge.name] |= facts
        if labels is not None and data.has_labels:
            answers = judge.look(samples)[1].numpy()
            found[judge.name]["agreement"] = float((answers == labels).mean())
    return {"n": len(samples), "judges": found}


def _distances(bench: Bench, images: np.ndarray) -> dict[str, dict[str, float]]:
    rows = {}
    for name, features in bench.features(images).items():
        reference, reference_moments, mean_kernel = bench.references[name]
        distance = frechet_estimate(features, reference_moments)
        kernel = kernel_estimate(features, reference, mean_kernel)
        rows[name] = {
            "fd": distance.value,
            "fd_std_error": distance.std_error,
            "kernel": kernel.value,
        }
    return rows
