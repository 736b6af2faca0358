"""A network of models/ as the denoiser that its settings make of it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from vivero.config.schema import DiffusionConfig, ModelConfig
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.preconditioning import Denoiser
from vivero.diffusion.schedules import build_schedule
from vivero.diffusion.tree_denoiser import TreeDenoiser, bands_of
from vivero.models.tree import TreeNetwork, tree_config

AnyDenoiser = Denoiser | TreeDenoiser


def build_denoiser(
    network: nn.Module,
    model: ModelConfig,
    diffusion: DiffusionConfig,
    null_label: int,
    call: Callable[..., Any] | None = None,
) -> AnyDenoiser:
    """What a network means.

    Args:
        network: Of build_model; a tree brings the scales of its data, which are read now.
        model: What it was built from.
        diffusion: The block train.diffusion of params.yaml.
        null_label: The number of classes.
        call: Calls the network, where that is more than calling it: compiled, in half precision,
            with its gradients exchanged. None for the network itself.
    """
    call = network if call is None else call
    if not isinstance(network, TreeNetwork):
        return Denoiser(call, diffusion.parameterisation, diffusion.sigma_data, null_label)
    tree = tree_config(model)
    band_std = network.band_std.tolist()
    return TreeDenoiser(
        network=call,
        scheduler=NoiseScheduler(build_schedule(diffusion), tuple(band_std[:-1]), tree.threshold),
        bands=bands_of(band_std, network.image_rms.item()),
        parameterisation=diffusion.parameterisation,
        is_fused=tree.is_fused,
        null_label=null_label,
    )
