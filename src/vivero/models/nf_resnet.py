"""Normaliser-free residual networks: standardised weights, scaled activations, known variances.

Letters: B images, C channels, H rows, W columns, E embedding channels, N fan-in of one output unit.
A network of these parts keeps the variance of its features known from the arithmetic alone, so it
needs no normalisation layer. Knows nothing of noise schedules.

Source:
    Brock, De and Smith 2021, arXiv:2101.08692; Zhang 2019, arXiv:1904.11486 (anti-aliasing).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

Activation = Literal["silu", "relu", "gelu"]
Normalisation = Literal["none", "pixel", "group"]
ChannelAttention = Literal["none", "squeeze_excite", "cbam"]
Downsampling = Literal["none", "blur", "strided"]

# gain such that gain * function(z) has unit variance for a standard normal z (Brock 2021)
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "silu": (F.silu, 1.7881293296813965),
    "relu": (F.relu, 1.7139588594436646),
    "gelu": (F.gelu, 1.7015043497085571),
}
LEAST_FAN_IN = 3  # one input standardises to zero and two to plus and minus one, whatever they are
EPSILON = 1e-6  # of the sum of squares of one unit's weights, which starts at 1
GROUP_CHANNELS = 16  # as in the U-Net: narrower groups miss the fast bf16 kernel of a CPU
# A silent convolution wakes through its gain alone, a step of the learning rate at a time, where
# each weight of a plain one takes such a step. A net of 6 blocks that denoises shapes, AdamW 1e-3,
# loss of steps 150 to 200: 0.046 and 0.036 (two seeds) at 1, 0.028 and 0.023 at 10, 0.033 (first
# seed) with plain convolutions.
SILENT_GAIN_STEP = 10.0
GATE_REDUCTION, LEAST_GATE_CHANNELS = 4, 8
SPATIAL_GATE_PX = 7
STEM_PX = 3
BLUR_TAPS = {3: (1.0, 2.0, 1.0), 4: (1.0, 3.0, 3.0, 1.0)}
# What the convolutions behind a blur of activated features multiply, so that images with a 1/f
# spectrum keep their variance: a blur left 0.6 to 0.75 of it; 1 / 1.2^2 = 0.69. See BlurPool.
BLUR_GAIN = 1.2


def activation(features: Tensor, name: Activation = "silu") -> Tensor:
    """The activation, scaled so that standard normal features keep unit variance."""
    function, gain = ACTIVATIONS[name]
    return function(features) * gain


class ScaledStdConv2d(nn.Conv2d):
    """Convolution whose weights are standardised over the inputs of each output unit.

    weight = input_scale * gain * (raw - mean(raw)) / sqrt(N * var(raw) + EPSILON)

    So each output of a new layer has the variance of its (unit variance, independent) inputs,
    times (input_scale * gain)^2. The raw weights start with standard deviation 1 / sqrt(N), not 1:
    the function does not change with their scale, but an Adam step does not grow with it, so at
    standard deviation 1 the same learning rate turns them sqrt(N) times more slowly than a plain
    convolution's (docs/experiments.md: a run with standardised weights fell behind).

    Args:
        num_in: Input channels.
        num_out: Output channels O.
        kernel_px: Side of the kernel; odd. The image is padded by kernel_px // 2 zeros.
        stride: Step of the kernel.
        gain: Start of the learned gain of each output unit; 0 makes a silent layer.
        has_bias: Whether to add a bias, which starts at zero.
        input_scale: Constant that the input would be multiplied by; on the weights it costs less.

    Raises:
        ValueError: If the fan-in, num_in * kernel_px^2, is below LEAST_FAN_IN.
    """

    def __init__(  # noqa: PLR0913 - a convolution has that many numbers
        self,
        num_in: int,
        num_out: int,
        kernel_px: int,
        stride: int = 1,
        gain: float = 1.0,
        has_bias: bool = True,
        input_scale: float = 1.0,
    ) -> None:
        self.fan_in = num_in * kernel_px**2
        if self.fan_in < LEAST_FAN_IN:
            raise ValueError(
                f"standardised weights need a fan-in of at least {LEAST_FAN_IN}; got {num_in} "
                f"channels x {kernel_px}^2; use nn.Conv2d"
            )
        self.input_scale = input_scale
        super().__init__(
            num_in, num_out, kernel_px, stride=stride, padding=kernel_px // 2, bias=has_bias
        )
        self.gain = nn.Parameter(gain * torch.ones(num_out, 1, 1, 1))

    def reset_parameters(self) -> None:
        """Draw new raw weights; zero the bias."""
        nn.init.normal_(self.weight, std=self.fan_in**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def standardised_weight(self) -> Tensor:
        """The weights in use, shape (O, C, k, k), in the memory format of the raw ones.

        A layer normalisation is the quickest way: forward and backward of 20 layers of 64 to 128
        channels take 4 ms on one core, 5 ms by batch normalisation of the reshaped weights, 16 ms
        by mean and variance; the convolutions themselves take 257 ms (batch 64, 16 to 4 pixels).
        """
        gain = self.gain * (self.input_scale * self.fan_in**-0.5)
        is_channels_last = self.weight.is_contiguous(memory_format=torch.channels_last)
        raw = self.weight.permute(0, 2, 3, 1) if is_channels_last else self.weight
        unit: Tensor = F.layer_norm(raw, raw.shape[1:], eps=EPSILON / self.fan_in) * gain
        return unit.permute(0, 3, 1, 2) if is_channels_last else unit

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to features (B, O, H / stride, W / stride)."""
        return F.conv2d(
            features,
            self.standardised_weight(),
            self.bias,
            stride=self.stride,
            padding=self.kernel_size[0] // 2,
        )


