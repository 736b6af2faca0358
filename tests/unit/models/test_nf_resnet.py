"""The normaliser-free network: its variances, its exactness against timm, and its equivariances."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.models.nf_resnet import (
    ACTIVATIONS,
    SILENT_GAIN_STEP,
    BlurPool,
    ChannelSpatialAttention,
    EncoderNFResNet,
    ExpectedVariance,
    NFBlock,
    PixelNorm,
    ScaledStdConv2d,
    SqueezeExcite,
    activation,
    fold,
)

SCALE = 0.2
ATTENTIONS = ["none", "squeeze_excite", "cbam"]
NORMALISATIONS = ["none", "pixel", "group"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def like_photographs(num_images: int, num_channels: int, side_px: int, seed: int = 0) -> Tensor:
    """Images of unit mean square whose amplitude falls as 1 / frequency; they do not wrap round."""
    frequency = torch.fft.fftfreq(2 * side_px, 1 / (2 * side_px))
    radius = torch.hypot(frequency[:, None], frequency[None]).clamp(min=1)
    white = normal(num_images, num_channels, 2 * side_px, 2 * side_px, seed=seed)
    images = torch.fft.ifft2(torch.fft.fft2(white) / radius).real[..., :side_px, :side_px]
    return images / images.square().mean().sqrt()


def woken(network: nn.Module) -> nn.Module:
    """Give the silent last convolutions their full gain, as NF-ResNets without SkipInit have."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, ScaledStdConv2d):
                layer.gain[layer.gain == 0] = 1 / SILENT_GAIN_STEP
    return network


def trained(network: nn.Module) -> nn.Module:
    """Move all weights off their start, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=generator))
    return network


@pytest.fixture(scope="module")
def layers():
    """timm's layers; timm imports torchvision, which needs the door opened first."""
    open_torchvision_door()
    return pytest.importorskip("timm.layers")


