"""Two-sample tests: may two sets of images, or labels, come from one source? Each with an effect.

All see the pooled sample, in which both sides are treated alike, so that each p-value is valid
whatever the distribution. Pure functions; randomness comes as a generator.

Letters: N pooled images, D features, K components, P permutations, C classes.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import linalg, stats
from scipy.sparse.linalg import eigsh
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from vivero.evaluation.comparison import holm_adjusted

LEAST_VARIANCE = 1e-8  # components below it, of the largest, are numerical dust
TINY = 1e-300
ONE_THREAD = 1  # matrices are small: more wait for each other, eight times as long on busy cores
BANDWIDTH_ROWS = 500  # whose distances to all others give the median: any few hundred do
OUTLYING_SHARE = 0.01  # of the pooled images, the farthest: where outliers are looked for
MIN_OUTLYING = 5


@dataclass(frozen=True)
class TestResult:
    """One test: how likely such a difference is by chance, and how large it is."""

    __test__ = False  # pytest: this is no class of tests

    p_value: float
    effect: float


def whitened(pooled: Float[Tensor, "N D"], num_components: int) -> Float[Tensor, "N K"]:
    """The first principal components of the pooled sample, each at unit variance.

    Fitted on both sides together, so that under no drift both are treated alike and a permutation
    is valid. By the smaller of the two matrices of inner products, of which only the largest
    eigenvalues are wanted.
    """
    centred = pooled - pooled.mean(dim=0)
    num_rows, num_features = centred.shape
    is_tall = num_rows > num_features
    inner = centred.T @ centred if is_tall else centred @ centred.T
    values, vectors = _largest(inner.double().numpy(), min(num_components, max(1, num_rows - 1)))
    kept = values > LEAST_VARIANCE * max(float(values[0]), 0.0)
    kept[0] = True
    basis = torch.from_numpy(np.ascontiguousarray(vectors[:, kept]))
    scale = math.sqrt(num_rows - 1)
    if not is_tall:
        white: Tensor = basis * scale
        return white
    singular = torch.from_numpy(np.sqrt(np.maximum(values[kept], TINY)))
    projected: Tensor = centred.double() @ basis / singular * scale
    return projected


def _largest(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues, falling, and their vectors; by Lanczos where few of many."""
    size = len(matrix)
    with threadpool_limits(limits=ONE_THREAD):
        if size > 10 * count and matrix.any():
            values, vectors = eigsh(matrix, k=count, v0=np.linspace(1, 2, size))
        else:
            first = max(0, size - count)
            values, vectors = linalg.eigh(matrix, subset_by_index=[first, size - 1])
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


def discrepancy_test(
    pooled: Float[Tensor, "N K"],
    is_current: Bool[Tensor, " N"],
    num_permutations: int,
    generator: torch.Generator,
) -> tuple[TestResult, list[float]]:
    """Maximum mean discrepancy with a Gaussian kernel, and its p-value by permutations.

    mmd2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y); bandwidth = median distance.

    Returns:
        The test, whose effect is mmd2, and the statistics of the permutations.

    Source:
        Gretton et al. 2012, JMLR 13, equation 3 (without the diagonal); p-value with the observed
        one counted in, Phipson and Smyth 2010.
    """
    # mmd2 does not change when all pairs' kernel is shifted, and single precision then suffices.
    squared = torch.cdist(pooled.float(), pooled.float()).square()
    some = torch.randperm(len(pooled), generator=generator)[:BANDWIDTH_ROWS]  # of either side
    kernel = torch.exp(-squared / _median_of_positive(squared[some]))
    kernel = (kernel - kernel.mean()).fill_diagonal_(0)
    num_current = int(is_current.sum())
    num_reference = len(pooled) - num_current
    orders = [torch.randperm(len(pooled), generator=generator) for _ in range(num_permutations)]
    sides = torch.stack([is_current, *(is_current[order] for order in orders)]).to(kernel.dtype)
    to_current = sides @ kernel
    within_current = torch.einsum("pi,pi->p", to_current, sides).double()
    across = to_current.double().sum(dim=1) - within_current
    within_reference = kernel.double().sum() - within_current - 2 * across
    statistics = (
        within_reference / (num_reference * (num_reference - 1))
        + within_current / (num_current * (num_current - 1))
        - 2 * across / (num_reference * num_current)
    ).tolist()
    observed, nulls = statistics[0], statistics[1:]
    return TestResult(_permutation_p_value(observed, nulls), observed), nulls


def _median_of_positive(squared: Float[Tensor, "N N"]) -> Tensor:
    """Median of the distances between different rows; 1 where all rows are equal."""
    positive = squared[squared > 0]
    return positive.median() if len(positive) else torch.ones((), dtype=squared.dtype)


def _permutation_p_value(observed: float, nulls: list[float]) -> float:
    return (1 + sum(null >= observed for null in nulls)) / (1 + len(nulls))


def classifier_test(
    pooled: Float[Tensor, "N K"], is_current: Bool[Tensor, " N"], generator: torch.Generator
) -> tuple[TestResult, np.ndarray, np.ndarray]:
    """Can a classifier tell the two apart on images it has not seen? One held-out half.

    Logistic regression on the components and their squares, so that a change of spread is seen as
    well as a shift. The effect is the area under the ROC curve; its p-value is that of the rank
    sum (one-sided). Cross-validated p-values are too small under no drift, hence one split.

    Returns:
        The test, the scores of the held-out half, and which of them are of current images.

    Source:
        Lopez-Paz and Oquab 2017, arXiv:1610.06545; Mann and Whitney 1947 for the variance.
    """
    order = _halves(is_current, generator)
    inputs = torch.cat([pooled, pooled.square()], dim=1)[order].numpy()
    labels = is_current[order].numpy()
    half = len(inputs) // 2
    if len(set(labels[:half])) < 2 or len(set(labels[half:])) < 2:
        return TestResult(1.0, 0.5), np.zeros(len(inputs) - half), labels[half:]
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
    with threadpool_limits(limits=ONE_THREAD):
        scores = model.fit(inputs[:half], labels[:half]).decision_function(inputs[half:])
    auc = area_under_curve(scores, labels[half:])
    num_ones = int(labels[half:].sum())
    num_zeros = len(labels) - half - num_ones
    std_error = math.sqrt((num_ones + num_zeros + 1) / (12 * num_ones * num_zeros))
    p_value = 1 - NormalDist().cdf((auc - 0.5) / std_error)
    return TestResult(p_value, auc), scores, labels[half:]


