"""The figures of a tree against independent arithmetic, and its pictures against what they say."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vivero.config.schema import Config
from vivero.diffusion.haar import haar_pool, haar_split
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.schedules import KarrasSchedule
from vivero.diffusion.tree_denoiser import Bands, BranchOutput, TreeDenoiser
from vivero.evaluation.denoising import NoiseBank
from vivero.evaluation.tree_anatomy import (
    BranchFigures,
    Look,
    Sampling,
    band_figures,
    branch_figures,
    descent,
    fusion_figures,
    handover_figures,
    noisy_view,
    relative_sampling_cost,
    training_sigmas,
)
from vivero.evaluation.tree_pictures import (
    chosen_looks,
    draw_bands,
    draw_branches,
    draw_denoising,
    draw_descent,
    draw_fusion,
)
from vivero.models.denoisers import build_denoiser
from vivero.models.tree import TreeNetwork

SHAPE = (1, 8, 8)
SCHEDULE = KarrasSchedule(0.01, 80.0, -0.6, 1.2)


def smooth_images(num_images: int, side_px: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(num_images, 1, side_px // 2, side_px // 2, generator=generator) - 0.5
    fine = 0.1 * torch.randn(num_images, 1, side_px, side_px, generator=generator)
    return coarse.repeat_interleave(2, 2).repeat_interleave(2, 3) + fine


def rms(values: Tensor) -> float:
    return values.detach().square().mean().sqrt().item()


def bank_of(clean: Tensor, sigmas: list[float]) -> NoiseBank:
    return NoiseBank(clean, torch.zeros(len(clean)).long(), torch.tensor(sigmas), seed=0)


def sampling_of(**changes: Any) -> Sampling:
    sampling = Sampling(SCHEDULE.sampling_sigmas(6), 1.5, (0.15, 15.0), torch.tensor([0, 1]), 0)
    return replace(sampling, **changes)


def tree_of(network: Callable[..., list[BranchOutput]], threshold: float | None = 4.0):
    """A tree of two levels over 8 x 8 pixels with raw outputs of one's own."""
    return TreeDenoiser(
        network=network,
        scheduler=NoiseScheduler(SCHEDULE, (0.2,), threshold),
        bands=Bands((0.2, 0.5), (1.0, 2.0)),
        parameterisation="clean",
        is_fused=True,
        null_label=2,
    )


def silent(logit: float, log_residual: float = 0.0) -> Callable[..., list[BranchOutput]]:
    """Branches that say nothing, so that each band is its skip, with one fusion logit."""

    def network(images: list[Tensor | None], *_: object) -> list[BranchOutput]:
        outputs = []
        for level, image in enumerate(images):
            if image is None:
                continue
            num_out = 5 if level == 0 else 4 + 12
            raw = torch.zeros(len(image), num_out, *image.shape[2:])
            if level == 0:
                raw[:, 4] = logit
            outputs.append(BranchOutput(raw, torch.full((3,), log_residual) if level else None))
        return outputs

    return network


@pytest.fixture
def trained_like(config_factory: Callable[..., Config]) -> TreeDenoiser:
    """A small real network whose weights are all at work."""
    config = config_factory({"train.model.name": "tree"})
    torch.manual_seed(0)
    network = TreeNetwork(config.train.model, 1, 2, 8).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    network.fit(smooth_images(20))
    tree = build_denoiser(network, config.train.model, config.train.diffusion, 2)
    assert isinstance(tree, TreeDenoiser)
    return tree


def test_band_deviations_are_those_of_plain_differences():
    images = smooth_images(5)
    pixels = images.double().numpy()[:, 0]
    a, b = pixels[:, ::2, ::2], pixels[:, ::2, 1::2]
    c, d = pixels[:, 1::2, ::2], pixels[:, 1::2, 1::2]
    first, second = band_figures(images, 2)
    assert first.horizontal_std == pytest.approx(((a - b + c - d) / 2).std(), rel=1e-5)
    assert first.vertical_std == pytest.approx(((a + b - c - d) / 2).std(), rel=1e-5)
    assert first.diagonal_std == pytest.approx(((a - b - c + d) / 2).std(), rel=1e-5)
    assert first.coarse_std == pytest.approx(((a + b + c + d) / 2).std(), rel=1e-5)
    assert (first.side_px, second.side_px) == (8, 4)
    assert second.image_std == first.coarse_std


def test_bands_are_what_the_scheduler_measures():
    images = smooth_images(30)
    fitted = NoiseScheduler(SCHEDULE, (), None).fit(images, 3)
    found = [band.details_std for band in band_figures(images, 2)]
    assert found == pytest.approx(fitted.band_std, rel=1e-5)


