"""The kernel distance (KID with Inception's features): unbiased at any number of images.

Pure functions: no files, no randomness. Shapes: N images, M reference images, D features.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.intervals import Estimate, normal_estimate

NUM_GROUPS = 25  # of the delete-a-group jackknife
CHUNK_ROWS = 1024  # bounds the memory of one block of the kernel matrix


def kernel_estimate(
    features: Float[Tensor, "N D"],
    reference: Float[Tensor, "M D"],
    reference_mean_kernel: float | None = None,
) -> Estimate:
    """Squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, over all pairs.

    It is the figure that clean-fid approaches by averaging random subsets of 1,000. The standard
    error is a delete-a-group jackknife over the judged images; the reference is taken as given.

    Args:
        features: Of the judged images; at least two.
        reference: Of the reference images; at least two.
        reference_mean_kernel: mean_kernel_of_pairs(reference), when it is known already.

    Returns:
        The distance; it may be below zero, as an unbiased figure of something near zero must.

    Source:
        Binkowski et al. 2018, arXiv:1801.01401, section 3; Gretton et al. 2012, equation 3.
    """
    num_images = len(features)
    if num_images < 2 or len(reference) < 2:
        raise NotComputableError(
            f"need at least 2 images a side; got {num_images}, {len(reference)}"
        )
    if reference_mean_kernel is None:
        reference_mean_kernel = mean_kernel_of_pairs(reference)
    groups = torch.arange(num_images) * min(NUM_GROUPS, num_images) // num_images
    num_groups = int(groups[-1]) + 1
    own, cross = _group_sums(features, reference, groups, num_groups)
    sizes = torch.bincount(groups, minlength=num_groups).double()

    def distance(own_sum: Tensor, cross_sum: Tensor, count: Tensor) -> Tensor:
        pairs = own_sum / (count * (count - 1))
        across = cross_sum / (count * len(reference))
        return pairs + reference_mean_kernel - 2 * across

    total = torch.tensor(float(num_images), dtype=torch.float64)
    value = float(distance(own.sum(), cross.sum(), total))
    if num_images - sizes.max() < 2:
        return normal_estimate(value, abs(value), num_images)
    without = distance(
        own.sum() - own.sum(dim=0) - own.sum(dim=1) + own.diagonal(),
        cross.sum() - cross,
        total - sizes,
    )
    spread = (without - without.mean()).square().sum()
    std_error = math.sqrt(float(spread) * (num_groups - 1) / num_groups)
    return normal_estimate(value, std_error, num_images)


def mean_kernel_of_pairs(features: Float[Tensor, "N D"]) -> float:
    """Mean of the kernel over all pairs of two different rows."""
    total = 0.0
    for start in range(0, len(features), CHUNK_ROWS):
        rows = features[start : start + CHUNK_ROWS]
        total += float(_kernel(rows, rows).double().sum() - _self_kernel(rows).sum())
        total += 2 * float(_kernel(rows, features[start + len(rows) :]).double().sum())
    return total / (len(features) * (len(features) - 1))


def _group_sums(
    features: Float[Tensor, "N D"],
    reference: Float[Tensor, "M D"],
    groups: Tensor,
    num_groups: int,
) -> tuple[Float[Tensor, "G G"], Float[Tensor, " G"]]:
    """Sums of the kernel: between groups of images without self pairs, and group to reference."""
    own = torch.zeros(num_groups, num_groups, dtype=torch.float64)
    cross = torch.zeros(num_groups, dtype=torch.float64)
    member = torch.nn.functional.one_hot(groups, num_groups).double()
    for start in range(0, len(features), CHUNK_ROWS):
        rows = features[start : start + CHUNK_ROWS]
        here = member[start : start + CHUNK_ROWS]
        own += here.T @ (_kernel(rows, features).double() @ member)
        own -= torch.diag(here.T @ _self_kernel(rows))
        cross += here.T @ _kernel(rows, reference).double().sum(dim=1)
    return own, cross


def _kernel(rows: Float[Tensor, "A D"], others: Float[Tensor, "B D"]) -> Float[Tensor, "A B"]:
    return (rows @ others.T / rows.shape[1] + 1) ** 3


def _self_kernel(rows: Float[Tensor, "A D"]) -> Float[Tensor, " A"]:
    return (rows.double().square().sum(dim=1) / rows.shape[1] + 1) ** 3
