"""The tree of branches: what each entry touches, what conditions it, and what it measures."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vivero.config.schema import ModelConfig
from vivero.diffusion.haar import haar_pyramid, haar_split
from vivero.diffusion.tree_denoiser import BranchOutput
from vivero.models.build import save_memory
from vivero.models.nf_resnet import SILENT_GAIN_STEP, ScaledStdConv2d, fold
from vivero.models.tree import LEAST_STD, Conditioning, TreeDiffusionBlock, TreeNetwork, Window

WIDTHS, SIZE_PX, NUM_CLASSES, EMBEDDING = [8, 16, 24], 16, 3, 16
NUM_LEVELS = len(WIDTHS)
TOKEN_CHANNELS = 6
MIXED = (2, 1, 2)  # images that enter at each level


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model(config_factory) -> Callable[..., ModelConfig]:
    """The block train.model of a tree of three levels; changes are those of its block tree."""

    def settings(**changes: object) -> ModelConfig:
        plain = {
            "threshold": 4.0,
            "is_fused": True,
            "normalisation": "none",
            "channel_attention": "none",
            "downsampling": "blur",
            "has_cross_attention": True,
            "fine_crop_share": 1.0,
        }
        values = {
            "name": "tree",
            "channels": WIDTHS,
            "blocks_per_level": 1,
            "patch_px": 2,
            "attention_heads": 2,
            "embedding_channels": EMBEDDING,
            "tree": {**plain, **changes},
        }
        return ModelConfig.model_validate(values)

    return settings


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def woken(network: TreeNetwork) -> TreeNetwork:
    """Move all weights off their start, as training does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=generator))
    return network


def split_images(images: Tensor, counts: Sequence[int]) -> list[Tensor | None]:
    """What a pass takes, for images of which so many enter at each level."""
    found: list[Tensor | None] = []
    for level, z in enumerate(haar_pyramid(images, len(counts))):
        num_rows = sum(counts[: level + 1])
        found.append(torch.cat(haar_split(z[:num_rows]), dim=1) if num_rows else None)
    return found


def levels_of(counts: Sequence[int]) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def run(
    network: TreeNetwork,
    counts: Sequence[int] = MIXED,
    conditioning: Tensor | Conditioning | None = None,
    images: Tensor | None = None,
    noise_condition: Tensor | None = None,
    window: Window | None = None,
) -> list[BranchOutput]:
    num_images = sum(counts)
    if images is None:
        images = normal(num_images, network.num_channels, SIZE_PX, SIZE_PX)
    if noise_condition is None:
        noise_condition = torch.linspace(-0.7, 0.9, num_images)
    if conditioning is None:
        conditioning = torch.arange(num_images) % (NUM_CLASSES + 1)
    parts = split_images(images, counts)
    return network(parts, noise_condition, conditioning, levels_of(counts), window)


def only(level: int, num_images: int = 2) -> list[int]:
    return [num_images if each == level else 0 for each in range(NUM_LEVELS)]


def together(outputs: Sequence[BranchOutput]) -> Tensor:
    return torch.cat([output.raw.flatten() for output in outputs])


def finer_parameters(network: TreeNetwork, level: int) -> dict[str, nn.Parameter]:
    """The parameters of all branches above a level."""
    kept = set(network.branches()[level].parameters())
    return {n: w for n, w in network.finest.named_parameters() if w not in kept}


# --- the branches


def test_every_branch_lies_within_the_finer_one(model):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX)
    branches = network.branches()
    assert [branch.level for branch in branches] == [0, 1, 2]
    assert [branch.is_root for branch in branches] == [False, False, True]
    assert [branch.stem.out_channels for branch in branches] == WIDTHS
    assert [branch.child for branch in branches] == [*branches[1:], None]
    within = [sum(isinstance(m, TreeDiffusionBlock) for m in b.modules()) for b in branches]
    assert within == [3, 2, 1]


