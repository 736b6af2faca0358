"""Tree-Diffusion's network: a branch for every level of the Haar tree, each within the finer one.

A branch looks at one level image, split into its coarse half and its details, and has the branch of
that coarse half as its child. An image enters at the level that its noise leaves worth looking at;
finer branches are not touched. Images that enter at different levels go through in one pass: they
are ordered by level, the finest first, so a branch works on the first rows and appends those that
enter with it.

Letters: B images of the pass, n of one branch, C channels of the images, H rows and W columns of a
branch (half of its level image's), E embedding channels, T tokens. What its output means is the
business of `vivero.diffusion.tree_denoiser`.

Source:
    Jing et al. 2022, arXiv:2205.01490 (diffusion in subspaces); Gu et al. 2023, arXiv:2310.15111
    (nested U-Nets); docs/tree-diffusion.md for the whole derivation.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivero.config.schema import ModelConfig, TreeConfig
from vivero.diffusion.haar import haar_pyramid, haar_split
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.schedules import KarrasSchedule
from vivero.diffusion.tree_denoiser import BranchOutput
from vivero.models.embeddings import NoiseEmbedding
from vivero.models.nf_resnet import (
    ACTIVATIONS,
    SILENT_GAIN_STEP,
    BlurPool,
    ExpectedVariance,
    NFBlock,
    ScaledStdConv2d,
)
from vivero.models.token_attention import TokenAttention, as_tokens

RESIDUAL_SCALE = 1.0  # nets as shallow as these learn slower with the 0.2 of the NF paper
# Of what is handed down from a blur, so that it keeps its variance; more than nf_resnet.BLUR_GAIN:
# three of the four bands that a branch sees are details, nearly white, of which a blur leaves 0.10.
# Measured on the bands of 1/f images at unit mean square, 1 and 3 colours, new branches at full
# gain, 2 and 3 levels. Actual over expected variance around their blocks: 0.82 to 1.16 at 64 px,
# 0.33 to 0.95 without this. At 32 px 0.68 to 0.90 for 2 levels (without: 0.35; strided: 0.65) and
# 0.52 to 0.95 for 3 (without: 0.21; strided: 0.38): zero padding, which leaves about
# (1 - 2 / (3 * side))^2 of it behind every 3 x 3 convolution, is not counted.
HAAR_BLUR_GAIN = 2.3
SQRT_HALF = math.sqrt(0.5)
_, ACTIVATION_GAIN = ACTIVATIONS["silu"]
NUM_COORDINATES = 2
LEAST_STD = 1e-3  # of a band; one without any detail would have no scale
# Of photographs in [-1, 1] (each band has 2.3 times the deviation of the finer one), until `fit`.
USUAL_FINEST_STD, USUAL_RATIO, USUAL_RMS = 0.15, 2.3, 0.5


@dataclass(frozen=True)
class Window:
    """The part of the finest branch that is computed, in cells of its child.

    Attributes:
        top: First row.
        left: First column.
        side: Rows and columns.
    """

    top: int
    left: int
    side: int

    def of(self, images: Tensor, scale: int) -> Tensor:
        """The window cut from images (..., H, W) that have scale cells for each of the child's."""
        rows, columns = (
            slice(start * scale, (start + self.side) * scale) for start in (self.top, self.left)
        )
        return images[..., rows, columns]


@dataclass(frozen=True)
class Conditioning:
    """What the images of a pass are conditioned on beside their noise.

    Attributes:
        labels: Class, shape (B,), int64, the number of classes for none; or any embedding, shape
            (B, embedding_channels), of the caller's own.
        tokens: Such as an encoded text, shape (B, T, token_channels), for networks built with
            token_channels; the root looks at them.
        known: What is to be kept of the images, for networks built with has_mask: a mask of ones
            there and zeros elsewhere, and the images behind it, shape (B, 1 + C, H, W).
    """

    labels: Tensor
    tokens: Tensor | None = None
    known: Tensor | None = None

    def __getitem__(self, rows: Tensor | slice) -> "Conditioning":
        """The conditioning of some of the images."""
        tokens = None if self.tokens is None else self.tokens[rows]
        known = None if self.known is None else self.known[rows]
        return Conditioning(self.labels[rows], tokens, known)


