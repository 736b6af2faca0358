"""A network is read as its settings say: a U-Net as one denoiser, a tree as one of many levels."""

import pytest
import torch

from vivero.diffusion.hierarchical import sample_hierarchical
from vivero.diffusion.preconditioning import Denoiser
from vivero.diffusion.samplers import SAMPLERS
from vivero.diffusion.schedules import build_schedule
from vivero.diffusion.tree_denoiser import BranchOutput, TreeDenoiser, bands_of
from vivero.models.build import build_model
from vivero.models.denoisers import build_denoiser
from vivero.models.tree import Conditioning, TreeNetwork
from vivero.models.unet import UNet

NUM_CLASSES, SIZE_PX = 3, 16
TREE = {
    "train.model.name": "tree",
    "train.model.patch_px": 2,
    "train.model.channels": [8, 8, 16],
    "train.model.tree": {
        "threshold": 2.0,
        "is_fused": True,
        "normalisation": "none",
        "channel_attention": "none",
        "downsampling": "blur",
        "has_cross_attention": False,
        "fine_crop_share": 1.0,
    },
}


@pytest.fixture(scope="module")
def train(config_factory):
    def settings(**changes):
        values = dict(TREE)
        for name, value in changes.items():
            if name in TREE["train.model.tree"]:
                values["train.model.tree"] = {**values["train.model.tree"], name: value}
            else:
                block = "diffusion" if name in ("parameterisation", "sigma_data") else "model"
                values[f"train.{block}.{name}"] = value
        return config_factory(values).train

    return settings


def built(config) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(config.model, 1, NUM_CLASSES, SIZE_PX)


def test_the_name_chooses_network_and_reading(train):
    for name, network_type, read_as in (
        ("unet", UNet, Denoiser),
        ("tree", TreeNetwork, TreeDenoiser),
    ):
        config = train(name=name)
        network = built(config)
        assert type(network) is network_type
        denoiser = build_denoiser(network, config.model, config.diffusion, NUM_CLASSES)
        assert type(denoiser) is read_as
        assert denoiser.null_label == NUM_CLASSES
        assert denoiser.network is network


def no_noise() -> torch.Tensor:
    raise AssertionError("a deterministic sampler drew noise")


@pytest.mark.parametrize("sample", [SAMPLERS["dpm_solver_pp_2m"], sample_hierarchical])
def test_tokens_and_a_mask_reach_the_images_that_are_made(train, sample):
    config = train()
    torch.manual_seed(0)
    network = TreeNetwork(
        config.model, 1, NUM_CLASSES, SIZE_PX, token_channels=6, has_mask=True
    ).eval()
    for weight in network.parameters():  # what starts silent speaks
        torch.nn.init.normal_(weight, std=0.2)
    denoiser = build_denoiser(network, config.model, config.diffusion, NUM_CLASSES)
    sigmas, noise = build_schedule(config.diffusion).sampling_sigmas(4), torch.randn(2, 1, 16, 16)
    tokens, known, labels = torch.randn(2, 5, 6), torch.randn(2, 2, 16, 16), torch.tensor([0, 1])

    def made(*conditioning: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return sample(denoiser, noise, sigmas, Conditioning(*conditioning), no_noise)

    images = made(labels, tokens, known)
    assert images.shape == noise.shape
    others = ((labels, -tokens, known), (labels, tokens, -known), (1 - labels, tokens, known))
    for conditioning in others:
        assert not torch.allclose(made(*conditioning), images, atol=1e-3)


@pytest.mark.parametrize("parameterisation", ["noise", "velocity", "clean"])
@pytest.mark.parametrize("name", ["unet", "tree"])
def test_the_parameterisation_is_that_of_the_settings(train, name: str, parameterisation: str):
    config = train(name=name, parameterisation=parameterisation, sigma_data=0.7)
    denoiser = build_denoiser(built(config), config.model, config.diffusion, NUM_CLASSES)
    assert denoiser.parameterisation == parameterisation
    if isinstance(denoiser, Denoiser):
        assert denoiser.sigma_data == 0.7


def test_a_tree_brings_the_scales_of_its_data(train):
    config = train()
    network = built(config)
    generator = torch.Generator().manual_seed(0)
    network.fit(0.4 * torch.randn(50, 1, SIZE_PX, SIZE_PX, generator=generator))
    denoiser = build_denoiser(network, config.model, config.diffusion, NUM_CLASSES)
    stds = network.band_std.tolist()
    assert denoiser.scheduler.band_std == tuple(stds[:2])
    assert denoiser.scheduler.num_levels == 3
    assert denoiser.scheduler.thresholds[0] == pytest.approx(2 * stds[0])
    assert denoiser.scheduler.thresholds[1] == pytest.approx(2 * max(stds[:2]))
    assert denoiser.bands == bands_of(stds, network.image_rms.item())
    assert stds == pytest.approx([0.4] * 3, rel=0.1), "white noise has the same in all bands"


def test_a_scheduler_visits_the_noise_of_the_settings(train):
    config = train()
    denoiser = build_denoiser(built(config), config.model, config.diffusion, NUM_CLASSES)
    sigmas = denoiser.scheduler.sampling_sigmas(5)
    assert sigmas[0].item() == pytest.approx(config.diffusion.sigma_max)
    assert sigmas[-2].item() == pytest.approx(config.diffusion.sigma_min)


@pytest.mark.parametrize(("threshold", "level"), [(None, 0), (2.0, 2)])
def test_without_a_threshold_the_finest_branch_sees_all(train, threshold, level: int):
    config = train(threshold=threshold)
    denoiser = build_denoiser(built(config), config.model, config.diffusion, NUM_CLASSES)
    assert denoiser.scheduler.level_of(70.0) == level


@pytest.mark.parametrize("is_fused", [True, False])
def test_branches_are_fused_where_the_settings_say_so(train, is_fused: bool):
    config = train(is_fused=is_fused)
    denoiser = build_denoiser(built(config), config.model, config.diffusion, NUM_CLASSES)
    branches = denoiser.predict(
        [torch.ones(1, 1, 16, 16), torch.ones(0, 1, 8, 8), torch.ones(0, 1, 4, 4)],
        torch.tensor([0.1]),
        torch.tensor([0]),
    )
    assert [branch.fusion_weight is not None for branch in branches] == [is_fused, is_fused, False]


@pytest.mark.parametrize("name", ["unet", "tree"])
def test_another_call_of_the_network_is_used(train, name: str):
    config, calls = train(name=name), []
    network = built(config)

    def call(*arguments) -> torch.Tensor | list[BranchOutput]:
        calls.append(len(arguments))
        return network(*arguments)

    denoiser = build_denoiser(network, config.model, config.diffusion, NUM_CLASSES, call)
    denoised = denoiser(
        torch.ones(2, 1, SIZE_PX, SIZE_PX), torch.tensor([0.1, 0.2]), torch.tensor([0, 3])
    )
    assert denoised.shape == (2, 1, SIZE_PX, SIZE_PX)
    assert len(calls) == 1


def test_a_tree_without_its_block_is_refused(train):
    config = train()
    network = built(config)
    model = config.model.model_copy(update={"tree": None})
    with pytest.raises(ValueError, match=r"needs the block train\.model\.tree"):
        build_denoiser(network, model, config.diffusion, NUM_CLASSES)
