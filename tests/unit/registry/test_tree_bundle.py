"""A tree in a bundle: folded when loaded, with the scales of its data, and it samples the same."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vivero.diffusion.generation import GenerationSpec, generate
from vivero.diffusion.hierarchical import sample_hierarchical
from vivero.diffusion.samplers import SAMPLERS
from vivero.diffusion.tree_denoiser import TreeDenoiser
from vivero.errors import BundleError
from vivero.models.build import build_model
from vivero.models.denoisers import build_denoiser
from vivero.models.nf_resnet import ScaledStdConv2d
from vivero.models.tree import TreeNetwork
from vivero.registry.bundle import Bundle, BundleContents, load_bundle, write_bundle
from vivero.registry.bundle_config import bundle_config

CLASS_NAMES = ["shirt", "shoe", "bag"]
LINEAGE = {"data_digest": "d" * 32, "code_commit": None, "weights_sha256": None, "seed": 0}


@pytest.fixture(scope="module")
def config(config_factory):
    return config_factory(
        {
            "train.model.name": "tree",
            "train.model.patch_px": 2,
            "train.model.channels": [8, 8, 16],
            "train.model.tree": {
                "threshold": 2.0,
                "is_fused": True,
                "normalisation": "none",
                "channel_attention": "squeeze_excite",
                "downsampling": "blur",
                "has_cross_attention": True,
                "fine_crop_share": 1.0,
            },
        }
    )


@pytest.fixture(scope="module")
def network(config) -> TreeNetwork:
    """A tree that has seen data and moved off its start."""
    torch.manual_seed(0)
    network = build_model(config.train.model, 1, len(CLASS_NAMES), 16)
    assert isinstance(network, TreeNetwork)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.05 * torch.randn(weights.shape))
    network.fit(0.5 * torch.randn(20, 1, 16, 16).cumsum(3).tanh())
    return network.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def contents(config, network) -> BundleContents:
    values = bundle_config(config, CLASS_NAMES)
    return BundleContents(network.state_dict(), values, LINEAGE, "# A tree\n")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, contents) -> Bundle:
    bundle_dir = tmp_path_factory.mktemp("trees") / "bundle"
    write_bundle(bundle_dir, contents)
    return load_bundle(bundle_dir)


@pytest.fixture(scope="module")
def unfolded(config, network) -> TreeDenoiser:
    train = config.train
    denoiser = build_denoiser(network, train.model, train.diffusion, len(CLASS_NAMES))
    assert isinstance(denoiser, TreeDenoiser)
    return denoiser


def test_what_goes_in_comes_out(bundle, network, config):
    assert bundle.config.model == config.train.model
    loaded, weights = bundle.network.state_dict(), network.state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_the_denoiser_calls_a_folded_network(bundle):
    assert bundle.denoiser.network is bundle.folded_network
    assert not any(isinstance(m, ScaledStdConv2d) for m in bundle.folded_network.modules())
    assert any(isinstance(m, ScaledStdConv2d) for m in bundle.network.modules())


def test_the_scales_of_the_data_come_along(bundle, unfolded):
    assert isinstance(bundle.denoiser, TreeDenoiser)
    assert bundle.denoiser.bands == unfolded.bands
    assert bundle.denoiser.scheduler.band_std == unfolded.scheduler.band_std
    assert bundle.denoiser.scheduler.thresholds == unfolded.scheduler.thresholds
    assert bundle.denoiser.null_label == len(CLASS_NAMES)


def made(denoiser: TreeDenoiser, sampler: str) -> Tensor:
    noise = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    sigmas, labels = denoiser.scheduler.sampling_sigmas(8), torch.tensor([0, 1, 2, 3])
    with torch.inference_mode():
        if sampler == "hierarchical":
            return sample_hierarchical(denoiser, noise, sigmas, labels, lambda: noise)
        return SAMPLERS[sampler](denoiser, noise, sigmas, labels, lambda: noise)


@pytest.mark.parametrize("sampler", ["hierarchical", "dpm_solver_pp_2m"])
def test_samples_are_those_of_the_network_that_went_in(bundle, unfolded, sampler: str):
    expected, got = made(unfolded, sampler), made(bundle.denoiser, sampler)
    assert expected.std() > 0.05
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_makes_images_as_its_settings_say(bundle):
    defaults = bundle.sampling_defaults
    spec = GenerationSpec(
        seed=7,
        sampler="hierarchical",
        num_steps=4,
        guidance=defaults["guidance"],
        guidance_interval=tuple(defaults["guidance_interval"]),
        batch_images=3,
    )
    chunks = generate(
        bundle.denoiser, bundle.schedule, spec, torch.arange(4), range(4), bundle.image_shape
    )
    images = torch.cat(list(chunks))
    assert images.shape == (4, 1, 16, 16)
    assert images.float().std() > 5


def test_equal_contents_give_equal_bytes(tmp_path: Path, contents, bundle):
    assert write_bundle(tmp_path / "again", contents) == bundle.weights_sha256


@pytest.mark.parametrize("name", ["band_std", "image_rms", "finest.child.stem.gain"])
def test_a_tree_without_one_of_its_tensors_is_not_written(tmp_path: Path, contents, name: str):
    weights = {key: values for key, values in contents.network.items() if key != name}
    broken = BundleContents(weights, contents.config, contents.lineage, contents.model_card)
    with pytest.raises(ValueError, match=rf"names differ; {name} is missing"):
        write_bundle(tmp_path / "broken", broken)
    assert list(tmp_path.iterdir()) == []


def test_scales_that_no_data_has_are_refused(tmp_path: Path, contents):
    scales = {"band_std": -contents.network["band_std"]}
    broken = BundleContents(
        {**contents.network, **scales}, contents.config, contents.lineage, contents.model_card
    )
    write_bundle(tmp_path / "broken", broken)
    with pytest.raises(BundleError, match="holds scales of no data"):
        load_bundle(tmp_path / "broken")
