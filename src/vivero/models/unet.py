"""The class-conditional U-Net: patches in, residual blocks down and up, attention at the bottom.

Letters: B images, C channels, H rows, W columns, E embedding channels. Knows nothing of noise
schedules: what its output means is the business of `vivero.diffusion.preconditioning`.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivero.config.schema import ModelConfig
from vivero.diffusion.haar import haar_rotation, pack_patches, unpack_patches
from vivero.models.embeddings import NoiseEmbedding
from vivero.models.token_attention import attention_kernel

GROUP_CHANNELS = 16  # of each normalisation; narrower groups miss the fast bf16 kernel of a CPU


def _conv(num_in: int, num_out: int, kernel_px: int, *, is_zero: bool = False) -> nn.Conv2d:
    conv = nn.Conv2d(num_in, num_out, kernel_px, padding=kernel_px // 2)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    if is_zero:
        nn.init.zeros_(conv.weight)
    return conv


def _norm(num_channels: int) -> nn.GroupNorm:
    size = GROUP_CHANNELS if num_channels % GROUP_CHANNELS == 0 else GROUP_CHANNELS // 2
    return nn.GroupNorm(num_channels // size, num_channels)


class Block(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the condition.

    The last convolution and the scales start at zero: a new block is the identity.
    """

    def __init__(self, num_channels: int, embedding_channels: int) -> None:
        super().__init__()
        self.norm_in = _norm(num_channels)
        self.conv_in = _conv(num_channels, num_channels, 3)
        self.norm_out = _norm(num_channels)
        self.conv_out = _conv(num_channels, num_channels, 3, is_zero=True)
        self.scale_and_shift = nn.Linear(embedding_channels, 2 * num_channels)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Features (B, C, H, W) and embedding (B, E) to features of the same shape."""
        scale, shift = self.scale_and_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv_in(F.silu(self.norm_in(features)))
        hidden = torch.addcmul(shift, self.norm_out(hidden), 1 + scale)
        change: Tensor = self.conv_out(F.silu(hidden))
        return features + change


class Attention(nn.Module):
    """Every position looks at every other; starts as the identity."""

    def __init__(self, num_channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = _norm(num_channels)
        self.query_key_value = nn.Conv2d(num_channels, 3 * num_channels, 1)
        self.out = _conv(num_channels, num_channels, 1, is_zero=True)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to features of the same shape."""
        num_images, num_channels = features.shape[:2]
        shape = (num_images, 3, self.num_heads, num_channels // self.num_heads, -1)
        parts = self.query_key_value(self.norm(features)).reshape(shape)
        query, key, value = parts.transpose(-1, -2).unbind(dim=1)
        with attention_kernel(query):
            seen = F.scaled_dot_product_attention(query, key, value)
        change: Tensor = self.out(seen.transpose(-1, -2).reshape(features.shape))
        return features + change


class UNet(nn.Module):
    """The network of `train.model.name: unet`.

    Args:
        config: The block train.model of params.yaml.
        num_channels: Channels of the images; 1 or 3.
        num_classes: Number of classes; 0 for images without labels. Label num_classes is "none".
        image_size_px: Side of the square images; a multiple of config.size_divisor_px.

    Raises:
        ValueError: If image_size_px does not fit.
    """

    rotation: Tensor
    saves_memory = False  # recompute the blocks' activations in the backward pass

    def __init__(
        self, config: ModelConfig, num_channels: int, num_classes: int, image_size_px: int
    ) -> None:
        super().__init__()
        if image_size_px < 1 or image_size_px % config.size_divisor_px:
            raise ValueError(
                f"image_size_px must be a multiple of {config.size_divisor_px} (patch_px x 2 per "
                f"further level of channels); got {image_size_px}"
            )
        self.patch_px = config.patch_px
        self.image_shape = (num_channels, image_size_px, image_size_px)
        self.register_buffer("rotation", haar_rotation(), persistent=False)
        widths, embedding = config.channels, config.embedding_channels
        num_packed = num_channels * config.patch_px**2

        def blocks(width: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, embedding) for _ in range(config.blocks_per_level))

        self.noise_embedding = NoiseEmbedding(embedding)
        self.class_embedding = nn.Embedding(num_classes + 1, embedding)
        self.stem = _conv(num_packed, widths[0], 3)
        self.encoder = nn.ModuleList(blocks(width) for width in widths)
        steps = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in steps)
        self.attention = (
            Attention(widths[-1], config.attention_heads)
            if config.attention_heads
            else nn.Identity()
        )
        self.middle = Block(widths[-1], embedding)
        self.decoder = nn.ModuleList(blocks(width) for width in widths[:-1])
        self.norm_out = _norm(widths[0])
        self.out = _conv(widths[0], num_packed, 3, is_zero=True)

    def forward(self, scaled_input: Tensor, noise_condition: Tensor, labels: Tensor) -> Tensor:
        """The network's raw prediction.

        Args:
            scaled_input: Noisy images at about unit variance, shape (B, C, H, W).
            noise_condition: ln(sigma) / 4, shape (B,).
            labels: Class of each image, shape (B,), int64; num_classes where none is given.

        Returns:
            Prediction, shape (B, C, H, W).

        Raises:
            ValueError: If the images have another shape than the network was built for.
        """
        if tuple(scaled_input.shape[1:]) != self.image_shape:
            raise ValueError(
                f"this network takes images of shape (C, H, W) = {self.image_shape}; "
                f"got {tuple(scaled_input.shape[1:])}"
            )
        embedding = F.silu(self.noise_embedding(noise_condition) + self.class_embedding(labels))
        packed = pack_patches(scaled_input, self.patch_px, self.rotation)
        features = self.stem(packed.contiguous(memory_format=torch.channels_last))
        features = self._down_and_up(features, embedding)
        return unpack_patches(
            self.out(F.silu(self.norm_out(features))), self.patch_px, self.rotation
        )

    def _down_and_up(self, features: Tensor, embedding: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            features = self._through(blocks, features, embedding)
            if level < len(self.down):
                kept.append(features)
                features = self.down[level](features)
        features = self.middle(self.attention(features), embedding)
        for level in reversed(range(len(self.down))):
            features = F.interpolate(self.up[level](features), scale_factor=2, mode="nearest")
            features = self._through(self.decoder[level], features + kept[level], embedding)
        return features

    def _through(self, blocks: nn.Module, features: Tensor, embedding: Tensor) -> Tensor:
        for block in blocks.children():
            if self.saves_memory and torch.is_grad_enabled():
                features = checkpoint(block, features, embedding, use_reentrant=False)
            else:
                features = block(features, embedding)
        return features