def fold(module: nn.Module) -> nn.Module:
    """A copy of the module in which every ScaledStdConv2d is a plain convolution of equal output.

    At inference the standardised weights are constants: a folded network is a little quicker, and
    its export holds no trace of the standardisation. The copy is for inference: what it would
    learn is no longer standardised.
    """
    if isinstance(module, ScaledStdConv2d):
        return _plain_conv(module)
    folded = copy.deepcopy(module)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ScaledStdConv2d):
                setattr(parent, name, _plain_conv(child))
    return folded


def _plain_conv(scaled: ScaledStdConv2d) -> nn.Conv2d:
    plain = nn.Conv2d(
        scaled.in_channels,
        scaled.out_channels,
        scaled.kernel_size[0],
        stride=scaled.stride[0],
        padding=scaled.kernel_size[0] // 2,
        bias=scaled.bias is not None,
        device="meta",  # nothing is drawn: the weights are put in below
    )
    plain.weight = nn.Parameter(scaled.standardised_weight().detach())
    if scaled.bias is not None:
        plain.bias = nn.Parameter(scaled.bias.detach().clone())
    return plain.train(scaled.training)


@dataclass(frozen=True)
class ExpectedVariance:
    """Variance that the features of a new network have at one place, by arithmetic.

    Attributes:
        value: The variance; 1 behind a stem.
    """

    value: float = 1.0

    @property
    def std(self) -> float:
        """What the next block takes as input_std."""
        return math.sqrt(self.value)

    def after_block(self, residual_scale: float) -> "ExpectedVariance":
        """Behind a block that adds its change, of unit variance, to its input."""
        return ExpectedVariance(self.value + residual_scale**2)

    def after_transition(self, residual_scale: float) -> "ExpectedVariance":
        """Behind a block whose shortcut is a convolution of the normalised input."""
        return ExpectedVariance(1.0 + residual_scale**2)


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in (0, 2) that sees all channels' means; starts as identity.

    Source:
        Hu 2018, arXiv:1709.01507; the gain 2 against the gate's start at 1/2: Brock 2021.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.gate = _gate(num_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to features of the same shape."""
        gate = 2 * torch.sigmoid(self.gate(features.mean(dim=(2, 3))))
        return features * gate[:, :, None, None]


