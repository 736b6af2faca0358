"""The Frechet distance between two sets of features, with a standard error.

Pure functions: no files, no randomness. Shapes: N images, M reference images, D features.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vivero.evaluation.intervals import Estimate, normal_estimate

RANK_TOLERANCE = 1e-10  # of the largest eigenvalue; below it a direction counts as empty


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Attributes:
        mean: float64, shape (D,).
        covariance: float64, shape (D, D), divided by n - 1.
    """

    mean: Tensor
    covariance: Tensor


def moments(features: Float[Tensor, "N D"]) -> Moments:
    """Mean and unbiased covariance, in float64; needs at least two rows."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 images; got {len(features)}")
    rows = features.double()
    mean = rows.mean(dim=0)
    centred = rows - mean
    return Moments(mean, centred.T @ centred / (len(rows) - 1))


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance between two normal distributions.

    distance = |mean1 - mean2|^2 + tr(C1 + C2) - 2 tr((C1^1/2 C2 C1^1/2)^1/2)

    By eigenvalues of symmetric matrices: always real, and far faster than the square root of the
    product C1 C2, which clean-fid takes. It is not below zero but by rounding.

    Source:
        Dowson and Landau 1982, J. Multivar. Anal. 12; Heusel et al. 2017, arXiv:1706.08500.
    """
    root = _square_root(first.covariance)
    overlap = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    gap = (first.mean - second.mean).square().sum()
    trace = first.covariance.trace() + second.covariance.trace()
    return float(gap + trace - 2 * overlap)


def frechet_estimate(features: Float[Tensor, "N D"], reference: Moments) -> Estimate:
    """Frechet distance of features from a fixed reference, with its standard error.

    The error is the infinitesimal jackknife: with T = C1^1/2 (C1^1/2 C2 C1^1/2)^-1/2 C1^1/2, the
    map that carries the features' distribution C2 to the reference C1, the distance changes with
    the weight of one image x as
        influence(x) = 2 (mean2 - mean1)(x - mean2) + (x - mean2)^T (I - T) (x - mean2) + constant,
    so one pass over the images replaces hundreds of bootstrap replicates of an O(D^3) figure.
    It covers the draw of the N images at this N, not the upward bias that shrinks with N.

    Args:
        features: Of the judged images.
        reference: Moments of the reference, taken as given.

    Source:
        Jaeckel 1972, Bell Labs MM 72-1215-11; the map: Dowson and Landau 1982.
    """
    own = moments(features)
    root = _square_root(reference.covariance)
    values, vectors = torch.linalg.eigh(root @ own.covariance @ root)
    values = values.clamp(min=0)
    gap = own.mean - reference.mean
    trace = reference.covariance.trace() + own.covariance.trace()
    distance = float(gap.square().sum() + trace - 2 * values.sqrt().sum())

    kept = values > RANK_TOLERANCE * values.max()
    half_map = root @ vectors[:, kept] * values[kept] ** -0.25  # T = half_map half_map^T
    centred = features.double() - own.mean
    spread = centred.square().sum(dim=1) - (centred @ half_map).square().sum(dim=1)
    influence = 2 * centred @ gap + spread
    std_error = float(influence.std()) / math.sqrt(len(features))
    return normal_estimate(distance, std_error, len(features), bounds=(0.0, math.inf))


def _square_root(covariance: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
