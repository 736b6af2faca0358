"""Feature extractors: from uint8 images to the features and logits that metrics are made of.

Every extractor says which weights it holds (sha256) and how it resizes, because both change every
figure. Shapes: N images, C channels, D features, K logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vivero.config.schema import ExtractorName
from vivero.errors import ExtractorError
from vivero.evaluation.resize import clean_resized, resize_description

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Extractor:
    """A frozen network that turns images into features.

    Attributes:
        name: As in params.yaml and in the names of the metrics.
        weights_sha256: Of the file that the weights came from.
        size_px: Side that images are resized to.
        num_features: D.
        classifier: What the logits say, in words; None where the network has no logits.
        forward: Resized images (N, 3, size_px, size_px) in [0, 255] to features and logits.
    """

    name: str
    weights_sha256: str
    size_px: int
    num_features: int
    classifier: str | None
    forward: Forward

    @property
    def resize(self) -> str:
        """How images are resized, in words."""
        return resize_description(self.size_px)

    def __call__(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features and logits of a batch.

        Args:
            images: uint8, shape (N, C, H, W), C is 1 or 3.

        Returns:
            Features, float32, shape (N, D), and logits, float32, shape (N, K), or None.
        """
        with torch.inference_mode():
            features, logits = self.forward(clean_resized(images, self.size_px))
        return features.float(), None if logits is None else logits.float()


def build_extractor(
    name: ExtractorName, size_px: int, weights_dir: Path, weights_sha256: str | None
) -> Extractor:
    """The extractor of params.yaml.

    Args:
        name: efficientnet_lite0 (its weights ship in a package) or inception.
        size_px: Side that images are resized to; Inception takes 299 only.
        weights_dir: Folder of inception's weights; they are downloaded there.
        weights_sha256: Hash of the file of inception to use; None = the published one.

    Raises:
        ExtractorError: When weights are missing or altered, or the size does not fit.
    """
    if name == "efficientnet_lite0":
        from vivero.evaluation.efficientnet import load_efficientnet_lite0

        return load_efficientnet_lite0(size_px)
    from vivero.evaluation.inception import SIZE_PX, load_inception

    if size_px != SIZE_PX:
        raise ExtractorError(
            f"extractor inception takes images of {SIZE_PX} px, or its distance would not be "
            f"called FID; got {size_px}. Write compute_reference.extractor_size_px: {SIZE_PX}"
        )
    return load_inception(weights_dir, weights_sha256)