# --- activations and standardised convolutions


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_the_variance_of_normal_features(name):
    quantile = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    z = torch.special.ndtri(quantile)
    assert activation(z, name).var().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_standardised_weights_follow_their_formula(is_channels_last):
    conv = trained(ScaledStdConv2d(4, 6, 3, input_scale=1.7)).double()
    if is_channels_last:
        conv = conv.to(memory_format=torch.channels_last)
    expected = torch.empty_like(conv.weight)
    for unit in range(6):
        raw = conv.weight[unit]
        spread = (36 * raw.var(unbiased=False) + 1e-6).sqrt()
        expected[unit] = 1.7 * conv.gain[unit] * (raw - raw.mean()) / spread
    torch.testing.assert_close(conv.standardised_weight(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("num_in", "num_out", "kernel_px", "stride"), [(3, 8, 1, 1), (8, 5, 3, 1), (8, 8, 3, 2)]
)
def test_a_standardised_convolution_is_that_of_timm(layers, num_in, num_out, kernel_px, stride):
    ours = trained(ScaledStdConv2d(num_in, num_out, kernel_px, stride, input_scale=1.5))
    theirs = layers.ScaledStdConv2d(
        num_in, num_out, kernel_px, stride, padding=kernel_px // 2, gamma=1.5, eps=1e-12
    )
    theirs.load_state_dict(ours.state_dict())
    images = normal(2, num_in, 8, 8)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_the_function_ignores_scale_and_offset_of_raw_weights():
    conv, images = ScaledStdConv2d(8, 8, 3), normal(1, 8, 6, 6)
    before = conv(images)
    with torch.no_grad():
        conv.weight.mul_(3).add_(0.5)
    torch.testing.assert_close(conv(images), before, rtol=1e-4, atol=1e-4)


def test_raw_weights_start_as_small_as_those_of_a_plain_convolution():
    assert ScaledStdConv2d(64, 64, 3).weight.std().item() == pytest.approx(1 / 24, rel=0.02)


def test_constant_raw_weights_do_not_divide_by_zero():
    conv = ScaledStdConv2d(8, 4, 3)
    nn.init.constant_(conv.weight, 0.3)
    conv(normal(1, 8, 5, 5)).square().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.isfinite().all()


@pytest.mark.parametrize("num_in", [1, 2])
def test_refuses_a_fan_in_that_standardises_to_constants(num_in):
    with pytest.raises(ValueError, match=f"fan-in of at least 3; got {num_in} channels"):
        ScaledStdConv2d(num_in, 8, 1)


@pytest.mark.parametrize("kernel_px", [1, 3])
def test_channels_last_stays_channels_last(kernel_px):
    conv = ScaledStdConv2d(8, 16, kernel_px).to(memory_format=torch.channels_last)
    images = normal(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    weight = conv.standardised_weight()
    assert weight.is_contiguous(memory_format=torch.channels_last)
    out = conv(images)
    assert out.is_contiguous(memory_format=torch.channels_last)
    out.sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.is_contiguous(memory_format=torch.channels_last)


# --- blur


@pytest.mark.parametrize("num_taps", [3, 4])
def test_blur_halves_even_sides_and_keeps_a_constant(num_taps):
    got = BlurPool(num_taps)(torch.full((1, 2, 8, 6), 3.0))
    torch.testing.assert_close(got, torch.full((1, 2, 4, 3), 3.0))


@pytest.mark.parametrize("num_taps", [3, 4])
def test_blur_is_the_sum_over_its_taps(num_taps):
    image = normal(1, 1, 8, 8)
    taps = {3: [1, 2, 1], 4: [1, 3, 3, 1]}[num_taps]
    rows = cols = 2  # output pixel (2, 2) sees input pixels 3.., well inside
    expected = sum(
        taps[i] * taps[j] * image[0, 0, 2 * rows - 1 + i, 2 * cols - 1 + j]
        for i, j in itertools.product(range(num_taps), repeat=2)
    )
    got = BlurPool(num_taps)(image)[0, 0, rows, cols]
    torch.testing.assert_close(got, expected / sum(taps) ** 2)


def test_blur_of_three_taps_is_that_of_timm(layers):
    features = normal(2, 5, 12, 8)
    theirs = layers.BlurPool2d(5, filt_size=3, stride=2)(features)
    torch.testing.assert_close(BlurPool(3)(features), theirs)


def test_blur_of_four_taps_mirrors_with_its_image():
    features, blur = normal(1, 2, 8, 8), BlurPool(4)
    torch.testing.assert_close(blur(features.flip(3)), blur(features).flip(3))


def test_blur_names_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"a blur has \[3, 4\] taps; got 5"):
        BlurPool(5)
    with pytest.raises(ValueError, match="only even sides"):
        BlurPool()(torch.zeros(1, 2, 7, 8))


# --- attention


@pytest.mark.parametrize("attention", [SqueezeExcite, ChannelSpatialAttention])
def test_a_new_gate_is_the_identity(attention):
    features = normal(2, 16, 6, 6)
    torch.testing.assert_close(attention(16)(features), features)


def test_squeeze_excite_is_twice_that_of_timm(layers):
    ours = trained(SqueezeExcite(32))
    theirs = layers.SEModule(32, rd_channels=8)
    reduce, _, expand = ours.gate
    theirs.load_state_dict(
        {
            "fc1.weight": reduce.weight[:, :, None, None],
            "fc1.bias": reduce.bias,
            "fc2.weight": expand.weight[:, :, None, None],
            "fc2.bias": expand.bias,
        }
    )
    features = normal(2, 32, 5, 5) + 1
    torch.testing.assert_close(ours(features), 2 * theirs(features), rtol=1e-5, atol=1e-5)


def test_cbam_is_four_times_two_gates():
    ours = trained(ChannelSpatialAttention(16))
    features = normal(2, 16, 8, 8)
    channel = ours.channel_gate(features.mean((2, 3))) + ours.channel_gate(features.amax((2, 3)))
    gated = features * torch.sigmoid(channel)[:, :, None, None]
    seen = torch.stack([gated.mean(1), gated.amax(1)], dim=1)
    # the mean and maximum that the second gate sees are of features at full size: times 2
    expected = 4 * gated * torch.sigmoid(ours.spatial_gate(2 * seen))
    torch.testing.assert_close(ours(features), expected)


def test_cbam_gates_each_image_alone():
    ours, features = trained(ChannelSpatialAttention(16)).train(), normal(3, 16, 8, 8)
    torch.testing.assert_close(ours(features)[:1], ours(features[:1]))


# --- blocks


def test_expected_variance_grows_until_a_transition_resets_it():
    variance = ExpectedVariance()
    assert variance.std == 1
    variance = variance.after_block(0.5).after_block(0.5)
    assert variance.value == pytest.approx(1.5)
    assert variance.std == pytest.approx(1.5**0.5)
    assert variance.after_transition(0.5).value == pytest.approx(1.25)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_variance_of_a_stack_is_the_one_expected(attention, normalisation, name):
    scale = 0.3  # larger than the default, so that the sum is well above 1
    variance, features = ExpectedVariance(), normal(2, 48, 16, 16)
    with torch.no_grad():
        for _ in range(12):
            block = woken(
                NFBlock(48, 0, variance.std, scale, normalisation, attention, activation=name)
            )
            change = (block(features) - features) / scale
            assert 0.8 < change.var().item() < 1.2
            features, variance = block(features), variance.after_block(scale)
            assert 0.8 < features.var().item() / variance.value < 1.2
    assert variance.value == pytest.approx(1 + 12 * scale**2)


def test_a_projection_resets_the_variance():
    block = woken(NFBlock(32, 0, 2.0, SCALE, num_out=64))
    got = block(2 * normal(4, 32, 16, 16))
    assert got.shape == (4, 64, 16, 16)
    assert got.var().item() == pytest.approx(1 + SCALE**2, rel=0.2)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_new_block_is_the_identity(attention, normalisation):
    block = NFBlock(16, 8, 1.1, SCALE, normalisation, attention)
    features = normal(2, 16, 8, 8)
    assert torch.equal(block(features, normal(2, 8)), features)


def test_the_adaptive_gain_starts_without_effect_and_then_has_one():
    block = woken(NFBlock(16, 8, 1.0))
    features, embedding = normal(2, 16, 8, 8), normal(2, 8)
    plain = block(features, torch.zeros(2, 8))
    assert torch.equal(block(features, embedding), plain)
    assert not torch.equal(trained(block)(features, embedding), block(features, -embedding))


def test_the_adaptive_gain_and_bias_act_between_the_convolutions():
    block = trained(NFBlock(8, 4, 1.25))
    features, embedding = normal(2, 8, 6, 6), normal(2, 4)
    gain, bias = block.gain_and_bias(embedding)[:, :, None, None].chunk(2, dim=1)

    def conv(layer: ScaledStdConv2d, inputs: Tensor, gain: float) -> Tensor:
        weight = layer.standardised_weight() / layer.input_scale * gain
        return F.conv2d(inputs, weight, layer.bias, padding=1)

    hidden = conv(block.conv_in, activation(features) / 1.25, 1) * (1 + gain) + bias
    expected = features + 0.2 * conv(block.conv_out, activation(hidden), SILENT_GAIN_STEP)
    torch.testing.assert_close(block(features, embedding), expected, rtol=1e-4, atol=1e-5)


def test_pixel_norm_makes_the_mean_square_of_each_pixel_one():
    features = 5 * normal(2, 8, 3, 3)
    square = PixelNorm()(features).square().mean(dim=1)
    torch.testing.assert_close(square, torch.ones(2, 3, 3))


@pytest.mark.parametrize("normalisation", ["pixel", "group"])
def test_with_a_normalisation_the_change_ignores_the_size_of_the_input(normalisation):
    block, features = woken(NFBlock(16, 0, 1.0, SCALE, normalisation)), normal(2, 16, 8, 8)
    change = block(features) - features
    torch.testing.assert_close(block(9 * features) - 9 * features, change, rtol=1e-3, atol=1e-3)


def test_a_block_asks_for_its_embedding_and_refuses_another():
    features = normal(1, 8, 4, 4)
    with pytest.raises(ValueError, match="if and only if"):
        NFBlock(8, 4, 1.0)(features)
    with pytest.raises(ValueError, match="if and only if"):
        NFBlock(8, 0, 1.0)(features, normal(1, 4))


def test_groups_need_a_fitting_number_of_channels():
    NFBlock(24, 0, 1.0, normalisation="group")
    with pytest.raises(ValueError, match="groups need a multiple of 8 channels; got 12"):
        NFBlock(12, 0, 1.0, normalisation="group")


# --- the encoder


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("downsampling", ["blur", "strided"])
@pytest.mark.parametrize(
    ("channels", "depths"), [([8], [2]), ([8, 16], [1, 3]), ([16, 8, 24, 8], [1, 2, 1, 1])]
)
def test_levels_have_any_width_and_depth(num_channels, downsampling, channels, depths):
    encoder = trained(EncoderNFResNet(num_channels, channels, depths, downsampling=downsampling))
    images = normal(2, num_channels, 16, 24)
    pyramid = encoder(images)
    assert [tuple(features.shape) for features in pyramid] == [
        (2, width, 16 >> level, 24 >> level) for level, width in enumerate(channels)
    ]
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in pyramid)
    assert [len(blocks) for blocks in encoder.levels] == depths
    vectors = encoder.features(images)
    assert vectors.shape == (2, channels[-1])
    assert vectors.isfinite().all()


