"""Has the data changed? Two tests in feature space, an effect size, and a share of outliers.

No single test sees every change, so there are two, each at half of the level: the maximum mean
discrepancy with permutations sees shape, the classifier two-sample test sees small shifts that many
features share. With many images any test becomes significant, so an alarm needs an effect as well.

Letters: N reference images, M current ones, D features, K components. Pure but for the reference's
own file; randomness comes as a generator.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from vivero.config.schema import CheckDriftConfig
from vivero.errors import DataError
from vivero.evaluation.frechet import frechet_distance, moments
from vivero.evaluation.intervals import Estimate, share_estimate
from vivero.files import write_whole

MIN_IMAGES = 10
OUTLIER_QUANTILE = 0.995
NUM_DIVISIONS = 20  # random ones, for the Fréchet distance by chance
MAX_REFERENCE_IMAGES = 2000
LEAST_VARIANCE = 1e-8  # components below it, of the largest, are numerical dust


@dataclass(frozen=True)
class DriftReference:
    """Real images' features that later data is compared with.

    Attributes:
        features: Shape (N, D), float32.
        extractor_sha256: Hash of the weights that made them.
        data_digest: Of the data they come from.
    """

    features: Tensor
    extractor_sha256: str
    data_digest: str


@dataclass(frozen=True)
class DriftTest:
    """One test: its p-value, and what it measured."""

    name: str
    p_value: float
    statistic: float


@dataclass(frozen=True)
class DriftReport:
    """What was found between a reference and current images.

    Attributes:
        is_alarm: Significant at half the level in one of the tests, and an effect that matters.
        tests: Maximum mean discrepancy, then the classifier.
        auc: How well a classifier tells the two apart on images it has not seen; 0.5 = not.
        frechet: Fréchet distance in the components.
        frechet_floor: The same by chance: the mean over random divisions of all images.
        outlier_share: Current images farther out than all but 0.5 % of the reference.
        null_statistics: Discrepancies of the permutations, for the plot.
        num_reference: Images of the reference.
        num_current: Current images.
    """

    is_alarm: bool
    tests: tuple[DriftTest, DriftTest]
    auc: float
    frechet: float
    frechet_floor: float
    outlier_share: Estimate
    null_statistics: list[float]
    num_reference: int
    num_current: int

    def as_json(self) -> dict[str, Any]:
        """Plain values, without the permutations."""
        values = asdict(self)
        del values["null_statistics"]
        return values


def drift_report(
    reference: Float[Tensor, "N D"],
    current: Float[Tensor, "M D"],
    config: CheckDriftConfig,
    generator: torch.Generator,
) -> DriftReport:
    """Compare current images' features with the reference's.

    Args:
        reference: Features of images that are as they should be.
        current: Features of other images, disjoint from the reference.
        config: Level, components, permutations, least AUC.
        generator: For permutations and the split of the classifier.

    Raises:
        ValueError: When either side has fewer than ten images.
    """
    if min(len(reference), len(current)) < MIN_IMAGES:
        raise ValueError(
            f"drift needs at least {MIN_IMAGES} images on each side; "
            f"got {len(reference)} and {len(current)}"
        )
    pooled = whitened(torch.cat([reference, current]).double(), config.num_components)
    is_current = torch.arange(len(pooled)) >= len(reference)
    discrepancy, nulls = discrepancy_test(pooled, is_current, config.num_permutations, generator)
    classifier = classifier_test(pooled, is_current, generator)
    is_significant = min(discrepancy.p_value, classifier.p_value) < config.level / 2
    ours, theirs = pooled[~is_current], pooled[is_current]
    return DriftReport(
        is_alarm=is_significant and classifier.statistic > config.min_auc,
        tests=(discrepancy, classifier),
        auc=classifier.statistic,
        frechet=frechet_distance(moments(ours), moments(theirs)),
        frechet_floor=frechet_by_chance(pooled, len(ours), generator),
        outlier_share=outlier_share(ours, theirs),
        null_statistics=nulls,
        num_reference=len(ours),
        num_current=len(theirs),
    )


def whitened(pooled: Float[Tensor, "N D"], num_components: int) -> Float[Tensor, "N K"]:
    """The first principal components of the pooled sample, each at unit variance.

    Fitted on both sides together, so that under no drift both are treated alike and a permutation
    is valid.
    """
    centred = pooled - pooled.mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    num_real = int((singular**2 > LEAST_VARIANCE * singular[0] ** 2).sum())
    kept = max(1, min(num_components, num_real, len(pooled) - 1))
    white: Tensor = left[:, :kept] * math.sqrt(len(pooled) - 1)
    return white


def discrepancy_test(
    pooled: Float[Tensor, "N K"],
    is_current: Bool[Tensor, " N"],
    num_permutations: int,
    generator: torch.Generator,
) -> tuple[DriftTest, list[float]]:
    """Maximum mean discrepancy with a Gaussian kernel, and its p-value by permutations.

    mmd2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y); bandwidth = median distance.

    Returns:
        The test, and the statistics of the permutations.

    Source:
        Gretton et al. 2012, JMLR 13, equation 3 (without the diagonal); p-value with the observed
        one counted in, Phipson and Smyth 2010.
    """
    squared = torch.cdist(pooled, pooled).square()
    kernel = torch.exp(-squared / squared[squared > 0].median())
    kernel.fill_diagonal_(0)
    num_current = int(is_current.sum())
    num_reference = len(pooled) - num_current
    orders = [torch.randperm(len(pooled), generator=generator) for _ in range(num_permutations)]
    sides = torch.stack([is_current, *(is_current[order] for order in orders)]).to(kernel.dtype)
    within_current = torch.einsum("pi,pi->p", sides @ kernel, sides)
    across = torch.einsum("pi,pi->p", sides @ kernel, 1 - sides)
    within_reference = kernel.sum() - within_current - 2 * across
    statistics = (
        within_reference / (num_reference * (num_reference - 1))
        + within_current / (num_current * (num_current - 1))
        - 2 * across / (num_reference * num_current)
    ).tolist()
    observed, nulls = statistics[0], statistics[1:]
    p_value = (1 + sum(null >= observed for null in nulls)) / (1 + num_permutations)
    return DriftTest("maximum mean discrepancy", p_value, observed), nulls


def classifier_test(
    pooled: Float[Tensor, "N K"], is_current: Bool[Tensor, " N"], generator: torch.Generator
) -> DriftTest:
    """Can a classifier tell the two apart on images it has not seen? One held-out half.

    Logistic regression on the components and their squares, so that a change of spread is seen as
    well as a shift. The statistic is the area under the ROC curve; its p-value is that of the rank
    sum (one-sided). Cross-validated p-values are too small under no drift, hence one split.

    Source:
        Lopez-Paz and Oquab 2017, arXiv:1610.06545; Mann and Whitney 1947 for the variance.
    """
    order = torch.randperm(len(pooled), generator=generator)
    inputs = torch.cat([pooled, pooled.square()], dim=1)[order].numpy()
    labels = is_current[order].numpy()
    half = len(inputs) // 2
    if len(set(labels[:half])) < 2 or len(set(labels[half:])) < 2:
        return DriftTest("classifier two-sample", 1.0, 0.5)
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
    scores = model.fit(inputs[:half], labels[:half]).decision_function(inputs[half:])
    auc = area_under_curve(scores, labels[half:])
    num_ones = int(labels[half:].sum())
    num_zeros = len(labels) - half - num_ones
    std_error = math.sqrt((num_ones + num_zeros + 1) / (12 * num_ones * num_zeros))
    p_value = 1 - NormalDist().cdf((auc - 0.5) / std_error)
    return DriftTest("classifier two-sample", p_value, auc)


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a random one scores above a random zero; ties count half."""
    ones, zeros = scores[labels], scores[~labels]
    above = (ones[:, None] > zeros[None, :]).mean()
    equal = (ones[:, None] == zeros[None, :]).mean()
    return float(above + equal / 2)


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


def save_drift_reference(path: Path, reference: DriftReference) -> None:
    """Write the reference as safetensors, whole or not at all."""
    kept = reference.features[:MAX_REFERENCE_IMAGES].contiguous().float()
    facts = {
        "extractor_sha256": reference.extractor_sha256,
        "data_digest": reference.data_digest,
    }
    # safetensors writes its metadata in no fixed order, so one entry holds all: equal bytes
    metadata = {"facts": json.dumps(facts)}
    with write_whole(path) as part_path:
        part_path.write_bytes(save({"features": kept}, metadata=metadata))


def load_drift_reference(path: Path) -> DriftReference:
    """Read a reference.

    Raises:
        DataError: When the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            features = file.get_tensor("features")
            return DriftReference(features, facts["extractor_sha256"], facts["data_digest"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} is no readable drift reference ({error}); make it again with "
            f"`dvc repro -f compute_reference`"
        ) from error
