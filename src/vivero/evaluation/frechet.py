"""The Frechet distance between two sets of features, with a standard error.

Pure functions: no files, no randomness. Shapes: N images, M reference images, D features.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from scipy import linalg
from torch import Tensor

from vivero.errors import NotComputableError
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

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance, computed once: O(D^3)."""
        return _square_root(self.covariance)


@dataclass(frozen=True)
class Influence:
    """A distance, and what each image adds to it when its weight grows.

    Attributes:
        distance: Frechet distance.
        values: Of each image, float64, shape (N,), with mean 0; in units of the distance.
    """

    distance: float
    values: Tensor

    @property
    def std_error(self) -> float:
        """Of the distance, over draws of N images."""
        return float(self.values.std()) / math.sqrt(len(self.values))


def moments(features: Float[Tensor, "N D"]) -> Moments:
    """Mean and unbiased covariance, in float64; needs at least two rows."""
    if len(features) < 2:
        raise NotComputableError(f"a covariance needs at least 2 images; got {len(features)}")
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
    root = first.root
    overlap = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    gap = (first.mean - second.mean).square().sum()
    trace = first.covariance.trace() + second.covariance.trace()
    return float(gap + trace - 2 * overlap)


def frechet_influence(features: Float[Tensor, "N D"], reference: Moments) -> Influence:
    """Frechet distance of features from a fixed reference, and each image's share in its noise.

    With C1 the reference's covariance, C2 the features', and
    T = C1^1/2 (C1^1/2 C2 C1^1/2)^-1/2 C1^1/2, the map that carries N(mean2, C2) to N(mean1, C1),
    the gradient of the distance is
        d / d mean2 = 2 (mean2 - mean1),   d / d C2 = I - T,
    and weight moved to an image x moves mean2 by x - mean2 and C2 by
    (x - mean2)(x - mean2)^T - C2. So the image's influence is
        2 (mean2 - mean1)(x - mean2) + (x - mean2)^T (I - T) (x - mean2) - its mean over images.
    One pass over the images replaces hundreds of bootstrap replicates of an O(D^3) figure, and the
    influences of two models on the same noise, subtracted image by image, give the error of the
    difference of their distances.

    Args:
        features: Of the judged images.
        reference: Moments of the reference, taken as given. The distance is symmetric: with the
            roles swapped this is the influence of the reference's images.

    Source:
        Jaeckel 1972, Bell Labs MM 72-1215-11, and Hampel 1974, J. Am. Stat. Assoc. 69 (influence);
        Dowson and Landau 1982 (the map T); Bhatia, Jain and Lim 2019, Expositiones Mathematicae 37
        (the gradient I - T).
    """
    own = moments(features)
    values, vectors = _eigen(reference.root @ own.covariance @ reference.root)
    values = values.clamp(min=0)
    gap = own.mean - reference.mean
    trace = reference.covariance.trace() + own.covariance.trace()
    distance = float(gap.square().sum() + trace - 2 * values.sqrt().sum())

    kept = values > RANK_TOLERANCE * values.max()
    half_map = reference.root @ vectors[:, kept] * values[kept] ** -0.25  # T = it times its turn
    centred = features.double() - own.mean
    spread = centred.square().sum(dim=1) - (centred @ half_map).square().sum(dim=1)
    influence = 2 * centred @ gap + spread
    return Influence(distance, influence - influence.mean())


def frechet_estimate(features: Float[Tensor, "N D"], reference: Moments) -> Estimate:
    """Frechet distance of features from a fixed reference, with its standard error.

    The error is the infinitesimal jackknife, from `frechet_influence`. It covers the draw of the N
    images at this N, not the upward bias that shrinks with N.

    Args:
        features: Of the judged images.
        reference: Moments of the reference, taken as given.
    """
    return estimate_of(frechet_influence(features, reference))


def estimate_of(found: Influence) -> Estimate:
    """The distance with its interval; a distance is not below zero."""
    return normal_estimate(
        found.distance, found.std_error, len(found.values), bounds=(0.0, math.inf)
    )


def _square_root(covariance: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    values, vectors = _eigen(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def _eigen(matrix: Float[Tensor, "D D"]) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix.

    Of fewer images than features most eigenvalues are 0, and LAPACK's divide and conquer, the
    quick way, sometimes gives up on that; its QR iteration does not.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except RuntimeError:  # LinAlgError, which torch.linalg does not export
        values, vectors = map(torch.from_numpy, linalg.eigh(matrix.numpy(), driver="ev"))
    return values, vectors
