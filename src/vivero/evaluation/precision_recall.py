"""Precision and recall, density and coverage: are samples like real ones, and like all of them?

Pure functions: no files, no randomness. Shapes: N images, M reference images, D features.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.intervals import Estimate, mean_estimate, share_estimate

CHUNK_ROWS = 1024  # bounds the memory of one block of distances


@dataclass(frozen=True)
class Neighbourhoods:
    """Four figures from balls around each image that reach to its k-th nearest neighbour.

    Their intervals count the images of one side, with the balls of the other side as given.

    Attributes:
        precision: Share of images inside a ball of the reference.
        recall: Share of reference images inside a ball of the images.
        density: Mean number of reference balls that an image lies in, over k; may exceed 1.
        coverage: Share of reference balls with an image inside.
        is_precise: Of each image whether it counts for precision, shape (N,).
        is_recalled: Of each reference image whether it counts for recall, shape (M,).
        is_covered: Of each reference image whether it counts for coverage, shape (M,).
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    is_precise: Bool[Tensor, " N"]
    is_recalled: Bool[Tensor, " M"]
    is_covered: Bool[Tensor, " M"]


def neighbourhoods(
    features: Float[Tensor, "N D"],
    reference: Float[Tensor, "M D"],
    num_neighbours: int,
    reference_radii: Float[Tensor, " M"] | None = None,
) -> Neighbourhoods:
    """Precision, recall, density and coverage of images against a reference.

    Args:
        features: Of the judged images; more than num_neighbours.
        reference: Of the reference images; more than num_neighbours.
        num_neighbours: k.
        reference_radii: neighbour_radii(reference, num_neighbours), when known already.

    Source:
        Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.
    """
    radii = neighbour_radii(features, num_neighbours)
    if reference_radii is None:
        reference_radii = neighbour_radii(reference, num_neighbours)
    num_balls = torch.zeros(len(features), dtype=torch.long)  # of the reference, around each image
    recalled: list[Bool[Tensor, " B"]] = []
    covered: list[Bool[Tensor, " B"]] = []
    for start in range(0, len(reference), CHUNK_ROWS):
        distances = distances_between(reference[start : start + CHUNK_ROWS], features)
        is_inside = distances < reference_radii[start : start + CHUNK_ROWS, None]
        num_balls += is_inside.sum(dim=0)
        covered.append(is_inside.any(dim=1))
        recalled.append((distances < radii).any(dim=1))
    is_precise, is_recalled, is_covered = num_balls > 0, torch.cat(recalled), torch.cat(covered)
    return Neighbourhoods(
        precision=share_estimate(int(is_precise.sum()), len(features)),
        recall=share_estimate(int(is_recalled.sum()), len(reference)),
        density=mean_estimate(num_balls.double() / num_neighbours),
        coverage=share_estimate(int(is_covered.sum()), len(reference)),
        is_precise=is_precise,
        is_recalled=is_recalled,
        is_covered=is_covered,
    )


def neighbour_radii(features: Float[Tensor, "N D"], num_neighbours: int) -> Float[Tensor, " N"]:
    """Distance of each row to its k-th nearest other row."""
    if len(features) <= num_neighbours:
        raise NotComputableError(
            f"{num_neighbours} neighbours need more than as many images; got {len(features)}"
        )
    radii = []
    for start in range(0, len(features), CHUNK_ROWS):
        distances = distances_between(features[start : start + CHUNK_ROWS], features)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = 0.0  # a row is its own nearest, exactly
        radii.append(distances.kthvalue(num_neighbours + 1, dim=1).values)
    return torch.cat(radii)


def distances_between(
    rows: Float[Tensor, "A D"], others: Float[Tensor, "B D"]
) -> Float[Tensor, "A B"]:
    """Euclidean distances between all rows and all others, by one product of matrices."""
    squares = torch.addmm(others.square().sum(dim=1), rows, others.T, beta=1, alpha=-2)
    return (squares + rows.square().sum(dim=1, keepdim=True)).clamp_(min=0).sqrt_()