def test_shares_of_training_follow_the_normal_distribution(trained_like: TreeDenoiser):
    finest, root = branch_figures(trained_like, sampling_of(), SHAPE)
    bound = 4 * trained_like.scheduler.band_std[0]  # the threshold of params.yaml
    below = 0.5 * (1 + math.erf((math.log(bound) + 0.6) / 1.2 / math.sqrt(2)))
    assert finest.share_of_training == pytest.approx(below, abs=1e-3)
    assert finest.share_of_training + root.share_of_training == pytest.approx(1)
    assert finest.up_to_sigma == root.above_sigma == pytest.approx(bound)
    sigmas = sampling_of().sigmas[:-1]
    assert finest.num_steps == int((sigmas <= bound).sum())
    assert finest.num_steps + root.num_steps == len(sigmas)


def test_guided_steps_count_twice(trained_like: TreeDenoiser):
    guided = branch_figures(trained_like, sampling_of(), SHAPE)
    plain = branch_figures(trained_like, sampling_of(guidance=1.0), SHAPE)
    inside = [s for s in sampling_of().sigmas[:-1].tolist() if 0.15 <= s <= 15]
    assert sum(b.num_passes for b in guided) == 6 + len(inside)
    assert [b.num_passes for b in plain] == [b.num_steps for b in plain]


def test_multiplications_are_those_of_every_convolution(trained_like: TreeDenoiser):
    counted = [0]

    def count(module: torch.nn.Conv2d, _: object, output: Tensor) -> None:
        counted[0] += output.numel() * module.weight[0].numel()

    network = trained_like.network
    assert isinstance(network, torch.nn.Module)
    finest, root = branch_figures(trained_like, sampling_of(), SHAPE)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    by_hand = []
    for level in range(2):
        counted[0] = 0
        noisy = torch.zeros(1, 1, 8 >> level, 8 >> level)
        trained_like.at_level(noisy, torch.ones(1), torch.tensor([0]), level)
        by_hand.append(counted[0])
    # embeddings, attention and blurs come on top
    assert by_hand[0] < finest.macs < 2 * by_hand[0]
    assert by_hand[1] < root.macs < 2 * by_hand[1]
    assert root.macs < finest.macs
    assert finest.ms_per_image > 0


def branch(level: int, num_passes: int, macs: int) -> BranchFigures:
    return BranchFigures(level, 8 >> level, 0.0, 1.0, 0.5, num_passes, num_passes, macs, 1.0)


def test_the_cost_of_sampling_is_that_of_its_passes():
    assert relative_sampling_cost([branch(0, 2, 100), branch(1, 6, 25)]) == pytest.approx(350 / 800)


@pytest.mark.parametrize("logit", [-1.0, 3.0])
def test_fusion_figures_of_a_known_mixture(logit: float):
    clean, sigma = smooth_images(4), 0.3
    bank = bank_of(clean, [sigma])
    calls: list[int] = []
    (found,) = fusion_figures(tree_of(silent(logit)), bank, lambda: calls.append(1))
    share = 1 / (1 + math.exp(-(logit + 2)))
    coarse = haar_pool(clean)
    noisy = coarse + sigma * haar_pool(bank.noise(0))
    own = noisy / (1 + sigma**2)  # the skip of deviation 1
    rooted, details = haar_split(noisy)
    below = [band * s**2 / (s**2 + sigma**2) for band, s in ((rooted, 2.0), (details, 0.5))]
    truth = haar_split(coarse)
    parts = zip(below, truth, haar_split(own), strict=True)
    gaps = [(own_part - band, true - band) for band, true, own_part in parts]
    gap, missing = (torch.cat([pair[k].flatten() for pair in gaps]) for k in (0, 1))
    assert found.weight == pytest.approx(share, rel=1e-5)
    assert found.low == pytest.approx(found.high)
    assert found.own_error == pytest.approx(rms(own - coarse) / 2, rel=1e-4)
    assert found.coarser_error == pytest.approx(rms(missing) / 2, rel=1e-4)
    assert found.fused_error == pytest.approx(rms(share * gap - missing) / 2, rel=1e-4)
    assert found.best == pytest.approx(float(gap @ missing / (gap @ gap)), rel=1e-4)
    assert calls == [1]


def test_asleep_or_unfused_branches_are_not_mixed():
    tree, bank = tree_of(silent(0.0)), bank_of(smooth_images(2), [2.0])
    assert fusion_figures(tree, bank, lambda: None) == []
    unfused = replace(tree, is_fused=False)
    assert fusion_figures(unfused, bank_of(smooth_images(2), [0.3]), lambda: None) == []


def test_a_branch_that_foresees_nothing_leaves_all_of_the_variance():
    clean = smooth_images(150)  # more than one batch
    clean[..., ::2] += 0.4  # so that the details have a mean, and more than all of it stays
    bank = bank_of(clean, [1.0])
    (found,) = handover_figures(tree_of(silent(0.0, log_residual=-0.5)), bank)
    assert (found.level, found.sigma) == (1, pytest.approx(0.8))
    _, details = haar_split(bank.clean)
    assert found.unforeseen_share == pytest.approx(
        float(details.square().mean() / details.var(correction=0)), rel=1e-4
    )
    assert found.expected_share == pytest.approx(math.exp(-0.5))
    assert handover_figures(tree_of(silent(0.0), threshold=None), bank) == []


