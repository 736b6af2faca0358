"""How far two images are apart in the features of EfficientNet-Lite0; a training may minimise it.

Letters: B images, C channels, H rows, W columns.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from vivero.evaluation.efficientnet import checked_weights_path, load_network

STAGES = [0, 1, 2]  # features of 1/2, 1/4 and 1/8 of the size
SIZE_PX = 64  # what smaller images are enlarged to


def perceptual_distance(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The distance, a function of two lots of images (B, C, H, W) in [-1, 1]; gives (B,).

    The mean squared difference of the features at each pixel, brought to unit length over the
    channels, summed over three stages of the network: no learned weights of the stages, unlike
    LPIPS.

    Raises:
        ExtractorError: When the packaged weights are not the ones that this version knows.

    Source:
        Zhang et al. 2018, arXiv:1801.03924, equation 1 without w.
    """
    network = load_network(checked_weights_path()).to(device)

    def features(images: Tensor) -> list[Tensor]:
        images = images.expand(-1, 3, -1, -1)
        if images.shape[-1] < SIZE_PX:
            images = F.interpolate(images, size=(SIZE_PX, SIZE_PX), mode="bilinear")
        images = images.contiguous(memory_format=torch.channels_last)
        stages = network.forward_intermediates(images, indices=STAGES, intermediates_only=True)
        return [F.normalize(stage, dim=1) for stage in stages]

    def distance(images: Tensor, others: Tensor) -> Tensor:
        with torch.no_grad():
            targets = features(others)
        pairs = zip(features(images), targets, strict=True)
        gaps = [(own - target).square().sum(dim=1).mean(dim=(1, 2)) for own, target in pairs]
        return torch.stack(gaps).sum(dim=0)

    return distance
