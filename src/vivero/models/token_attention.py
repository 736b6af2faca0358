"""Attention of an image's features to tokens, let in by a gate that the noise decides.

Letters: B images, C channels, H rows, W columns, T tokens, K channels of a token, E embedding
channels.
"""

import contextlib

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivero.models.nf_resnet import PixelNorm, ScaledStdConv2d

MAX_PLAIN_POSITIONS = 256


def attention_kernel(query: Tensor) -> contextlib.AbstractContextManager[None]:
    """On a CPU and at few positions the plain products: its flash kernel is slower there.

    Forward and backward of 49 positions, 2 cores: 3.6 against 5.5 ms in fp32, 3.8 against 17 ms in
    bf16 (docs/experiments.md).

    Args:
        query: Shape (..., T, C).
    """
    if query.device.type == "cpu" and query.shape[-2] <= MAX_PLAIN_POSITIONS:
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def as_tokens(features: Tensor) -> Tensor:
    """Features (B, C, H, W) as one token of each pixel, (B, H * W, C)."""
    return features.flatten(2).transpose(1, 2)


class TokenAttention(nn.Module):
    """Every pixel looks at tokens: those of another branch, of a text, or of its own features.

    y = x + tanh(gate(embedding)) * out(attention(query(x), key(tokens), value(tokens)))

    The gate starts at zero, so a new layer is the identity. What goes in is brought to unit root
    mean square, pixel by pixel and token by token.

    Args:
        num_channels: C of the features.
        token_channels: K of the tokens.
        num_heads: A divisor of num_channels.
        embedding_channels: E of the embedding that opens the gate.

    Raises:
        ValueError: If the heads do not divide the channels.
    """

    def __init__(
        self, num_channels: int, token_channels: int, num_heads: int, embedding_channels: int
    ) -> None:
        super().__init__()
        if num_channels % num_heads:
            raise ValueError(
                f"the channels must be a multiple of the heads; got {num_channels}, {num_heads}"
            )
        self.num_heads = num_heads
        self.norm = PixelNorm()
        self.query = ScaledStdConv2d(num_channels, num_channels, 1)
        self.key_value = nn.Linear(token_channels, 2 * num_channels)
        self.out = ScaledStdConv2d(num_channels, num_channels, 1)
        self.gate = nn.Linear(embedding_channels, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, features: Tensor, embedding: Tensor, tokens: Tensor) -> Tensor:
        """Features (B, C, H, W), embedding (B, E) and tokens (B, T, K) to features."""
        tokens = F.rms_norm(tokens, tokens.shape[-1:])
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        query = as_tokens(self.query(self.norm(features)))
        with attention_kernel(query):
            query, key, value = (self._heads(each) for each in (query, key, value))
            seen = F.scaled_dot_product_attention(query, key, value)
        seen = seen.transpose(1, 2).flatten(2).transpose(1, 2).reshape(features.shape)
        gate = torch.tanh(self.gate(embedding))[:, :, None, None]
        return torch.addcmul(features, gate, self.out(seen))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)
