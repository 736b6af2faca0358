"""Has the data changed? Several tests in feature space and of labels, each with an effect size.

No single test sees every change: the maximum mean discrepancy sees shape, the classifier small
shifts that many features share, Kolmogorov-Smirnov a single component, the outliers a few strange
images, the labels another mixture. Together they keep one level, by Holm's correction. With many
images any test becomes significant, so an alarm needs an effect that matters as well.

Letters: N reference images, M current ones, D features, K components, C classes. Pure; randomness
comes as a generator.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vivero.config.schema import CheckDriftConfig
from vivero.evaluation.comparison import holm_adjusted
from vivero.evaluation.drift_statistics import (
    TestResult,
    classifier_test,
    component_test,
    discrepancy_test,
    label_test,
    outlier_test,
    whitened,
)
from vivero.evaluation.frechet import frechet_distance, moments
from vivero.evaluation.intervals import Estimate, share_estimate

MIN_IMAGES = 10
OUTLIER_QUANTILE = 0.995
NUM_DIVISIONS = 20  # random ones, for the Fréchet distance by chance
DISCREPANCY, CLASSIFIER, COMPONENTS, OUTLIERS, LABELS = (
    "maximum mean discrepancy",
    "classifier two-sample",
    "Kolmogorov-Smirnov by component",
    "outliers",
    "label shares",
)


@dataclass(frozen=True)
class DriftTest:
    """One test, judged beside the others.

    Attributes:
        name: Which.
        p_value: Its own.
        adjusted_p: Raised for the number of tests (Holm).
        effect: How large the difference is, in the test's own measure.
        limit: The least effect that matters.
        is_alarm: adjusted_p below the level, and the effect above its limit.
    """

    name: str
    p_value: float
    adjusted_p: float
    effect: float
    limit: float
    is_alarm: bool


@dataclass(frozen=True)
class DriftDetail:
    """What the plots show.

    Attributes:
        null_statistics: Discrepancies of the permutations.
        components: Kolmogorov-Smirnov of each component.
        scores: The classifier's, of the held-out half.
        is_current: Which of the scores are of current images.
        reference_labels: Images of each class, as shares; empty without labels.
        current_labels: The same for current images.
        distances: Of each current image from the common centre, in whitened components.
    """

    null_statistics: list[float]
    components: list[TestResult]
    scores: list[float]
    is_current: list[bool]
    reference_labels: list[float]
    current_labels: list[float]
    distances: list[float]


@dataclass(frozen=True)
class DriftReport:
    """What was found between a reference and current images.

    Attributes:
        is_alarm: One of the tests alarms.
        tests: Each test.
        auc: How well a classifier tells the two apart on images it has not seen; 0.5 = not.
        frechet: Fréchet distance in the components.
        frechet_floor: The same by chance: the mean over random divisions of all images.
        outlier_share: Current images farther out than all but 0.5 % of the reference.
        num_reference: Images of the reference.
        num_current: Current images.
        level: Of all tests together.
        detail: For plots.
    """

    is_alarm: bool
    tests: tuple[DriftTest, ...]
    auc: float
    frechet: float
    frechet_floor: float
    outlier_share: Estimate
    num_reference: int
    num_current: int
    level: float
    detail: DriftDetail

    def as_json(self) -> dict[str, Any]:
        """Plain values, without what only the plots need."""
        values = asdict(self)
        del values["detail"]
        return values

    def sentence(self) -> str:
        """The finding for a person."""
        alarms = [
            f"{test.name} {test.effect:.3g} (limit {test.limit:g}, p {test.adjusted_p:.2g})"
            for test in self.tests
            if test.is_alarm
        ]
        if alarms:
            return f"drift by {'; '.join(alarms)}"
        least = min(self.tests, key=lambda test: test.adjusted_p)
        return (
            f"no drift in {self.num_current} images: AUC {self.auc:.3f}, least corrected p "
            f"{least.adjusted_p:.2g} ({least.name})"
        )


@dataclass(frozen=True)
class Labels:
    """Images of each class, by label, of both sides; shape (C,), int64."""

    reference: np.ndarray
    current: np.ndarray

    @property
    def are_there(self) -> bool:
        """Whether both sides have labels and there is more than one class."""
        return len(self.reference) > 1 and bool(self.reference.sum() and self.current.sum())


def drift_report(
    reference: Float[Tensor, "N D"],
    current: Float[Tensor, "M D"],
    config: CheckDriftConfig,
    generator: torch.Generator,
    labels: Labels | None = None,
) -> DriftReport:
    """Compare current images' features, and their labels where there are any, with a reference.

    Text is compared by the same function: the embeddings of prompts in place of image features.

    Args:
        reference: Features of images that are as they should be.
        current: Features of other images, disjoint from the reference.
        config: Level, components, permutations, least effects.
        generator: For permutations and the split of the classifier.
        labels: Counts of classes; None leaves the test of labels out.

    Raises:
        ValueError: When either side has fewer than ten images.
    """
    if min(len(reference), len(current)) < MIN_IMAGES:
        raise ValueError(
            f"drift needs at least {MIN_IMAGES} images on each side; "
            f"got {len(reference)} and {len(current)}"
        )
    pooled = whitened(torch.cat([reference, current]).float(), config.num_components)
    is_current = torch.arange(len(pooled)) >= len(reference)
    discrepancy, nulls = discrepancy_test(pooled, is_current, config.num_permutations, generator)
    classifier, scores, score_sides = classifier_test(pooled, is_current, generator)
    components, each = component_test(pooled, is_current)
    found = {
        DISCREPANCY: (discrepancy, config.min_discrepancy),
        CLASSIFIER: (classifier, config.min_auc),
        COMPONENTS: (components, config.min_component_distance),
        OUTLIERS: (outlier_test(pooled, is_current), config.min_outlier_share),
    }
    if labels is not None and labels.are_there:
        seed = int(torch.randint(2**31, (), generator=generator))
        found[LABELS] = (
            label_test(
                labels.reference,
                labels.current,
                config.num_permutations,
                np.random.default_rng(seed),
            ),
            config.min_label_distance,
        )
    tests = judged(found, config.level)
    ours, theirs = pooled[~is_current], pooled[is_current]
    return DriftReport(
        is_alarm=any(test.is_alarm for test in tests),
        tests=tests,
        auc=classifier.effect,
        frechet=frechet_distance(moments(ours), moments(theirs)),
        frechet_floor=frechet_by_chance(pooled, len(ours), generator),
        outlier_share=outlier_share(ours, theirs),
        num_reference=len(ours),
        num_current=len(theirs),
        level=config.level,
        detail=DriftDetail(
            null_statistics=nulls,
            components=each,
            scores=[float(score) for score in scores],
            is_current=[bool(side) for side in score_sides],
            reference_labels=_shares(labels.reference) if LABELS in found and labels else [],
            current_labels=_shares(labels.current) if LABELS in found and labels else [],
            distances=theirs.norm(dim=1).tolist(),
        ),
    )


def judged(found: dict[str, tuple[TestResult, float]], level: float) -> tuple[DriftTest, ...]:
    """Each test with its p-value raised for their number, and whether it alarms.

    Args:
        found: Result and least effect that matters, by name.
        level: Chance of any false alarm.
    """
    adjusted: Sequence[float] = holm_adjusted([result.p_value for result, _ in found.values()])
    return tuple(
        DriftTest(
            name=name,
            p_value=result.p_value,
            adjusted_p=p_value,
            effect=result.effect,
            limit=limit,
            is_alarm=p_value < level and result.effect > limit,
        )
        for (name, (result, limit)), p_value in zip(found.items(), adjusted, strict=True)
    )


def _shares(counts: np.ndarray) -> list[float]:
    return [float(share) for share in counts / counts.sum()]


def outlier_share(reference: Float[Tensor, "N K"], current: Float[Tensor, "M K"]) -> Estimate:
    """Share of current images farther from the reference's centre than nearly all of its own."""
    distance = (reference - reference.mean(dim=0)).norm(dim=1)
    limit = distance.quantile(OUTLIER_QUANTILE)
    is_outside = (current - reference.mean(dim=0)).norm(dim=1) > limit
    return share_estimate(int(is_outside.sum()), len(current))


def frechet_by_chance(
    pooled: Float[Tensor, "N K"], num_reference: int, generator: torch.Generator
) -> float:
    """Mean Fréchet distance between two random parts, of which one has num_reference rows."""
    distances = []
    for _ in range(NUM_DIVISIONS):
        rows = torch.randperm(len(pooled), generator=generator)
        parts = (pooled[rows[:num_reference]], pooled[rows[num_reference:]])
        distances.append(frechet_distance(*(moments(part) for part in parts)))
    return math.fsum(distances) / NUM_DIVISIONS
