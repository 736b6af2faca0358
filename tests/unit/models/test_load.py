"""Networks on disk: the same predictions after, and clear words about damaged files."""

import json
from pathlib import Path

import pytest
import torch

from vivero.errors import BundleError
from vivero.models.denoisers import build_denoiser
from vivero.models.load import CONFIG_NAME, NETWORK_DIR, WEIGHTS_NAME, NetworkConfig, load, save
from vivero.models.load import build_network as build


@pytest.fixture(params=["unet", "tree"])
def config(request: pytest.FixtureRequest, config_factory) -> NetworkConfig:
    model = config_factory({"train.model.name": request.param}).train.model
    return NetworkConfig(model=model, num_channels=1, num_classes=3, image_size_px=16)


@pytest.fixture
def saved_dir(tmp_path: Path, config: NetworkConfig) -> Path:
    save(tmp_path, _weights(config), config)
    return tmp_path


def _weights(config: NetworkConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    network = build(config)
    random = {
        name: 0.1 * torch.randn(weight.shape, generator=generator)
        for name, weight in network.named_parameters()
    }
    scales = {name: 0.5 * scale for name, scale in network.state_dict().items()}  # of a tree's data
    return {**scales, **random}


def test_the_loaded_network_predicts_what_the_saved_one_did(saved_dir, config, tiny_config):
    network = build(config)
    network.load_state_dict(_weights(config))
    loaded = load(saved_dir)

    inputs = torch.ones(2, 1, 16, 16), torch.tensor([0.1, 9.0]), torch.tensor([0, 3])
    ours, theirs = (
        build_denoiser(each, config.model, tiny_config.train.diffusion, 3)(*inputs)
        for each in (network.eval(), loaded.network)
    )
    assert torch.equal(ours, theirs)
    assert loaded.config == config
    assert not loaded.network.training
    assert not any(weights.requires_grad for weights in loaded.network.parameters())


def test_equal_weights_give_equal_bytes(saved_dir, tmp_path, config):
    weights = _weights(config)
    backwards = {name: weights[name] for name in reversed(weights)}
    save(tmp_path / "again", backwards, config)
    for name in (WEIGHTS_NAME, CONFIG_NAME):
        again = tmp_path / "again" / NETWORK_DIR / name
        assert again.read_bytes() == (saved_dir / NETWORK_DIR / name).read_bytes()


def test_weights_of_another_network_are_not_saved(tmp_path, config):
    weights = _weights(config)
    del weights["class_embedding.weight"]
    with pytest.raises(ValueError, match=r"1 names differ; class_embedding\.weight is missing"):
        save(tmp_path, weights, config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [WEIGHTS_NAME, CONFIG_NAME])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise"])
def test_a_damaged_file_is_named(saved_dir: Path, name: str, damage: str):
    path = saved_dir / NETWORK_DIR / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        left = {"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"\xff\x00" * 99}
        path.write_bytes(left[damage])
    with pytest.raises(BundleError, match=rf"cannot read .*{name}.*again"):
        load(saved_dir)


def test_weights_of_another_size_are_refused(saved_dir: Path):
    path = saved_dir / NETWORK_DIR / CONFIG_NAME
    values = json.loads(path.read_text())
    values["num_classes"] = 4
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"class_embedding\.weight should have shape \(5, 16\)"):
        load(saved_dir)


def test_a_pickle_in_place_of_the_weights_is_refused(saved_dir: Path):
    torch.save({"stem.bias": torch.zeros(3)}, saved_dir / NETWORK_DIR / WEIGHTS_NAME)
    with pytest.raises(BundleError, match="cannot read the weights"):
        load(saved_dir)