def test_an_encoder_keeps_its_variance_through_strided_levels():
    encoder = woken(EncoderNFResNet(3, [48, 48, 64], [3, 3, 3], downsampling="strided"))
    with torch.no_grad():
        for features in encoder(normal(4, 3, 32, 32)):
            assert features.var().item() == pytest.approx(1 + 3 * SCALE**2, rel=0.2)


def variance_ratios(depth: int, images: Tensor, num_seeds: int) -> Tensor:
    """Actual over expected variance of 4 blurred levels, mean over draws of the weights."""
    found = []
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        encoder = woken(EncoderNFResNet(3, [48] * 4, [depth] * 4))
        with torch.no_grad():
            found.append([features.var().item() for features in encoder(images)])
    return torch.tensor(found).mean(dim=0) / (1 + depth * SCALE**2)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_an_encoder_keeps_the_variance_of_images_through_its_blurs(depth):
    ratios = variance_ratios(depth, like_photographs(8, 3, 32), num_seeds=10)
    assert (ratios - 1).abs().max() < 0.2, ratios


def test_white_noise_loses_its_variance_in_the_blurs():
    assert (variance_ratios(1, normal(2, 3, 32, 32), num_seeds=2)[1:] < 0.25).all()


def test_an_encoder_sees_the_brightness_of_a_grey_image():
    encoder = EncoderNFResNet(1, [16], [1])
    middle = encoder(torch.full((1, 1, 8, 8), 0.5))[0][0, :, 4, 4]
    assert middle.abs().max() > 0.1


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_folded_encoder_gives_the_same_features(attention, normalisation):
    encoder = trained(
        EncoderNFResNet(3, [16, 24], [1, 2], 0.2, attention, normalisation, embedding_channels=8)
    ).to(memory_format=torch.channels_last)
    folded = fold(encoder)
    images, embedding = normal(2, 3, 16, 16), normal(2, 8)
    with torch.no_grad():
        for got, expected in zip(
            folded(images, embedding), encoder(images, embedding), strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert not any(isinstance(layer, ScaledStdConv2d) for layer in folded.modules())
    assert any(isinstance(layer, ScaledStdConv2d) for layer in encoder.modules())


def test_one_convolution_folds_to_a_plain_one():
    conv = trained(ScaledStdConv2d(4, 8, 3, stride=2, has_bias=False)).eval()
    folded = fold(conv)
    assert type(folded) is nn.Conv2d
    assert not folded.training
    images = normal(1, 4, 8, 8)
    torch.testing.assert_close(folded(images), conv(images))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_every_weight_gets_a_finite_gradient(attention, normalisation):
    encoder = trained(
        EncoderNFResNet(3, [16, 16], [1, 1], 0.2, attention, normalisation, embedding_channels=4)
    )
    encoder.features(normal(2, 3, 8, 8), normal(2, 4)).square().sum().backward()
    for name, weights in encoder.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert weights.grad.abs().max() > 0, name


def test_a_new_encoder_learns_its_silent_gains_first():
    encoder = EncoderNFResNet(3, [16], [1])
    encoder.features(normal(2, 3, 8, 8)).square().sum().backward()
    block = encoder.levels[0][0]
    assert block.conv_out.gain.grad.abs().max() > 0
    assert block.conv_in.weight.grad.abs().max() == 0


def shift_variance(downsampling: str) -> float:
    """How far the coarse features of a shift by one pixel lie from the middle of their neighbours.

    A shift by two pixels moves the coarse features by one; one pixel should give what is between.
    """
    torch.manual_seed(0)
    encoder = woken(EncoderNFResNet(3, [16, 16], [1, 1], downsampling=downsampling))
    image = normal(4, 3, 32, 34)
    with torch.no_grad():
        before, half, after = (
            encoder(image[..., shift : shift + 32])[-1][..., 4:12, 4:12] for shift in (0, 1, 2)
        )
        between = (before + after) / 2
        return ((half - between).square().mean() / between.square().mean()).item()


def test_blur_lowers_the_change_under_a_shift():
    assert shift_variance("blur") < 0.5 * shift_variance("strided")


def test_stripes_as_fine_as_the_stride_do_not_alias():
    stripes = normal(1, 8, 1, 1).repeat(1, 1, 8, 8)
    stripes[..., 1::2] *= -1

    def change(downsampling: str) -> float:
        block = NFBlock(8, 0, 1.0, downsampling=downsampling)
        pair = block(stripes), block(-stripes)  # minus the stripes is their shift by one pixel
        return (pair[0] - pair[1])[..., 1:3, 1:3].abs().max().item()

    assert change("blur") < 1e-5
    assert change("strided") > 0.1


@pytest.mark.parametrize(("channels", "depths"), [([], []), ([8], [1, 1]), ([8, 8], [1, 0])])
def test_refuses_levels_that_do_not_match(channels, depths):
    with pytest.raises(ValueError, match="name the same levels"):
        EncoderNFResNet(3, channels, depths)


def test_refuses_images_that_cannot_be_halved_often_enough():
    with pytest.raises(ValueError, match="must be multiples of 4"):
        EncoderNFResNet(3, [8, 8, 8], [1, 1, 1])(normal(1, 3, 16, 18))
