"""Metrics as they are reported: a value with interval, n, extractor and floor, under a full name.

The name carries what changes the value: `fd.efficientnet_lite0.5k`. Only distances in Inception's
features are called FID and KID. Pure functions of features, labels and images.

Letters: N samples, M reference images, H held-out images, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vivero.data.prepared import NO_LABEL, PreparedSplit
from vivero.errors import NotComputableError
from vivero.evaluation.classifier import (
    NAME as CLASSIFIER,
)
from vivero.evaluation.classifier import (
    SmallCnn,
    Teaching,
    predicted_labels,
    train_classifier,
)
from vivero.evaluation.cores import spread_over_cores
from vivero.evaluation.diversity import Repetition
from vivero.evaluation.frechet import Influence, estimate_of, frechet_influence, moments
from vivero.evaluation.inception import KNOWN_SHA256
from vivero.evaluation.inception_score import inception_score
from vivero.evaluation.intervals import Estimate, normal_estimate, share_estimate
from vivero.evaluation.kernel import kernel_estimate
from vivero.evaluation.memorisation import Copying
from vivero.evaluation.per_image import OF_REFERENCE, PerImage
from vivero.evaluation.precision_recall import neighbourhoods
from vivero.evaluation.reference import Reference
from vivero.evaluation.usability import Unusable

Better = Literal["lower", "higher"]
Metrics = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """What a metric was computed with: the network, its weights, and the resize before it."""

    extractor: str
    extractor_sha256: str
    resize: str


PIXELS = Source("pixels", "", "none")
NUM_LESSONS = 3  # classifiers with other seeds, for the classification accuracy score


def count_name(count: int) -> str:
    """5000 is 5k, 512 is 512: as the names of metrics say it."""
    return f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else str(count)


def metric(
    estimate: Estimate, better: Better, source: Source, floor: Estimate | None
) -> dict[str, Any]:
    """One entry of metrics.json."""
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "std_error": estimate.std_error,
        "n": estimate.n,
        "better": better,
        "floor": None if floor is None else floor.value,
        "floor_low": None if floor is None else floor.low,
        "floor_high": None if floor is None else floor.high,
        "floor_n": None if floor is None else floor.n,
        "extractor": source.extractor,
        "extractor_sha256": source.extractor_sha256,
        "resize": source.resize,
    }


def source_of(reference: Reference) -> Source:
    """The extractor of a reference."""
    facts = reference.facts
    return Source(facts.extractor, facts.extractor_sha256, facts.resize)


def distance_metrics(features: Tensor, reference: Reference) -> tuple[Metrics, PerImage]:
    """Fréchet and kernel distance of samples from the reference, and of held-out images.

    Returns:
        The metrics, and the influences of the samples and of the reference's images on the Fréchet
        distance, by its name.
    """
    source = source_of(reference)
    is_inception = source.extractor_sha256 in KNOWN_SHA256
    suffix = f"{source.extractor}.{count_name(len(features))}"
    frechet, kernel = ("fid", "kid") if is_inception else ("fd", "kd")

    def distances(rows: Tensor) -> tuple[Influence, Estimate]:
        return (
            frechet_influence(rows, reference.moments),
            kernel_estimate(rows, reference.features, reference.mean_kernel),
        )

    ours, theirs = spread_over_cores(distances, _samples_and_held_out(features, reference))
    of_reference = frechet_influence(reference.features, moments(features))
    floor = estimate_of(theirs[0])
    name = f"{frechet}.{suffix}"
    metrics = {
        name: metric(estimate_of(ours[0]), "lower", source, floor if floor.value > 0 else None),
        f"{kernel}.{suffix}": metric(ours[1], "lower", source, theirs[1]),
    }
    return metrics, {
        name: ours[0].values.numpy(),
        name + OF_REFERENCE: of_reference.values.numpy(),
    }


def near_equal_metric(found: Repetition) -> tuple[Metrics, PerImage]:
    """The share of samples that are nearly equal to another one, and of real images."""
    ours, floor = (
        share_estimate(int(marked.sum()), len(marked)) for marked in (found.samples, found.held_out)
    )
    name = f"near_equal_share.pixels.{count_name(ours.n)}"
    return {name: metric(ours, "lower", PIXELS, floor)}, {name: found.samples}


def unusable_metric(found: Unusable, reference: Reference) -> Metrics:
    """The share of unusable samples, and of held-out real images that this would call so."""
    n = len(found.samples)
    ours, floor = (
        share_estimate(int(marked.sum()), len(marked)) for marked in (found.samples, found.held_out)
    )
    source = source_of(reference)
    name = f"unusable_share.{source.extractor}.{count_name(n)}"
    return {name: metric(ours, "lower", source, floor)}


def neighbour_metrics(
    features: Tensor, reference: Reference, num_neighbours: int
) -> tuple[Metrics, PerImage]:
    """Precision, recall, density and coverage against as many reference images.

    Returns:
        The metrics, and what each image counts for: samples for precision, reference images for
        recall and coverage.

    Raises:
        NotComputableError: When there are not more images on each side than neighbours.
    """
    source = source_of(reference)
    suffix = f"{source.extractor}.{count_name(len(features))}"
    real = reference.features[: len(features)]
    judged = partial(neighbourhoods, reference=real, num_neighbours=num_neighbours)
    ours, theirs = spread_over_cores(judged, _samples_and_held_out(features, reference))
    metrics = {
        f"{name}.{suffix}": metric(getattr(ours, name), "higher", source, getattr(theirs, name))
        for name in ("precision", "recall", "density", "coverage")
    }
    return metrics, {
        f"precision.{suffix}": ours.is_precise.numpy(),
        f"recall.{suffix}": ours.is_recalled.numpy(),
        f"coverage.{suffix}": ours.is_covered.numpy(),
    }


def _samples_and_held_out(features: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
    """What is judged, and as many held-out real images (or all there are), for the floor."""
    return features, reference.held_out[: len(features)]


def inception_score_metric(logits: Tensor | None, reference: Reference) -> Metrics:
    """The inception score by the extractor's own classifier, which the name says."""
    if logits is None or reference.held_out_logits is None:
        raise NotComputableError(f"{reference.facts.extractor} has no classifier")
    source = source_of(reference)
    floor = inception_score(reference.held_out_logits[: len(logits)])
    name = f"is.{source.extractor}.{count_name(len(logits))}"
    return {name: metric(inception_score(logits), "higher", source, floor)}