def _halves(is_current: Bool[Tensor, " N"], generator: torch.Generator) -> Int[Tensor, " N"]:
    """An order of all rows whose first half has half of either side, so that no half lacks one."""
    halves: list[list[Tensor]] = [[], []]
    for side in (~is_current, is_current):
        rows = side.nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        cut = len(rows) // 2
        halves[0].append(rows[:cut])
        halves[1].append(rows[cut:])
    return torch.cat([*halves[0], *halves[1]])


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a random one scores above a random zero; ties count half."""
    ones, zeros = scores[labels], scores[~labels]
    above = (ones[:, None] > zeros[None, :]).mean()
    equal = (ones[:, None] == zeros[None, :]).mean()
    return float(above + equal / 2)


def component_test(
    pooled: Float[Tensor, "N K"], is_current: Bool[Tensor, " N"]
) -> tuple[TestResult, list[TestResult]]:
    """Kolmogorov and Smirnov's test of each component, corrected for their number by Holm.

    Returns:
        The smallest corrected p-value with the largest distance between distribution functions;
        then each component with its own corrected p-value and distance.

    Source:
        Smirnov 1939; Holm 1979, Scandinavian Journal of Statistics 6.
    """
    distances = component_distances(pooled.numpy(), is_current.numpy())
    num_current = int(is_current.sum())
    num_reference = len(pooled) - num_current
    effective = round(num_current * num_reference / len(pooled))
    adjusted = holm_adjusted([float(p) for p in stats.kstwo.sf(distances, effective)])
    each = [
        TestResult(p_value, float(distance))
        for p_value, distance in zip(adjusted, distances, strict=True)
    ]
    return TestResult(min(adjusted), float(distances.max())), each


def component_distances(
    values: Float[np.ndarray, "N K"], is_current: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, " K"]:
    """Largest distance between the two distribution functions, for each component.

    All components at once: many times quicker than scipy's `ks_2samp` for each.
    """
    order = np.argsort(values, axis=0)
    ranked = np.take_along_axis(values, order, axis=0)
    weights = np.where(is_current, 1 / is_current.sum(), -1 / (~is_current).sum())
    gaps = np.abs(np.cumsum(weights[order], axis=0))
    is_last_of_equals = np.ones(gaps.shape, bool)
    is_last_of_equals[:-1] = ranked[1:] != ranked[:-1]
    largest: np.ndarray = np.where(is_last_of_equals, gaps, 0).max(axis=0)
    return largest


def outlier_test(pooled: Float[Tensor, "N K"], is_current: Bool[Tensor, " N"]) -> TestResult:
    """Are current images over-represented among the farthest of all? Fisher's exact test.

    The farthest 1 % of the pooled images, by distance from the common centre: how many of them
    are current is hypergeometric when nothing has changed.

    Returns:
        One-sided p-value; effect: share of the current images that are among the farthest, less
        the same share of the reference.

    Source:
        Fisher 1935.
    """
    num_farthest = max(MIN_OUTLYING, round(OUTLYING_SHARE * len(pooled)))
    farthest = pooled.norm(dim=1).topk(num_farthest).indices
    num_current = int(is_current.sum())
    num_hits = int(is_current[farthest].sum())
    chance = stats.hypergeom(len(pooled), num_current, num_farthest)
    others = (num_farthest - num_hits) / (len(pooled) - num_current)
    return TestResult(float(chance.sf(num_hits - 1)), num_hits / num_current - others)


def label_test(
    reference: Int[np.ndarray, " C"],
    current: Int[np.ndarray, " C"],
    num_permutations: int,
    rng: np.random.Generator,
) -> TestResult:
    """Do the classes have other shares? Chi-square of homogeneity, its p-value by permutations.

    By permutations and not by the chi-square distribution, because with 50 images some classes
    have fewer than the five expected ones that the distribution needs.

    Args:
        reference: Images of each class.
        current: The same for current images.
        num_permutations: Random divisions of all labels.
        rng: Draws them.

    Returns:
        The test; effect: total variation distance of the shares, half the sum of their
        differences, [0, 1].

    Source:
        Pearson 1900; Patefield 1981, Applied Statistics 30, for tables of given margins.
    """
    totals = (reference + current).astype(np.int64)
    num_current, num_all = int(current.sum()), int(totals.sum())
    draws = rng.multivariate_hypergeometric(totals, num_current, size=num_permutations)
    expected = totals * num_current / num_all
    is_used = expected > 0
    tables = np.concatenate([current[None], draws])[:, is_used]
    # The reference's cells are the rest of given totals: its terms are a constant factor.
    statistics = ((tables - expected[is_used]) ** 2 / expected[is_used]).sum(axis=1)
    p_value = _permutation_p_value(float(statistics[0]), [float(s) + 1e-9 for s in statistics[1:]])
    return TestResult(p_value, total_variation(reference, current))


def total_variation(first: np.ndarray, second: np.ndarray) -> float:
    """Half the sum of the differences of two sets of shares, [0, 1]."""
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)