def test_a_view_shows_what_sleeps_and_what_is_answered(trained_like: TreeDenoiser):
    bank = bank_of(smooth_images(3), [0.05, 30.0])
    quiet, loud = (noisy_view(trained_like, bank, 1, level) for level in (0, 1))
    assert (quiet.level, loud.level) == (0, 1)
    assert loud.branches[0] is None
    finest, root = quiet.branches
    assert finest is not None
    assert root is not None
    assert torch.equal(finest.seen, quiet.noisy)
    mean = quiet.noisy.reshape(1, 4, 2, 4, 2).mean(dim=(2, 4))
    assert torch.allclose(root.seen, mean, atol=1e-6)
    denoised = trained_like(quiet.noisy[None], torch.tensor([0.05]), bank.labels[1:2])
    assert torch.allclose(quiet.answer, denoised[0], atol=1e-5)
    assert quiet.error == pytest.approx(rms(denoised[0] - bank.clean[1]), rel=1e-4)


def test_what_a_branch_says_is_its_own_before_the_mixture():
    bank = bank_of(smooth_images(2), [0.3])
    trusting, doubting = (noisy_view(tree_of(silent(logit)), bank, 0, 0) for logit in (9.0, -9.0))
    assert trusting.branches[0] is not None
    assert doubting.branches[0] is not None
    assert torch.allclose(trusting.branches[0].said, doubting.branches[0].said, atol=1e-6)
    assert not torch.allclose(trusting.answer, doubting.answer, atol=1e-3)


def test_a_descent_keeps_every_step_in_mean_pixels(trained_like: TreeDenoiser):
    sampling = sampling_of()
    found = descent(trained_like, sampling, SHAPE)
    assert [look.sigma for look in found.looks] == pytest.approx(sampling.sigmas[:-1].tolist())
    levels = [trained_like.scheduler.level_of(s) for s in sampling.sigmas[:-1].tolist()]
    assert [look.level for look in found.looks] == levels
    assert found.looks[0].state.shape == (2, 1, 4, 4)
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    start = 80 * haar_pool(noise) / 2
    assert torch.allclose(found.looks[0].state, start, rtol=1e-4)
    again = descent(trained_like, replace(sampling, seed=1), SHAPE)
    assert not torch.equal(found.images, again.images)


def look_at(index: int, level: int) -> Look:
    return Look(float(100 - index), level, torch.zeros(1), torch.zeros(1))


def test_chosen_looks_keep_the_ends_and_both_sides_of_a_descent():
    looks = [look_at(index, 1 if index < 11 else 0) for index in range(18)]
    chosen = [int(100 - look.sigma) for look in chosen_looks(looks, 6)]
    assert len(chosen) == 6
    assert chosen == sorted(chosen)
    assert {0, 10, 11, 17} <= set(chosen)
    assert chosen_looks(looks[:3], 6) == looks[:3]


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_pictures_are_drawn_on_white_and_show_their_images(
    trained_like: TreeDenoiser, tmp_path: Path
):
    clean = smooth_images(2)
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(2, 3, 8, 8)
    draw_bands(red, band_figures(red, 2), tmp_path / "bands.png")
    shown = pixels_of(tmp_path / "bands.png")
    assert (shown == [255, 0, 0]).all(axis=2).sum() > 3 * 2 * 64**2  # three levels of two images

    branches, sampling = branch_figures(trained_like, sampling_of(), SHAPE), sampling_of()
    drawn = training_sigmas(trained_like.scheduler)
    draw_branches(branches, drawn, sampling.sigmas, tmp_path / "branches.png")
    fusion = fusion_figures(trained_like, bank_of(clean, [0.05, 0.1]), lambda: None)
    draw_fusion(fusion, 2, tmp_path / "fusion.png")
    bank = bank_of(clean, [0.05, 30.0])
    views = [noisy_view(trained_like, bank, 0, level) for level in range(2)]
    draw_denoising(clean[0], views, tmp_path / "denoising.png")
    asleep = (pixels_of(tmp_path / "denoising.png") == 0xF2).all(axis=2).sum()
    assert asleep > 2 * 100**2
    draw_descent(descent(trained_like, sampling, SHAPE), ["one", "two"], tmp_path / "descent.png")
    for path in tmp_path.iterdir():
        picture = pixels_of(path)
        assert picture[0, 0].tolist() == [255, 255, 255]
        assert picture.shape[1] <= 1050
        assert (picture < 100).any()


def test_a_tree_without_thresholds_can_be_drawn(trained_like: TreeDenoiser, tmp_path: Path):
    scheduler = replace(trained_like.scheduler, threshold=None)
    tree = replace(trained_like, scheduler=scheduler)
    finest, root = branch_figures(tree, sampling_of(), SHAPE)
    assert (finest.share_of_training, root.num_steps) == (1.0, 0)
    drawn = training_sigmas(scheduler)
    draw_branches([finest, root], drawn, sampling_of().sigmas, tmp_path / "branches.png")
    assert (tmp_path / "branches.png").is_file()
