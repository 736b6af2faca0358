"""What tells a network how much noise there is.

Letters: B images, E embedding channels.
"""

import math

import torch
from torch import Tensor, nn

NUM_FREQUENCIES = 32
LEAST_FREQUENCY, MOST_FREQUENCY = 0.25, 64.0  # radians per unit of the noise condition


class NoiseEmbedding(nn.Module):
    """The noise condition as waves of fixed frequencies, then two layers."""

    frequencies: Tensor

    def __init__(self, embedding_channels: int) -> None:
        super().__init__()
        ends = math.log(LEAST_FREQUENCY), math.log(MOST_FREQUENCY)
        frequencies = torch.exp(torch.linspace(*ends, NUM_FREQUENCIES))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * NUM_FREQUENCIES, embedding_channels),
            nn.SiLU(),
            nn.Linear(embedding_channels, embedding_channels),
        )

    def forward(self, noise_condition: Tensor) -> Tensor:
        """Noise condition (B,) to embedding (B, E)."""
        angle = noise_condition[:, None] * self.frequencies
        embedding: Tensor = self.layers(torch.cat([angle.cos(), angle.sin()], dim=1))
        return embedding
