"""The inception score: sure about each image, varied over all. Names its classifier elsewhere.

Pure functions: no files, no randomness. Shapes: N images, K classes.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vivero.errors import NotComputableError
from vivero.evaluation.intervals import Estimate, normal_estimate


def inception_score(logits: Float[Tensor, "N K"]) -> Estimate:
    """The exponential of the mean divergence of the images' classes from their average.

    score = exp(mean over images of KL(p(class | image) || p(class)))

    Over all images at once; splitting, as is common, only adds bias. The divergence of an image is
    also its influence on the mean divergence, so its spread gives the standard error.

    Returns:
        The score in [1, K], biased upwards at small N.

    Source:
        Salimans et al. 2016, arXiv:1606.03498, section 4.
    """
    if len(logits) < 2:
        raise NotComputableError(f"the inception score needs at least 2 images; got {len(logits)}")
    log_given = torch.log_softmax(logits.double(), dim=1)
    log_average = torch.logsumexp(log_given, dim=0) - math.log(len(logits))
    divergence = (log_given.exp() * (log_given - log_average)).sum(dim=1)
    score = float(divergence.mean().exp())
    std_error = score * float(divergence.std()) / math.sqrt(len(logits))
    return normal_estimate(score, std_error, len(logits), bounds=(1.0, float(logits.shape[1])))