@pytest.mark.parametrize("num_channels", [1, 3])
def test_gives_each_level_its_bands_a_weight_and_what_it_foresees(model, num_channels: int):
    outputs = run(woken(TreeNetwork(model(), num_channels, NUM_CLASSES, SIZE_PX)))
    own, foreseen = 4 * num_channels, 12 * num_channels
    assert [tuple(output.raw.shape) for output in outputs] == [
        (2, own + 1, 8, 8),
        (3, own + 1 + foreseen, 4, 4),
        (5, own + foreseen, 2, 2),  # nobody to be mixed with
    ]
    residuals = [output.log_residual for output in outputs]
    assert residuals[0] is None
    assert [r.shape for r in residuals[1:] if r is not None] == [(3 * num_channels,)] * 2
    assert together(outputs).isfinite().all()


def test_a_new_tree_predicts_nothing(model):
    assert together(run(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))).abs().max() == 0


def test_a_tree_may_be_a_root_alone(model):
    config = model().model_copy(update={"channels": [8]})
    network = woken(TreeNetwork(config, 1, NUM_CLASSES, SIZE_PX))
    (output,) = run(network, counts=[2])
    assert tuple(output.raw.shape) == (2, 4, 8, 8)
    assert output.log_residual is None


@pytest.mark.parametrize("level", range(NUM_LEVELS))
def test_an_entry_teaches_its_branch_and_the_coarser_ones_only(model, level: int):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    outputs = run(network, only(level))
    assert len(outputs) == NUM_LEVELS - level
    together(outputs).square().mean().backward()
    finer = finer_parameters(network, level)
    assert {name for name, weights in finer.items() if weights.grad is not None} == set()
    still = [
        name
        for name, weights in network.named_parameters()
        if name.removeprefix("finest.") not in finer
        and "log_residual" not in name  # goes past the features
        and (weights.grad is None or not bool(weights.grad.any()))
    ]
    assert still == []


@pytest.mark.parametrize("level", [1, 2])
def test_an_entry_reads_no_finer_parameter(model, level: int):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    before = together(run(network, only(level)))
    finer = finer_parameters(network, level)
    assert len(finer) > 10
    with torch.no_grad():
        for weights in finer.values():
            weights.fill_(float("nan"))
    assert torch.equal(together(run(network, only(level))), before)
    assert together(run(network, only(level - 1))).isnan().any()


@pytest.mark.parametrize("counts", [MIXED, (2, 0, 1), (0, 1, 2), (1, 2, 0)])
def test_a_pass_of_all_levels_is_a_pass_of_each(model, counts: tuple[int, ...]):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    num_images = sum(counts)
    images, labels = normal(num_images, 1, SIZE_PX, SIZE_PX), torch.arange(num_images) % 4
    noise_condition = torch.linspace(-0.7, 0.9, num_images)
    mixed = run(network, counts, labels, images, noise_condition)
    first = NUM_LEVELS - len(mixed)
    begin = 0
    for level, count in enumerate(counts):
        rows = slice(begin, begin + count)
        begin += count
        if not count:
            continue
        alone = run(
            network,
            only(level, count),
            labels[rows],
            images[rows],
            noise_condition[rows],
        )
        for below, output in enumerate(alone, start=level):
            torch.testing.assert_close(
                mixed[below - first].raw[rows], output.raw, rtol=1e-4, atol=1e-5
            )


def test_images_noise_and_the_level_of_entry_all_matter(model):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    images, counts = normal(2, 1, SIZE_PX, SIZE_PX), only(1)
    start = together(run(network, counts, images=images))
    others = [
        together(run(network, counts, images=-images)),
        together(run(network, counts, images=images, noise_condition=torch.tensor([0.3, -0.4]))),
    ]
    with torch.no_grad():
        network.level_embedding.weight[1] += 0.5
    others.append(together(run(network, counts, images=images)))
    for other in others:
        assert not torch.allclose(start, other, atol=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalisation": "pixel", "channel_attention": "squeeze_excite"},
        {"normalisation": "group", "downsampling": "strided"},
        {"channel_attention": "cbam", "has_cross_attention": False, "fine_crop_share": 0.5},
    ],
)
def test_every_weight_learns_whatever_the_branches_are_made_of(model, changes):
    network = woken(TreeNetwork(model(**changes), 1, NUM_CLASSES, SIZE_PX))
    outputs = run(network)
    together(outputs).square().mean().backward()
    still = [
        name
        for name, weights in network.named_parameters()
        if "log_residual" not in name and (weights.grad is None or not bool(weights.grad.any()))
    ]
    assert still == []


