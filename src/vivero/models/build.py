"""The only factory of networks."""

import torch
from torch import nn

from vivero.config.schema import ModelConfig
from vivero.models.tree import TreeNetwork
from vivero.models.unet import UNet


def build_model(
    config: ModelConfig, num_channels: int, num_classes: int, image_size_px: int
) -> nn.Module:
    """A new network, its weights drawn from torch's global generator.

    Args:
        config: The block train.model of params.yaml.
        num_channels: Channels of the images; 1 or 3.
        num_classes: Number of classes; 0 for images without labels.
        image_size_px: Side of the square images; a multiple of config.size_divisor_px.

    Returns:
        A module that `build_denoiser` reads; label num_classes means "no class". Weights lie
        channels-last.

    Raises:
        ValueError: If image_size_px does not fit the network.
    """
    match config.name:
        case "unet":
            network: nn.Module = UNet(config, num_channels, num_classes, image_size_px)
        case "tree":
            network = TreeNetwork(config, num_channels, num_classes, image_size_px)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def save_memory(network: nn.Module) -> None:
    """Make a network forget the activations inside its blocks and compute them again for gradients.

    The same bits, for less memory and about a fourth more time.
    """
    network.saves_memory = True  # type: ignore[assignment]
