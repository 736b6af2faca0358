"""Attention to tokens: silent at first, then a softmax over all tokens, image by image."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivero.models.token_attention import (
    MAX_PLAIN_POSITIONS,
    TokenAttention,
    as_tokens,
    attention_kernel,
)

CHANNELS, TOKEN_CHANNELS, HEADS, EMBEDDING = 8, 6, 2, 4


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def opened(gate_bias: float = 0.7) -> TokenAttention:
    """A layer whose gate has opened."""
    layer = TokenAttention(CHANNELS, TOKEN_CHANNELS, HEADS, EMBEDDING)
    with torch.no_grad():
        layer.gate.bias.fill_(gate_bias)
        layer.gate.weight.copy_(0.3 * normal(1, EMBEDDING, seed=9))
    return layer


def inputs(num_images: int = 2, num_tokens: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    return (
        normal(num_images, CHANNELS, 3, 4),
        normal(num_images, EMBEDDING, seed=1),
        normal(num_images, num_tokens, TOKEN_CHANNELS, seed=2),
    )


def test_a_new_layer_is_the_identity():
    features, embedding, tokens = inputs()
    layer = TokenAttention(CHANNELS, TOKEN_CHANNELS, HEADS, EMBEDDING)
    assert torch.equal(layer(features, embedding, tokens), features)


def test_a_new_layer_learns_to_open_its_gate():
    features, embedding, tokens = inputs()
    layer = TokenAttention(CHANNELS, TOKEN_CHANNELS, HEADS, EMBEDDING)
    layer(features, embedding, tokens).square().mean().backward()
    assert bool(layer.gate.weight.grad.any())
    assert bool(layer.gate.bias.grad.any())


def test_every_weight_of_an_open_layer_learns():
    layer = opened()
    layer(*inputs()).square().mean().backward()
    grads = {name: weights.grad for name, weights in layer.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not bool(grad.any())] == []


def test_follows_its_formula():
    features, embedding, tokens = inputs()
    layer = opened()
    got = layer(features, embedding, tokens)

    unit = features / features.square().mean(dim=1, keepdim=True).sqrt()
    query = torch.einsum("oc,bchw->bhwo", layer.query.standardised_weight()[:, :, 0, 0], unit)
    unit_tokens = tokens / tokens.square().mean(dim=2, keepdim=True).sqrt()
    key, value = layer.key_value(unit_tokens).chunk(2, dim=2)
    width, seen = CHANNELS // HEADS, []
    for head in range(HEADS):
        own = slice(head * width, (head + 1) * width)
        scores = torch.einsum("bhwc,btc->bhwt", query[..., own], key[..., own]) / math.sqrt(width)
        seen.append(torch.einsum("bhwt,btc->bhwc", scores.softmax(dim=3), value[..., own]))
    weight = layer.out.standardised_weight()[:, :, 0, 0]
    change = torch.einsum("oc,bhwc->bohw", weight, torch.cat(seen, dim=3))
    gate = torch.tanh(layer.gate(embedding))[:, :, None, None]
    torch.testing.assert_close(got, features + gate * change, rtol=1e-4, atol=1e-5)


def test_the_order_of_tokens_does_not_matter_but_each_of_them_does():
    features, embedding, tokens = inputs()
    layer = opened()
    start = layer(features, embedding, tokens)
    torch.testing.assert_close(layer(features, embedding, tokens.flip(1)), start)
    for token in range(tokens.shape[1]):
        other = tokens.clone()
        other[:, token] = -other[:, token]
        assert not torch.allclose(layer(features, embedding, other), start, atol=1e-3)


def test_tokens_of_any_size_are_heard_alike():
    features, embedding, tokens = inputs()
    layer = opened()
    loud = layer(features, embedding, 100 * tokens)
    torch.testing.assert_close(loud, layer(features, embedding, tokens), rtol=1e-4, atol=1e-5)


def test_the_embedding_decides_how_much_is_let_in():
    features, embedding, tokens = inputs()
    layer = opened()
    change = layer(features, embedding, tokens) - features
    with torch.no_grad():
        layer.gate.bias.copy_(-layer.gate.bias)
        layer.gate.weight.copy_(-layer.gate.weight)
    torch.testing.assert_close(layer(features, embedding, tokens) - features, -change)
    assert not torch.allclose(layer(features, -embedding, tokens) - features, -change, atol=1e-3)


def test_images_do_not_mix():
    features, embedding, tokens = inputs(num_images=3)
    layer = opened()
    together = layer(features, embedding, tokens)
    alone = layer(features[1:2], embedding[1:2], tokens[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-6)


def test_pixels_become_tokens_row_by_row():
    features = torch.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4)
    tokens = as_tokens(features)
    assert tokens.shape == (2, 8, 3)
    assert torch.equal(tokens[1, 5], features[1, :, 1, 1])


@pytest.mark.parametrize("num_positions", [MAX_PLAIN_POSITIONS, MAX_PLAIN_POSITIONS + 1])
def test_either_kernel_gives_the_same(num_positions: int):
    query, key, value = (normal(1, HEADS, num_positions, 4, seed=seed) for seed in range(3))
    attention = torch.nn.functional.scaled_dot_product_attention
    with sdpa_kernel(SDPBackend.MATH):
        plain = attention(query, key, value)
    with attention_kernel(query):
        is_plain_only = not torch.backends.cuda.flash_sdp_enabled()
        torch.testing.assert_close(attention(query, key, value), plain, rtol=1e-4, atol=1e-5)
    assert is_plain_only == (num_positions <= MAX_PLAIN_POSITIONS)


@pytest.mark.parametrize(("num_channels", "num_heads"), [(8, 3), (6, 4)])
def test_refuses_heads_that_do_not_divide_the_channels(num_channels: int, num_heads: int):
    with pytest.raises(ValueError, match=f"multiple of the heads; got {num_channels}, {num_heads}"):
        TokenAttention(num_channels, TOKEN_CHANNELS, num_heads, EMBEDDING)