def label_hits(network: SmallCnn, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each image whether a classifier labels it as it is labelled, shape (N,), bool."""
    return np.asarray(predicted_labels(network, images) == labels)


def label_agreement(network: SmallCnn, images: np.ndarray, labels: np.ndarray) -> Estimate:
    """Share of images that a classifier labels as they are labelled."""
    hits = label_hits(network, images, labels)
    return share_estimate(int(hits.sum()), len(hits))


@dataclass(frozen=True)
class Labelled:
    """Images and their labels: uint8, (N, C, H, W), and int64, (N,)."""

    images: np.ndarray
    labels: np.ndarray


def labelled(split: PreparedSplit, num_images: int | None = None) -> Labelled:
    """The images of a split that have a label, from its first num_images."""
    labels = np.asarray(split.labels[:num_images])
    has_label = labels != NO_LABEL
    return Labelled(np.asarray(split.images[:num_images])[has_label], labels[has_label])


def classification_accuracy_score(
    samples: Labelled, train: Labelled, test: Labelled, teaching: Teaching
) -> tuple[Metrics, dict[str, list[float]]]:
    """What a classifier learns from samples, on real test images; the floor learns from real ones.

    Each figure is the mean of NUM_LESSONS classifiers with other seeds; its interval holds the
    spread of the seeds as well as that of the test images.

    Returns:
        The metric, and accuracies by class: `value` and `floor`; 0 for a class without test images.

    Source:
        Ravuri and Vinyals 2019, arXiv:1905.10887.
    """
    num_images = len(samples.labels)
    real = Labelled(np.asarray(train.images[:num_images]), train.labels[:num_images])
    jobs = [
        (lesson, Teaching(teaching.num_classes, teaching.epochs, teaching.seed + index))
        for lesson in (samples, real)
        for index in range(NUM_LESSONS)
    ]

    def is_right(job: tuple[Labelled, Teaching]) -> np.ndarray:
        network = train_classifier(job[0].images, job[0].labels, job[1])
        return np.asarray(predicted_labels(network, test.images) == test.labels)

    answers = np.stack(list(spread_over_cores(is_right, jobs)))
    sides = {"value": answers[:NUM_LESSONS], "floor": answers[NUM_LESSONS:]}
    estimates = {name: mean_accuracy(rows) for name, rows in sides.items()}
    classes = [test.labels == label for label in range(teaching.num_classes)]
    by_class = {
        name: [float(rows[:, rows_of].mean()) if rows_of.any() else 0.0 for rows_of in classes]
        for name, rows in sides.items()
    }
    source = Source(CLASSIFIER, "", "none")
    name = f"cas.{CLASSIFIER}.{count_name(num_images)}"
    return {name: metric(estimates["value"], "higher", source, estimates["floor"])}, by_class


def mean_accuracy(is_right: np.ndarray) -> Estimate:
    """Mean accuracy of several classifiers, the variances over images and classifiers added.

    Args:
        is_right: Of each classifier and image, shape (classifiers, images); two of each at least.
    """
    of_classifiers, of_images = is_right.mean(axis=1), is_right.mean(axis=0)
    variance = of_classifiers.var(ddof=1) / len(of_classifiers)
    variance += of_images.var(ddof=1) / len(of_images)
    value = float(of_images.mean())
    return normal_estimate(value, float(variance**0.5), len(of_images), bounds=(0.0, 1.0))


def copying_metrics(found: Mapping[str, tuple[Copying, Source]], num_images: int) -> Metrics:
    """Copied share and distance ratio, for each space (pixels, features) that was looked in."""
    suffix = count_name(num_images)
    metrics: Metrics = {}
    for space, (copying, source) in found.items():
        metrics[f"copied_share.{space}.{suffix}"] = metric(
            copying.copied_share, "lower", source, copying.floor_share
        )
        metrics[f"nearest_ratio.{space}.{suffix}"] = metric(
            copying.distance_ratio, "higher", source, None
        )
    return metrics


def mean_of(estimates: list[Estimate], n: int) -> Estimate:
    """The mean of figures over the same n images; the error as if they moved together."""
    value = float(np.mean([estimate.value for estimate in estimates]))
    std_error = float(np.mean([estimate.std_error for estimate in estimates]))
    margin = float(np.mean([estimate.high - estimate.value for estimate in estimates]))
    return Estimate(value, value - margin, value + margin, std_error, n)


def as_float(images: np.ndarray) -> Tensor:
    """Images as rows of pixels in [0, 1], shape (N, C * H * W)."""
    return torch.from_numpy(np.array(images)).flatten(1).float() / 255