class ChannelSpatialAttention(nn.Module):
    """Scales by a gate of each channel, then of each pixel, together in (0, 4); starts as identity.

    No batch normalisation behind the convolution of the spatial gate, unlike the usual code: it
    would tie the images of a batch together.

    Source:
        Woo 2018 (CBAM), arXiv:1807.06521.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.channel_gate = _gate(num_channels)
        self.spatial_gate = nn.Conv2d(2, 1, SPATIAL_GATE_PX, padding=SPATIAL_GATE_PX // 2)
        nn.init.zeros_(self.spatial_gate.weight)
        nn.init.zeros_(self.spatial_gate.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to features of the same shape."""
        mean = features.mean(dim=(2, 3))
        most = F.adaptive_max_pool2d(features, 1).flatten(1)  # one pixel gets the gradient
        channel_gate = 2 * torch.sigmoid(self.channel_gate(mean) + self.channel_gate(most))
        features = features * channel_gate[:, :, None, None]
        seen = torch.cat(
            [features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1
        )
        return features * (2 * torch.sigmoid(self.spatial_gate(seen)))


def _gate(num_channels: int) -> nn.Sequential:
    num_hidden = max(num_channels // GATE_REDUCTION, LEAST_GATE_CHANNELS)
    return nn.Sequential(
        nn.Linear(num_channels, num_hidden),
        nn.ReLU(),
        _zero_linear(num_hidden, num_channels),
    )


def _zero_linear(num_in: int, num_out: int) -> nn.Linear:
    linear = nn.Linear(num_in, num_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _attention(name: ChannelAttention, num_channels: int) -> nn.Module:
    if name == "squeeze_excite":
        return SqueezeExcite(num_channels)
    if name == "cbam":
        return ChannelSpatialAttention(num_channels)
    return nn.Identity()


class BlurPool(nn.Module):
    """Halves an image behind a small binomial blur, so that fine patterns do not alias.

    The blur has unit sum: it keeps smooth features, and lowers the variance of white ones, to 0.10
    of it with four taps. What that takes from image-like features compounds from level to level, so
    the convolutions behind it have a fixed gain: BLUR_GAIN in NFBlock.

    Actual over expected variance of a new EncoderNFResNet at full gain, level by level: images with
    an amplitude of 1 / frequency, 3 independent colours, 4 levels of 48 channels and 1, 2 or 3
    blocks; mean of 10 draws of the weights, of which one varies by up to 0.4 at the last level:

        32 px, no gain:              0.96 to 0.97, 0.63 to 0.66, 0.43 to 0.46, 0.27 to 0.28
        32 px, gain 1.2:             0.96 to 0.97, 0.91 to 0.95, 0.92 to 0.99, 0.89 to 0.95
        64 px, no gain:              1.00 to 1.01, 0.69 to 0.72, 0.51 to 0.53, 0.34 to 0.36
        64 px, gain 1.2:             1.00 to 1.01, 1.00 to 1.05, 1.10 to 1.12, 1.14 to 1.16
        128 px, gain 1.2:            1.01 to 1.03, 1.12 to 1.16, 1.34 to 1.40, 1.51 to 1.64
        white noise, 32 px, no gain: 0.96, 0.11, 0.02 to 0.03, 0.01
        white noise, gain 1.2:       0.96, 0.16, 0.05, 0.02 to 0.03

    So the gain suits 32 to 64 px; larger images lose less to a blur, and white noise, which natural
    features are not, still loses nearly all.

    Args:
        num_taps: 4 for [1, 3, 3, 1], centred between two pixels as the cells of a Haar transform
            are, so that a mirrored image gives mirrored features; 3 for [1, 2, 1], centred on every
            second pixel.

    Raises:
        ValueError: If there is no kernel of that many taps.

    Source:
        Zhang 2019, arXiv:1904.11486.
    """

    kernel: Tensor

    def __init__(self, num_taps: int = 4) -> None:
        super().__init__()
        if num_taps not in BLUR_TAPS:
            raise ValueError(f"a blur has {sorted(BLUR_TAPS)} taps; got {num_taps}")
        taps = torch.tensor(BLUR_TAPS[num_taps])
        self.num_after = num_taps - 3
        kernel = torch.outer(taps, taps) / taps.sum() ** 2
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W), H and W even, to features (B, C, H / 2, W / 2)."""
        if features.shape[2] % 2 or features.shape[3] % 2:
            raise ValueError(f"only even sides can be halved; got {tuple(features.shape)}")
        num_channels = features.shape[1]
        padded = F.pad(features, (1, self.num_after, 1, self.num_after), mode="reflect")
        kernel = self.kernel.expand(num_channels, 1, -1, -1)
        return F.conv2d(padded, kernel, stride=2, groups=num_channels)


class PixelNorm(nn.Module):
    """Scales the channels of each pixel to a root mean square of one."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, H, W) to features of the same shape."""
        last = features.permute(0, 2, 3, 1)  # its backward is twice as quick as that of a mean
        return F.rms_norm(last, last.shape[3:], eps=EPSILON).permute(0, 3, 1, 2)


def _norm(name: Normalisation, num_channels: int) -> nn.Module:
    if name == "pixel":
        return PixelNorm()
    if name == "group":
        size = GROUP_CHANNELS if num_channels % GROUP_CHANNELS == 0 else GROUP_CHANNELS // 2
        if num_channels % size:
            raise ValueError(f"groups need a multiple of {size} channels; got {num_channels}")
        return nn.GroupNorm(num_channels // size, num_channels)
    return nn.Identity()


def _stem(num_channels: int, num_out: int) -> nn.Conv2d:
    """A plain convolution that keeps the mean square of images, however smooth they are.

    Not standardised: weights that sum to zero cannot see the brightness of a grey image.
    """
    stem = nn.Conv2d(num_channels, num_out, STEM_PX, padding=STEM_PX // 2)
    nn.init.normal_(stem.weight, std=(num_channels * STEM_PX**2) ** -0.5)
    nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
    return stem


class NFBlock(nn.Module):
    """Pre-activation residual block without normalisation layers; starts as the identity.

    out = activation(x) / input_std;  y = shortcut + residual_scale * attention(conv(... conv(out)))

    The shortcut is x itself, or, where the shape changes (a transition), a 1x1 convolution of out.
    Between the convolutions the embedding sets a gain and a bias of each channel (EDM2's way); both
    start without effect. In a transition with blur both branches see the blurred out.

    Args:
        num_channels: Channels of the input.
        embedding_channels: Channels E of the embedding; 0 for a block without one.
        input_std: Expected standard deviation of the input, by ExpectedVariance.
        residual_scale: How much of the change is added.
        normalisation: "none" for the division by input_std; "pixel" and "group" normalise before
            either activation in its place.
        channel_attention: Gate behind the second convolution.
        num_out: Channels of the output; None for num_channels.
        downsampling: How the image is halved, if it is.
        activation: Name of the activation.

    Raises:
        ValueError: If a size or name cannot be.
    """

    def __init__(  # noqa: PLR0913 - the choices of a block, each an ablation of its own
        self,
        num_channels: int,
        embedding_channels: int,
        input_std: float,
        residual_scale: float = 0.2,
        normalisation: Normalisation = "none",
        channel_attention: ChannelAttention = "none",
        num_out: int | None = None,
        downsampling: Downsampling = "none",
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        num_out = num_channels if num_out is None else num_out
        self.residual_scale = residual_scale
        self.activation, gain = ACTIVATIONS[activation]
        input_scale = gain / input_std if normalisation == "none" else gain
        input_scale *= BLUR_GAIN if downsampling == "blur" else 1.0
        stride = 2 if downsampling == "strided" else 1
        is_transition = num_out != num_channels or downsampling != "none"

        self.norm_in = _norm(normalisation, num_channels)
        self.blur = BlurPool() if downsampling == "blur" else nn.Identity()
        self.shortcut = (
            ScaledStdConv2d(num_channels, num_out, 1, stride, input_scale=input_scale)
            if is_transition
            else None
        )
        self.conv_in = ScaledStdConv2d(num_channels, num_out, 3, stride, input_scale=input_scale)
        self.norm_out = _norm(normalisation, num_out)
        self.gain_and_bias = (
            _zero_linear(embedding_channels, 2 * num_out) if embedding_channels else None
        )
        self.conv_out = ScaledStdConv2d(
            num_out, num_out, 3, gain=0.0, input_scale=gain * SILENT_GAIN_STEP
        )
        self.attention = _attention(channel_attention, num_out)

    def forward(self, features: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (B, C, H, W) and embedding (B, E) to features (B, num_out, H', W')."""
        out = self.blur(self.activation(self.norm_in(features)))
        hidden = self._adapted(self.norm_out(self.conv_in(out)), embedding)
        change = self.attention(self.conv_out(self.activation(hidden)))
        kept = features if self.shortcut is None else self.shortcut(out)
        return torch.add(kept, change, alpha=self.residual_scale)

    def _adapted(self, hidden: Tensor, embedding: Tensor | None) -> Tensor:
        if (self.gain_and_bias is None) != (embedding is None):
            raise ValueError(
                "a block takes an embedding if and only if it was built with embedding_channels > 0"
            )
        if self.gain_and_bias is None or embedding is None:
            return hidden
        gain, bias = self.gain_and_bias(embedding)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(bias, hidden, 1 + gain)


class EncoderNFResNet(nn.Module):
    """A pyramid of features: a stem, then blocks at every level, each half the size of the last.

    The first block of each level but the finest is the transition to it.

    Args:
        num_channels: Channels of the images, at about unit variance.
        channels: Width of each level, finest first.
        depths: Number of blocks of each level, each at least 1.
        residual_scale: How much of a block's change is added.
        channel_attention: Gate of every block.
        normalisation: What the blocks have in place of the division by the expected deviation.
        downsampling: "blur" against aliasing, or "strided" convolutions.
        activation: Name of the activation.
        embedding_channels: Channels of the embedding; 0 for an encoder without one.

    Raises:
        ValueError: If the levels do not fit, or a size cannot be.
    """

    def __init__(  # noqa: PLR0913 - the choices of its blocks and the shape of the pyramid
        self,
        num_channels: int,
        channels: Sequence[int],
        depths: Sequence[int],
        residual_scale: float = 0.2,
        channel_attention: ChannelAttention = "none",
        normalisation: Normalisation = "none",
        downsampling: Literal["blur", "strided"] = "blur",
        activation: Activation = "silu",
        embedding_channels: int = 0,
    ) -> None:
        super().__init__()
        if not channels or len(channels) != len(depths) or min(depths) < 1:
            raise ValueError(
                "channels and depths name the same levels, at least one, each of at least one "
                f"block; got {list(channels)} and {list(depths)}"
            )
        self.size_divisor_px = 2 ** (len(channels) - 1)
        self.activation = activation
        self.stem = _stem(num_channels, channels[0])
        self.levels = nn.ModuleList()
        variance, num_in = ExpectedVariance(), channels[0]
        for level, (num_out, depth) in enumerate(zip(channels, depths, strict=True)):
            blocks = nn.ModuleList()
            for block in range(depth):
                is_transition = level > 0 and block == 0
                blocks.append(
                    NFBlock(
                        num_in,
                        embedding_channels,
                        variance.std,
                        residual_scale,
                        normalisation,
                        channel_attention,
                        num_out,
                        downsampling if is_transition else "none",
                        activation,
                    )
                )
                variance = (
                    variance.after_transition(residual_scale)
                    if is_transition
                    else variance.after_block(residual_scale)
                )
                num_in = num_out
            self.levels.append(blocks)
        self.output_std = variance.std

    def forward(self, images: Tensor, embedding: Tensor | None = None) -> list[Tensor]:
        """Features of every level, finest first.

        Args:
            images: Shape (B, num_channels, H, W), H and W multiples of size_divisor_px.
            embedding: Shape (B, embedding_channels), or None for an encoder without one.

        Returns:
            One tensor (B, channels[l], H / 2^l, W / 2^l) of each level l, before any activation.

        Raises:
            ValueError: If the images do not fit.
        """
        if any(size_px % self.size_divisor_px for size_px in images.shape[2:]):
            raise ValueError(
                f"the sides of the images must be multiples of {self.size_divisor_px}; got "
                f"{tuple(images.shape)}"
            )
        features = self.stem(images).contiguous(memory_format=torch.channels_last)
        pyramid = []
        for blocks in self.levels:
            for block in blocks.children():
                features = block(features, embedding)
            pyramid.append(features)
        return pyramid

    def features(self, images: Tensor, embedding: Tensor | None = None) -> Tensor:
        """One vector of each image, (B, channels[-1]): the coarsest level, activated, averaged."""
        coarsest = self.forward(images, embedding)[-1]
        return activation(coarsest, self.activation).mean(dim=(2, 3)) / self.output_std