def test_without_attention_it_still_works(model):
    config = model().model_copy(update={"attention_heads": 0})
    network = woken(TreeNetwork(config, 1, NUM_CLASSES, SIZE_PX))
    names = list(network.state_dict())
    assert not any("attention" in name or "context" in name for name in names)
    assert together(run(network)).isfinite().all()


def test_forgetting_activations_changes_no_bit(model):
    gradients = []
    for saves in (False, True):
        torch.manual_seed(0)
        network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
        if saves:
            save_memory(network)
        calls: list[int] = []
        network.finest.encoder[0].register_forward_pre_hook(lambda *_, c=calls: c.append(1))
        together(run(network)).square().mean().backward()
        assert len(calls) == (2 if saves else 1)
        gradients.append([w.grad for w in network.parameters() if w.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# --- the variance of new branches


def like_photographs(num_images: int, num_channels: int, side_px: int) -> Tensor:
    """Images whose amplitude falls as 1 / frequency; they do not wrap round."""
    frequency = torch.fft.fftfreq(2 * side_px, 1 / (2 * side_px))
    radius = torch.hypot(frequency[:, None], frequency[None]).clamp(min=1)
    white = normal(num_images, num_channels, 2 * side_px, 2 * side_px)
    return torch.fft.ifft2(torch.fft.fft2(white) / radius).real[..., :side_px, :side_px]


def at_full_gain(network: TreeNetwork) -> TreeNetwork:
    """Give the silent convolutions of the blocks the gain that the expected variance counts on."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, ScaledStdConv2d):
                layer.gain[layer.gain == 0] = 1 / SILENT_GAIN_STEP
    return network


def variance_ratios(config: ModelConfig, num_channels: int, side_px: int) -> dict[str, float]:
    """Actual over expected variance around the blocks of each branch, mean over some weights."""
    num_levels, num_images, num_seeds = len(config.channels), 16, 12
    inputs: list[Tensor | None] = []  # all bands at unit mean square, as the denoiser scales them
    for z in haar_pyramid(like_photographs(num_images, num_channels, side_px), num_levels):
        bands = [band / band.square().mean().sqrt() for band in haar_split(z)]
        inputs.append(torch.cat(bands, dim=1))
    found: dict[str, float] = {}

    def add(name: str, features: Tensor, expected: float) -> None:
        found[name] = found.get(name, 0.0) + features.var().item() / expected / num_seeds

    def watch(blocks: nn.ModuleList, name: str, before: float, after: float) -> None:
        blocks[0].register_forward_pre_hook(
            lambda _, given: add(f"into {name}", given[0], before**2)
        )
        blocks[-1].register_forward_hook(lambda _, given, out: add(f"out of {name}", out, after**2))

    for seed in range(num_seeds):
        torch.manual_seed(seed)
        network = at_full_gain(TreeNetwork(config, num_channels, 0, side_px))
        for branch in network.branches():
            before = branch.encoded_std if branch.is_root else 1.0
            watch(branch.encoder, f"encoder {branch.level}", 1.0, branch.encoded_std)
            watch(branch.decoder, f"decoder {branch.level}", before, branch.output_std)
        none = torch.zeros(num_images, dtype=torch.int64)
        with torch.no_grad():
            network(inputs, torch.zeros(num_images), none, none)
    assert len(found) == 4 * num_levels
    return found


def of_usual_size(config: ModelConfig, channels: list[int]) -> ModelConfig:
    return config.model_copy(update={"channels": channels, "blocks_per_level": 2})


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("channels", [[64, 96], [64, 96, 96]])
def test_branches_of_a_new_tree_have_the_variance_expected(model, channels, num_channels: int):
    for name, ratio in variance_ratios(
        of_usual_size(model(has_cross_attention=False), channels), num_channels, 64
    ).items():
        assert 0.8 < ratio < 1.2, f"{name}: {ratio}"


@pytest.mark.parametrize("channels", [[64, 96], [64, 96, 96]])
def test_small_images_lose_no_more_to_the_blur_than_to_strides(model, channels):
    """Of 8 x 8 and 4 x 4 pixels, the zeros around them take variance at every convolution."""
    blurred, strided = (
        variance_ratios(
            of_usual_size(model(downsampling=name, has_cross_attention=False), channels), 1, 32
        )
        for name in ("blur", "strided")
    )
    for name, ratio in blurred.items():
        assert 0.9 * strided[name] < ratio < 1.2, f"{name}: {ratio}, strided {strided[name]}"


# --- what branches say to each other


def closed_ways_up(network: TreeNetwork) -> TreeNetwork:
    """Leave the tokens as the only way from the root to the finer branches."""
    with torch.no_grad():
        for branch in network.branches()[:-1]:
            branch.up.gain.zero_()
            branch.up.bias.zero_()
    return network


def gates(network: TreeNetwork) -> list[nn.Linear]:
    return [branch.context.gate for branch in network.branches()[:-1]]


def test_new_branches_look_at_no_tokens_of_the_root(model):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX)
    for gate in gates(network):
        assert gate.weight.abs().max() == 0
        assert gate.bias.abs().max() == 0


@pytest.mark.parametrize("is_open", [False, True])
def test_tokens_of_the_root_reach_every_finer_branch_through_the_gate(model, is_open: bool):
    network = closed_ways_up(woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX)))
    with torch.no_grad():
        for gate in gates(network):
            gate.weight.zero_()
            gate.bias.fill_(0.5 if is_open else 0.0)
    root_stem = network.branches()[-1].stem.weight
    for level in (0, 1):
        output = run(network, MIXED)[level].raw
        (gradient,) = torch.autograd.grad(output.square().mean(), root_stem)
        assert bool(gradient.any()) == is_open, f"level {level}"


def test_cross_attention_can_be_left_out(model):
    network = TreeNetwork(model(has_cross_attention=False), 1, NUM_CLASSES, SIZE_PX)
    assert [branch.context for branch in network.branches()[:-1]] == [None, None]


# --- windows


def test_a_window_cuts_cells():
    images = torch.arange(64).reshape(1, 1, 8, 8)
    cut = Window(top=1, left=2, side=2).of(images, 2)
    assert torch.equal(cut, images[..., 2:6, 4:8])


def test_a_window_of_everything_changes_nothing(model):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    whole = together(run(network))
    windowed = together(run(network, window=Window(0, 0, SIZE_PX // 4)))
    torch.testing.assert_close(windowed, whole, rtol=1e-4, atol=1e-5)


def test_a_window_computes_less_of_the_finest_branch_alone(model):
    network = woken(TreeNetwork(model(fine_crop_share=0.5), 1, NUM_CLASSES, SIZE_PX))
    images, window = normal(5, 1, SIZE_PX, SIZE_PX), Window(top=1, left=2, side=2)
    outputs = run(network, images=images, window=window)
    assert [tuple(output.raw.shape[2:]) for output in outputs] == [(4, 4), (4, 4), (2, 2)]

    def change_at(row: int, column: int) -> list[float]:
        other = images.clone()
        other[0, 0, row, column] += 3.0
        changed = run(network, images=other, window=window)
        pairs = zip(outputs, changed, strict=True)
        return [(one.raw[0] - two.raw[0]).abs().max().item() for one, two in pairs]

    assert min(change_at(5, 9)) > 1e-4, "inside the window"
    assert min(change_at(15, 0)) > 1e-6, "the coarser branches see the whole image"


def test_a_window_is_handed_down_and_taken_up_at_its_place(model):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    window, child = Window(top=1, left=2, side=2), network.branches()[1]
    with torch.no_grad():  # what the coarser branch sees comes from the finer one alone
        child.stem.gain.zero_()
        child.stem.bias.zero_()
    seen: dict[str, Tensor] = {}
    child.encoder[0].register_forward_pre_hook(lambda _m, args: seen.update(down=args[0]))
    child.register_forward_hook(lambda _m, _args, output: seen.update(coarse=output[0]))
    network.finest.up.register_forward_pre_hook(lambda _m, args: seen.update(up=args[0]))
    run(network, window=window)

    is_touched = seen["down"].abs().amax(dim=1) > 0
    expected = torch.zeros(3, 4, 4, dtype=torch.bool)
    expected[:2, 1:3, 2:4] = True  # of the two images that enter at level 0
    assert torch.equal(is_touched, expected)
    assert torch.equal(seen["up"], seen["coarse"][:2, :, 1:3, 2:4])


def test_windows_come_with_coordinates(model):
    seen: list[Tensor] = []
    network = woken(TreeNetwork(model(fine_crop_share=0.5), 1, NUM_CLASSES, SIZE_PX))
    network.finest.stem.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    run(network, window=Window(top=1, left=2, side=2))
    rows, columns = seen[0][0, -2], seen[0][0, -1]
    grid = torch.linspace(-1, 1, 8)
    assert torch.equal(rows, grid[2:6, None].expand(4, 4))
    assert torch.equal(columns, grid[None, 4:8].expand(4, 4))


# --- conditioning


def test_classes_matter_at_every_level(model):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    for level in range(NUM_LEVELS):
        one, other = (
            run(network, only(level), torch.tensor(labels)) for labels in ([0, 1], [0, 3])
        )
        first, second = zip(*(o.raw.flatten(1) for o in (one[0], other[0])), strict=True)
        assert torch.allclose(*first, atol=1e-6)
        assert not torch.allclose(*second, atol=1e-3)


def test_an_own_embedding_takes_the_place_of_a_class(model):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    labels = torch.tensor([0, 1, 3, 2, 1])
    of_labels = together(run(network, conditioning=labels))
    embedding = network.class_embedding(labels)
    same = together(run(network, conditioning=Conditioning(embedding)))
    other = together(run(network, conditioning=Conditioning(embedding + 0.3)))
    assert torch.equal(of_labels, same)
    assert not torch.allclose(of_labels, other, atol=1e-2)


def test_tokens_are_silent_at_first_and_then_heard_at_every_level(model):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX, TOKEN_CHANNELS)
    reader = network.branches()[-1].reader
    assert reader.gate.weight.abs().max() == reader.gate.bias.abs().max() == 0
    woken(network)
    labels = torch.zeros(5, dtype=torch.int64)
    tokens = normal(5, 7, TOKEN_CHANNELS)
    start = run(network, conditioning=Conditioning(labels, tokens))
    for token in (0, 6):
        other = tokens.clone()
        other[:, token] = 3 * other[:, token].flip(-1)
        changed = run(network, conditioning=Conditioning(labels, other))
        for before, after in zip(start, changed, strict=True):
            assert not torch.allclose(before.raw, after.raw, atol=1e-5)


def test_tokens_without_heads_are_read_by_one(model):
    config = model().model_copy(update={"attention_heads": 0})
    network = woken(TreeNetwork(config, 1, NUM_CLASSES, SIZE_PX, TOKEN_CHANNELS))
    assert network.branches()[-1].reader.num_heads == 1


def known_of(num_images: int, num_channels: int = 1) -> Tensor:
    """The left half of other images."""
    mask = torch.zeros(num_images, 1, SIZE_PX, SIZE_PX)
    mask[..., : SIZE_PX // 2] = 1
    return torch.cat([mask, mask * normal(num_images, num_channels, SIZE_PX, SIZE_PX, seed=5)], 1)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_mask_and_what_lies_behind_it_matter_at_every_level(model, num_channels: int):
    network = woken(TreeNetwork(model(), num_channels, NUM_CLASSES, SIZE_PX, has_mask=True))
    labels, known = torch.zeros(2, dtype=torch.int64), known_of(2, num_channels)
    less_mask, less_image = known.clone(), known.clone()
    less_mask[:, 0] = 0
    less_image[:, 1:] = 0
    for level in range(NUM_LEVELS):
        start, *others = (
            together(run(network, only(level), Conditioning(labels, known=each)))
            for each in (known, less_mask, less_image)
        )
        for other in others:
            assert not torch.allclose(start, other, atol=1e-2)


def test_what_is_known_is_split_like_the_image_in_units_of_the_mean_pixel(model):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX, has_mask=True))
    seen: list[Tensor] = []
    for branch in network.branches():
        branch.stem.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    known = known_of(5)
    run(network, MIXED, Conditioning(torch.zeros(5, dtype=torch.int64), known=known))
    for level, (stem_input, num_rows) in enumerate(zip(seen, (2, 3, 5), strict=True)):
        mean_pixel = nn.functional.avg_pool2d(known[:num_rows], 2**level)
        got = stem_input[:, 4:]
        assert got.shape[1] == 8
        expected = torch.cat(haar_split(mean_pixel), dim=1)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_conditioning_is_cut_by_images():
    whole = Conditioning(torch.arange(5), normal(5, 4, TOKEN_CHANNELS), known_of(5))
    rows = torch.tensor([3, 0])
    part = whole[rows]
    assert part.labels.tolist() == [3, 0]
    assert torch.equal(part.tokens, whole.tokens[rows])
    assert torch.equal(part.known, whole.known[rows])
    assert replace(whole, tokens=None, known=None)[1:3].tokens is None


LABELS = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("conditioning", "said"),
    [
        (LABELS[:1], r"labels should have shape \(2,\); got \(1,\)"),
        (Conditioning(normal(2, 5)), r"labels should have shape \(2, 16\); got \(2, 5\)"),
        (Conditioning(normal(1, EMBEDDING)), r"labels should have shape \(2, 16\); got \(1, 16\)"),
        (Conditioning(LABELS, normal(2, 4, 6)), "takes no tokens: .* without token_channels"),
        (Conditioning(LABELS, known=known_of(2)), "mask if and only if .* has_mask"),
    ],
)
def test_a_plain_tree_refuses_what_it_cannot_be_conditioned_on(model, conditioning, said: str):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX)
    with pytest.raises(ValueError, match=said):
        run(network, only(1), conditioning)


@pytest.mark.parametrize(
    ("conditioning", "said"),
    [
        (LABELS, "token_channels; it needs tokens"),
        (Conditioning(LABELS, normal(2, 4, 5)), r"tokens .* \(2, T, 6\); got \(2, 4, 5\)"),
        (Conditioning(LABELS, normal(1, 4, 6)), r"tokens .* \(2, T, 6\); got \(1, 4, 6\)"),
        (Conditioning(LABELS, normal(2, 6)), r"tokens .* \(2, T, 6\); got \(2, 6\)"),
    ],
)
def test_a_tree_that_reads_tokens_refuses_others(model, conditioning, said: str):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX, TOKEN_CHANNELS)
    with pytest.raises(ValueError, match=said):
        run(network, only(1), conditioning)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (None, "mask if and only if .* has_mask"),
        (known_of(1), r"known .* \(2, 2, 16, 16\); got \(1, 2, 16, 16\)"),
        (known_of(2)[:, :1], r"known .* \(2, 2, 16, 16\); got \(2, 1, 16, 16\)"),
        (known_of(2)[..., :8, :8], r"known .* \(2, 2, 16, 16\); got \(2, 2, 8, 8\)"),
    ],
)
def test_a_tree_with_a_mask_refuses_others(model, known, said: str):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX, has_mask=True)
    with pytest.raises(ValueError, match=said):
        run(network, only(1), Conditioning(LABELS, known=known))


def test_without_classes_the_only_label_is_none(model):
    network = woken(TreeNetwork(model(), 1, 0, SIZE_PX))
    assert together(run(network, only(0), LABELS)).isfinite().all()
    with pytest.raises(IndexError):
        run(network, only(0), LABELS + 1)


# --- what it measures


def numpy_bands(images: np.ndarray) -> list[float]:
    """Deviation of the details of each level, by the mean of 2 x 2 pixels."""
    found, coarse = [], images.astype(np.float64)
    for _ in range(NUM_LEVELS):
        a, b = coarse[..., ::2, ::2], coarse[..., ::2, 1::2]
        c, d = coarse[..., 1::2, ::2], coarse[..., 1::2, 1::2]
        details = np.stack([a - b + c - d, a + b - c - d, a - b - c + d]) / 2
        found.append(float(details.std()))
        coarse = (a + b + c + d) / 2
    return found


@pytest.mark.parametrize("is_uint8", [True, False])
def test_measures_the_bands_of_the_data(model, is_uint8: bool):
    network = TreeNetwork(model(), 3, NUM_CLASSES, SIZE_PX)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)
    pixels[..., :8] //= 2
    images = pixels / 127.5 - 1
    network.fit(torch.from_numpy(pixels) if is_uint8 else torch.from_numpy(images).float())
    assert network.band_std.tolist() == pytest.approx(numpy_bands(images), rel=1e-5)
    assert network.image_rms.item() == pytest.approx(np.sqrt((images**2).mean()), rel=1e-5)


def test_bands_without_any_detail_keep_a_scale(model):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX)
    network.fit(torch.full((2, 1, SIZE_PX, SIZE_PX), 0.5))
    assert network.band_std.tolist() == pytest.approx([LEAST_STD] * NUM_LEVELS)
    assert network.image_rms.item() == pytest.approx(0.5)


def test_what_was_measured_travels_with_the_weights(model):
    network = woken(TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX))
    network.fit(normal(4, 1, SIZE_PX, SIZE_PX))
    torch.manual_seed(5)
    other = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX)
    assert not torch.allclose(other.band_std, network.band_std)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.band_std, network.band_std)
    assert torch.equal(other.image_rms, network.image_rms)
    assert torch.equal(together(run(other)), together(run(network)))


@pytest.mark.parametrize("changes", [{}, {"normalisation": "pixel", "channel_attention": "cbam"}])
def test_a_folded_tree_gives_the_same(model, changes):
    network = woken(TreeNetwork(model(**changes), 1, NUM_CLASSES, SIZE_PX, TOKEN_CHANNELS))
    folded = fold(network)
    assert isinstance(folded, TreeNetwork)
    assert not any(isinstance(layer, ScaledStdConv2d) for layer in folded.modules())
    conditioning = Conditioning(torch.arange(5) % 3, normal(5, 4, TOKEN_CHANNELS))
    for level, (one, other) in enumerate(
        zip(run(network, MIXED, conditioning), run(folded, MIXED, conditioning), strict=True)
    ):
        scale = one.raw.abs().max()
        assert (one.raw - other.raw).abs().max() <= 1e-6 * scale, f"level {level}"


# --- what does not fit


@pytest.mark.parametrize("size_px", [0, 4, 12, 15, 17, 28])
def test_refuses_a_size_that_cannot_be_halved_at_every_level(model, size_px: int):
    with pytest.raises(ValueError, match=rf"multiple of 8 \(2 per level.*got {size_px}"):
        TreeNetwork(model(), 1, NUM_CLASSES, size_px)


def test_refuses_more_levels_than_the_image_has_pixels(model):
    config = model().model_copy(update={"channels": [8] * 5})
    with pytest.raises(ValueError, match=r"multiple of 32 .*got 16"):
        TreeNetwork(config, 1, NUM_CLASSES, 16)


def test_refuses_settings_without_their_block(model):
    config = model().model_copy(update={"tree": None})
    with pytest.raises(ValueError, match=r"needs the block train\.model\.tree"):
        TreeNetwork(config, 1, NUM_CLASSES, SIZE_PX)


def test_refuses_a_branch_without_images(model):
    network = TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX)
    with pytest.raises(ValueError, match="enters at level 0 or above"):
        network.finest([None, None, None], torch.zeros(0, EMBEDDING))


def test_the_same_seed_gives_the_same_tree(model):
    def weights() -> dict[str, Tensor]:
        torch.manual_seed(11)
        return TreeNetwork(model(), 1, NUM_CLASSES, SIZE_PX).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)
