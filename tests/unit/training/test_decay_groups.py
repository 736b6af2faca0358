"""Weight decay: of matrices and kernels, apart from their gradient; never of gains and biases."""

import pytest
import torch
from torch import nn

from tests.unit.training.tiny_run import tiny_train_config
from vivero.models.build import build_model
from vivero.models.nf_resnet import ScaledStdConv2d
from vivero.training.state import decay_groups, new_train_state

RATE, DECAY = 0.05, 0.2


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    has_context = {"has_cross_attention": True}
    config = tiny_train_config(network=name, tree=has_context)
    return build_model(config.model, 1, 2, 16)


def names_by_decay(network: nn.Module) -> dict[float, set[str]]:
    names = {weights: name for name, weights in network.named_parameters()}
    groups = decay_groups(network, DECAY)
    return {group["weight_decay"]: {names[w] for w in group["params"]} for group in groups}


@pytest.mark.parametrize("name", ["unet", "tree"])
def test_every_weight_is_in_one_group(name: str):
    network = network_of(name)
    weights = [w for group in decay_groups(network, DECAY) for w in group["params"]]
    assert len(weights) == len(set(weights)) == len(list(network.parameters()))


@pytest.mark.parametrize("name", ["unet", "tree"])
def test_gains_and_biases_do_not_decay(name: str):
    network = network_of(name)
    kept = names_by_decay(network)[0.0]
    expected = set()
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            expected.add(f"{path}.bias")
        if isinstance(layer, ScaledStdConv2d):
            expected.add(f"{path}.gain")
        if isinstance(layer, nn.GroupNorm):
            expected |= {f"{path}.weight", f"{path}.bias"}
    others = {n for n, w in network.named_parameters() if n.endswith("log_residual")}
    assert kept == expected | others
    assert len(expected) > 10
    assert bool(others) == (name == "tree")


@pytest.mark.parametrize("name", ["unet", "tree"])
def test_kernels_matrices_and_embeddings_decay(name: str):
    network = network_of(name)
    layers = [
        f"{path}.weight"
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding)
    ]
    assert names_by_decay(network)[DECAY] == set(layers)


def test_a_weight_of_no_dimension_does_not_decay():
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(2.0))
    assert [group["weight_decay"] for group in decay_groups(module, DECAY)] == [0.0]


def test_where_there_is_no_gradient_weights_shrink_by_rate_times_decay_and_gains_stay():
    network = network_of("tree")
    config = tiny_train_config(network="tree", learning_rate=RATE, weight_decay=DECAY)
    state = new_train_state(network, config, torch.device("cpu"))
    before = {name: weights.detach().clone() for name, weights in network.named_parameters()}
    decayed = names_by_decay(network)[DECAY]
    for _ in range(2):
        for weights in network.parameters():
            weights.grad = torch.zeros_like(weights)
        state.optimizer.step()
    for name, weights in network.named_parameters():
        share = (1 - RATE * DECAY) ** 2 if name in decayed else 1.0
        torch.testing.assert_close(weights.detach(), share * before[name], rtol=1e-6, atol=0)


def test_the_decay_does_not_enter_the_moments():
    """Decoupled: a weight's size does not change how far its gradient moves it."""
    moved = []
    for scale in (1.0, 100.0):
        layer = nn.Linear(3, 2, bias=False)
        nn.init.constant_(layer.weight, scale)
        config = tiny_train_config(learning_rate=RATE, weight_decay=DECAY)
        state = new_train_state(layer, config, torch.device("cpu"))
        layer.weight.grad = torch.full_like(layer.weight, 0.3)
        state.optimizer.step()
        moved.append(scale * (1 - RATE * DECAY) - layer.weight.detach()[0, 0].item())
    assert moved == pytest.approx([RATE, RATE], rel=1e-3)


def test_without_decay_nothing_shrinks():
    groups = decay_groups(network_of("tree"), 0.0)
    assert {group["weight_decay"] for group in groups} == {0.0}
