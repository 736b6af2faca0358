"""Networks on disk: `config.json` and safetensors in a bundle's `unet/` folder, never a pickle.

Nothing of the bundle is imported or executed; the network is built by our own factory.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parsed
from safetensors.torch import save as serialised
from torch import Tensor, nn

from vivero.config.schema import Count, ModelConfig, Positive, Section
from vivero.errors import BundleError
from vivero.files import read_json, write_json, write_whole
from vivero.models.build import build_model

NETWORK_DIR = "unet"
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
DIFFUSERS_CLASS = "ViveroUNet"  # the class of the bundle's own vivero_unet.py, for diffusers


class NetworkConfig(Section):
    """All that build_model needs."""

    model: ModelConfig
    num_channels: Positive
    num_classes: Count
    image_size_px: Positive


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, ready to predict, and what it was built from.

    Attributes:
        network: In evaluation mode.
        config: What it was built from.
        weights_sha256: Of the very bytes that were loaded, not of a second reading of the file.
    """

    network: nn.Module
    config: NetworkConfig
    weights_sha256: str


def build_network(config: NetworkConfig) -> nn.Module:
    """A new network of config."""
    return build_model(config.model, config.num_channels, config.num_classes, config.image_size_px)


def save(bundle_dir: Path, weights: Mapping[str, Tensor], config: NetworkConfig) -> None:
    """Write `unet/`: equal weights give equal bytes.

    Args:
        bundle_dir: Folder of the bundle; made when missing.
        weights: The network's state_dict; written as float32 on the CPU, sorted by name.
        config: What the network was built from.

    Raises:
        ValueError: If the weights are not those of a network of config.
    """
    _fill(build_network(config), weights)
    tensors = {
        name: weights[name].detach().to("cpu", torch.float32).contiguous().clone()
        for name in sorted(weights)
    }
    network_dir = bundle_dir / NETWORK_DIR
    with write_whole(network_dir / WEIGHTS_NAME) as part_path:
        # not save_file: its own error would hide that the disk is full
        part_path.write_bytes(serialised(tensors, metadata={"format": "pt"}))
    write_json(network_dir / CONFIG_NAME, {"_class_name": DIFFUSERS_CLASS, **config.model_dump()})


def load(bundle_dir: Path) -> LoadedModel:
    """The network of a bundle, in evaluation mode, its weights frozen.

    Args:
        bundle_dir: Folder of the bundle.

    Raises:
        BundleError: When a file is missing, damaged, or of another network; it names the file.
    """
    network_dir = bundle_dir / NETWORK_DIR
    config = _read_config(network_dir / CONFIG_NAME)
    weights_path = network_dir / WEIGHTS_NAME
    try:
        content = weights_path.read_bytes()
        weights = parsed(content)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"cannot read the weights {weights_path}: {error}; expected a whole safetensors "
            f"file. Make the bundle again, or fetch it again with `dvc checkout`"
        ) from error
    network = build_network(config)
    try:
        _fill(network, weights)
    except ValueError as error:
        raise BundleError(
            f"{weights_path} does not fit {network_dir / CONFIG_NAME}: {error}. "
            f"Make the bundle again, or fetch it again with `dvc checkout`"
        ) from error
    return LoadedModel(
        network.eval().requires_grad_(requires_grad=False),
        config,
        hashlib.sha256(content).hexdigest(),
    )


def _read_config(path: Path) -> NetworkConfig:
    try:
        values: dict[str, Any] = dict(read_json(path))
        own = {name: value for name, value in values.items() if not name.startswith("_")}
        return NetworkConfig.model_validate(own)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BundleError(
            f"cannot read {path}: {reason}; expected the network's settings as JSON. "
            f"Make the bundle again, or fetch it again with `dvc checkout`"
        ) from error


def _fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into network; every name and shape must be as expected.

    Raises:
        ValueError: Naming the first weights that do not fit.
    """
    expected = network.state_dict()
    strange = sorted(expected.keys() ^ weights.keys())
    if strange:
        state = "missing" if strange[0] in expected else "not expected"
        raise ValueError(f"{len(strange)} names differ; {strange[0]} is {state}")
    for name, values in expected.items():
        if values.shape != weights[name].shape:
            got = tuple(weights[name].shape)
            raise ValueError(f"{name} should have shape {tuple(values.shape)}; got {got}")
    network.load_state_dict(weights)