class TreeDiffusionBlock(nn.Module):
    """A branch of the tree: a level image down and up, around the branch of the coarser level.

    Args:
        config: The block train.model of params.yaml.
        level: Of the image this branch looks at; 0 is the finest.
        num_channels: C of the images.
        extra_channels: Channels that come with the split image, such as a mask's.
        token_channels: Channels of the tokens that the root looks at; 0 for none.
    """

    def __init__(
        self,
        config: ModelConfig,
        level: int,
        num_channels: int,
        extra_channels: int = 0,
        token_channels: int = 0,
    ) -> None:
        super().__init__()
        self.level, self.is_root = level, level == len(config.channels) - 1
        width, tree = config.channels[level], tree_config(config)
        num_coordinates = NUM_COORDINATES if tree.fine_crop_share < 1 else 0
        num_in = 4 * num_channels + extra_channels + num_coordinates
        self.stem = ScaledStdConv2d(num_in, width, 3)
        self.encoder, self.encoded_std = nf_blocks(config, width, config.blocks_per_level)
        if self.is_root:
            self.child, decoder_std = None, self.encoded_std
            heads, embedding = config.attention_heads, config.embedding_channels
            self.attention = TokenAttention(width, width, heads, embedding) if heads else None
            self.reader = (
                TokenAttention(width, token_channels, max(heads, 1), embedding)
                if token_channels
                else None
            )
        else:
            self.child = TreeDiffusionBlock(
                config, level + 1, num_channels, extra_channels, token_channels
            )
            decoder_std = self._join_child(config, self.child)
        num_decoder = 1 if self.is_root else config.blocks_per_level
        self.decoder, self.output_std = nf_blocks(config, width, num_decoder, decoder_std)
        self.head = ScaledStdConv2d(
            width,
            self._num_out(num_channels),
            3,
            gain=0.0,
            input_scale=SILENT_GAIN_STEP * ACTIVATION_GAIN / self.output_std,
        )
        self.log_residual = nn.Parameter(torch.zeros(3 * num_channels)) if level else None

    def _join_child(self, config: ModelConfig, child: "TreeDiffusionBlock") -> float:
        """The ways to the coarser branch and back; the deviation of what comes back."""
        width, tree = config.channels[self.level], tree_config(config)
        coarse_width, is_blurred = config.channels[self.level + 1], tree.downsampling == "blur"
        self.blur = BlurPool(4) if is_blurred else nn.Identity()
        self.down = ScaledStdConv2d(
            width,
            coarse_width,
            1 if is_blurred else 3,
            1 if is_blurred else 2,
            input_scale=(HAAR_BLUR_GAIN if is_blurred else 1.0) / self.encoded_std,
        )
        self.up = ScaledStdConv2d(coarse_width, width, 1, input_scale=1 / child.output_std)
        heads, embedding = config.attention_heads, config.embedding_channels
        has_context = tree.has_cross_attention and heads
        self.context = (
            TokenAttention(width, config.channels[-1], heads, embedding) if has_context else None
        )
        return 1.0

    def _num_out(self, num_channels: int) -> int:
        """Bands of the own image; the fusion's logit; bands of the details of the finer level."""
        fusion, foreseen = int(not self.is_root), 12 * num_channels * (self.level > 0)
        return 4 * num_channels + fusion + foreseen

    def forward(
        self,
        images: Sequence[Tensor | None],
        embedding: Tensor,
        tokens: Tensor | None = None,
        parent: Tensor | None = None,
        window: Window | None = None,
        *,
        saves_memory: bool = False,
    ) -> tuple[Tensor, Tensor, list[BranchOutput]]:
        """Down, through the coarser branches, and up.

        Args:
            images: Of this level and the coarser ones, already split: (n, 4C, H, W), n rising.
            embedding: Of all images, shape (B, E), the finest first.
            tokens: Of all images, for the root; shape (B, T, token_channels).
            parent: What the finer branch hands down for the first rows; None at the entry.
            window: What part the finer branch covers, or, at level 0, this one.
            saves_memory: Whether blocks forget their activations and compute them again.

        Returns:
            Features (n, width, H, W), the root's tokens (B, T', width), and the output of each
            level from this one on.
        """
        own_image = images[0]
        if own_image is None:
            raise ValueError(f"no image of the pass enters at level {self.level} or above it")
        own = embedding[: len(own_image)]
        features = self._joined(self.stem(own_image), parent, window)
        features = through(self.encoder, features, own, saves_memory=saves_memory)
        outputs: list[BranchOutput] = []
        if self.child is None:
            features, root_tokens = self._look_around(features, own, tokens)
        else:
            handed = self.down(self.blur(features))
            own_window = window if self.level == 0 else None
            coarse, root_tokens, outputs = self.child(
                images[1:], embedding, tokens, handed, own_window, saves_memory=saves_memory
            )
            coarse = coarse[: len(features)]
            if own_window is not None:
                coarse = own_window.of(coarse, 1)
            coarse = F.interpolate(self.up(coarse), scale_factor=2, mode="nearest")
            features = features * (SQRT_HALF / self.encoded_std) + coarse * SQRT_HALF
            if self.context is not None:
                features = self.context(features, own, root_tokens[: len(features)])
        features = through(self.decoder, features, own, saves_memory=saves_memory)
        # a copy: DistributedDataParallel takes a bare weight in the output for one without gradient
        log_residual = None if self.log_residual is None else self.log_residual.clone()
        output = BranchOutput(self.head(F.silu(features)), log_residual)
        return features, root_tokens, [output, *outputs]

    def _joined(self, features: Tensor, parent: Tensor | None, window: Window | None) -> Tensor:
        """The stem's features, with what the finer branch hands down where it does."""
        if parent is None:
            return features
        if window is None and len(parent) == len(features):
            return (features + parent) * SQRT_HALF
        joined = features.clone()
        first, part = joined[: len(parent)], features[: len(parent)]
        if window is not None:
            first, part = window.of(first, 1), window.of(part, 1)
        first.copy_((part + parent) * SQRT_HALF)
        return joined

    def _look_around(
        self, features: Tensor, embedding: Tensor, tokens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The root's attention, to itself and to the tokens it is conditioned on."""
        if self.attention is not None:
            features = self.attention(features, embedding, as_tokens(features))
        if self.reader is not None:
            if tokens is None:
                raise ValueError("this network was built with token_channels; it needs tokens")
            features = self.reader(features, embedding, tokens)
        return features, as_tokens(features)


class TreeNetwork(nn.Module):
    """The network of `train.model.name: tree`.

    Args:
        config: The block train.model of params.yaml; one branch for each entry of channels.
        num_channels: Channels of the images; 1 or 3.
        num_classes: Number of classes; 0 for images without labels. Label num_classes is "none".
        image_size_px: Side of the square images; a multiple of config.size_divisor_px.
        has_mask: Whether a mask and the masked image come with each image.
        token_channels: Channels of tokens that the root looks at, such as a text's; 0 for none.

    Attributes:
        band_std: Standard deviation of each level's details over the data, shape (L,), which `fit`
            measures; kept with the weights.
        image_rms: Root mean square of the images, a scalar, likewise.

    Raises:
        ValueError: If image_size_px does not fit.
    """

    band_std: Tensor
    image_rms: Tensor
    saves_memory = False  # recompute the blocks' activations in the backward pass

    def __init__(
        self,
        config: ModelConfig,
        num_channels: int,
        num_classes: int,
        image_size_px: int,
        token_channels: int = 0,
        *,
        has_mask: bool = False,
    ) -> None:
        super().__init__()
        if image_size_px < 1 or image_size_px % config.size_divisor_px:
            raise ValueError(
                f"image_size_px must be a multiple of {config.size_divisor_px} (2 per level of "
                f"channels); got {image_size_px}"
            )
        self.num_channels, self.num_levels = num_channels, len(config.channels)
        self.has_mask, self.token_channels = has_mask, token_channels
        self.has_coordinates = tree_config(config).fine_crop_share < 1
        self.noise_embedding = NoiseEmbedding(config.embedding_channels)
        self.class_embedding = nn.Embedding(num_classes + 1, config.embedding_channels)
        self.level_embedding = nn.Embedding(self.num_levels, config.embedding_channels)
        nn.init.zeros_(self.level_embedding.weight)
        extra_channels = 4 * (1 + num_channels) if has_mask else 0
        self.finest = TreeDiffusionBlock(config, 0, num_channels, extra_channels, token_channels)
        usual = [USUAL_FINEST_STD * USUAL_RATIO**level for level in range(self.num_levels)]
        self.register_buffer("band_std", torch.tensor(usual))
        self.register_buffer("image_rms", torch.tensor(USUAL_RMS))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Measure the bands of the data, in one pass; the thresholds and scales follow from them.

        Args:
            images: Shape (N, C, H, W), uint8 in 0..255 or floating point in [-1, 1].
        """
        scheduler = NoiseScheduler(KarrasSchedule(0.01, 80.0, 0.0, 1.0), (), None)
        bands = scheduler.fit(images, self.num_levels + 1).band_std
        self.band_std.copy_(torch.tensor(bands).clamp(min=LEAST_STD))
        pixels = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
        self.image_rms.copy_(pixels.square().mean().sqrt())

    def branches(self) -> list[TreeDiffusionBlock]:
        """The branches, the finest first."""
        found = [self.finest]
        while (child := found[-1].child) is not None:
            found.append(child)
        return found

    def forward(
        self,
        images: Sequence[Tensor | None],
        noise_condition: Tensor,
        conditioning: Tensor | Conditioning,
        levels: Tensor,
        window: Window | None = None,
    ) -> list[BranchOutput]:
        """The branches' raw predictions.

        Args:
            images: For each level, the split images that are looked at there, at about unit
                variance, shape (n, 4C + extra channels, H, W), the finest first; those of a coarser
                level begin with those of the finer. None where none enters that fine.
            noise_condition: ln(sigma) / 4 of all images, shape (B,).
            conditioning: Labels (B,), int64, or more.
            levels: At which level each image enters, shape (B,), int64, never falling.
            window: The part of the finest branch to compute; None for all of it.

        Returns:
            Of each level from the first that images enter at.

        Raises:
            ValueError: If the conditioning is not of these images or not what the network takes.
        """
        if not isinstance(conditioning, Conditioning):
            conditioning = Conditioning(conditioning)
        self._check(conditioning, images[-1])
        embedding = self._embedding(noise_condition, conditioning.labels, levels)
        first = next(level for level, image in enumerate(images) if image is not None)
        inputs = [
            None if image is None else self._prepared(image, level, conditioning.known)
            for level, image in enumerate(images)
        ]
        finest = inputs[0]
        if window is not None and finest is not None:
            inputs[0] = window.of(finest, 2)
        branch = self.branches()[first]
        _, _, outputs = branch(
            inputs[first:],
            embedding,
            conditioning.tokens,
            window=window if first == 0 else None,
            saves_memory=self.saves_memory,
        )
        found: list[BranchOutput] = outputs
        return found

    def _check(self, given: Conditioning, root_images: Tensor | None) -> None:
        """Refuse what torch would spread over the batch, or would trip over further in."""
        if (given.known is not None) != self.has_mask:
            raise ValueError("a network takes a mask if and only if it was built with has_mask")
        if given.tokens is not None and not self.token_channels:
            raise ValueError("this network takes no tokens: it was built without token_channels")
        if root_images is None:
            raise ValueError("a pass needs at least one image")
        num_images, _, *root_size = root_images.shape
        of_labels = (num_images, self.class_embedding.embedding_dim)
        has_class = not given.labels.is_floating_point()
        _expect("labels", given.labels, of_labels[:1] if has_class else of_labels)
        _expect("tokens", given.tokens, (num_images, "T", self.token_channels))
        size = [side * 2**self.num_levels for side in root_size]
        _expect("known", given.known, (num_images, 1 + self.num_channels, *size))

    def _embedding(self, noise_condition: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
        of_labels = labels if labels.is_floating_point() else self.class_embedding(labels)
        return F.silu(
            self.noise_embedding(noise_condition) + of_labels + self.level_embedding(levels)
        )

    def _prepared(self, image: Tensor, level: int, known: Tensor | None) -> Tensor:
        """In the memory format of the convolutions, with what the image does not say itself.

        That is a mask and what lies behind it, split like the image, in units of the mean pixel;
        and row and column, where windows are cut.
        """
        if known is not None:
            of_level = haar_pyramid(known[: len(image)], level + 1)[level] / 2**level
            image = torch.cat([image, *haar_split(of_level)], dim=1)
        if self.has_coordinates:
            num_images, _, height, width = image.shape
            rows, columns = (torch.linspace(-1, 1, n, device=image.device) for n in (height, width))
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).to(image.dtype)
            image = torch.cat([image, grid.expand(num_images, -1, -1, -1)], dim=1)
        return image.contiguous(memory_format=torch.channels_last)


def _expect(name: str, given: Tensor | None, shape: Sequence[int | str]) -> None:
    """Refuse another shape; a letter stands for any number."""
    if given is None:
        return
    pairs = zip(given.shape, shape, strict=False)
    if given.ndim != len(shape) or any(isinstance(n, int) and got != n for got, n in pairs):
        wanted = f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
        raise ValueError(f"{name} should have shape {wanted}; got {tuple(given.shape)}")


def tree_config(config: ModelConfig) -> TreeConfig:
    """The block train.model.tree, which the schema promises for name: tree."""
    if config.tree is None:
        raise ValueError("name: tree needs the block train.model.tree")
    return config.tree


def nf_blocks(
    config: ModelConfig, width: int, count: int, input_std: float = 1.0
) -> tuple[nn.ModuleList, float]:
    """Blocks of a branch, one behind the other, and the deviation of what leaves them."""
    tree, variance = tree_config(config), ExpectedVariance(input_std**2)
    blocks = nn.ModuleList()
    for _ in range(count):
        blocks.append(
            NFBlock(
                width,
                config.embedding_channels,
                variance.std,
                residual_scale=RESIDUAL_SCALE,
                normalisation=tree.normalisation,
                channel_attention=tree.channel_attention,
            )
        )
        variance = variance.after_block(RESIDUAL_SCALE)
    return blocks, variance.std


def through(
    blocks: nn.ModuleList, features: Tensor, embedding: Tensor, *, saves_memory: bool
) -> Tensor:
    """Features through blocks, one after the other."""
    for block in blocks:
        if saves_memory and torch.is_grad_enabled():
            features = checkpoint(block, features, embedding, use_reentrant=False)
        else:
            features = block(features, embedding)
    return features
