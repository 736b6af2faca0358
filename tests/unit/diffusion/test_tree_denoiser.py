"""The reading of a tree, over branches whose raw outputs are written by hand.

For images whose Haar coefficients are independent and Gaussian a network that says nothing, and
trusts the coarser branch, is the exact posterior mean: every band is shrunk by its own gain.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from vivero.diffusion.generation import GenerationSpec, generate
from vivero.diffusion.guidance import Guided, GuidedTree
from vivero.diffusion.haar import haar_join, haar_pool, haar_pyramid, haar_split
from vivero.diffusion.hierarchical import sample_hierarchical
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.preconditioning import coefficients_of
from vivero.diffusion.samplers import SAMPLERS, sample_dpm_solver_pp_2m
from vivero.diffusion.schedules import KarrasSchedule
from vivero.diffusion.tree_denoiser import (
    FUSION_START,
    Bands,
    BranchOutput,
    TreeDenoiser,
    bands_of,
)
from vivero.diffusion.weights import edm_weight
from vivero.models.tree import Window

KARRAS = KarrasSchedule(0.002, 80.0, log_sigma_mean=-1.2, log_sigma_std=1.2)
DETAIL_STD, ROOT_STD = (0.158, 0.391, 0.858), 3.0  # of level 0, 1 and 2, and what is left
BANDS = Bands(DETAIL_STD, (1.3, 2.0, ROOT_STD))
NUM_LEVELS, NULL_LABEL = 3, 2
NEVER = -1e4  # logit of a branch that leaves all to the coarser one
EDGES = (0.316, 0.782)  # thresholds of SCHEDULER
SCHEDULER = NoiseScheduler(KARRAS, DETAIL_STD[:2], threshold=2.0)

Say = Callable[[int, Tensor], Tensor]  # level, split images (n, 4C, h, w) to raw output


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def num_outputs(level: int, num_channels: int) -> int:
    return 4 * num_channels + (level < NUM_LEVELS - 1) + 12 * num_channels * (level > 0)


@dataclass
class Branches:
    """A network by hand; it remembers what it was shown."""

    fusion_logit: float = 0.0
    value: float = 0.0
    log_residual: tuple[float, ...] = (0.0, 0.0, 0.0)
    say: Callable[[int, Tensor], None] | None = None
    calls: list[tuple[Sequence[Tensor | None], Tensor, Tensor, Tensor]] = field(
        default_factory=list
    )

    def __call__(
        self,
        images: Sequence[Tensor | None],
        noise_condition: Tensor,
        labels: Tensor,
        levels: Tensor,
        window: Window | None = None,
    ) -> list[BranchOutput]:
        self.calls.append((images, noise_condition, labels, levels))
        outputs = []
        for level, image in enumerate(images):
            if image is None:
                continue
            num_channels = image.shape[1] // 4
            if window is not None and level == 0:
                image = window.of(image, 2)
            size = (len(image), num_outputs(level, num_channels), *image.shape[2:])
            raw = torch.full(size, self.value, dtype=image.dtype)
            if level < NUM_LEVELS - 1:
                raw[:, 4 * num_channels] = self.fusion_logit
            if self.say is not None:
                self.say(level, raw)
            residual = torch.tensor(self.log_residual, dtype=image.dtype)
            outputs.append(BranchOutput(raw, residual.repeat(num_channels) if level else None))
        return outputs


def tree_of(network: Branches | None = None, **changes) -> TreeDenoiser:
    network = Branches() if network is None else network
    plain = TreeDenoiser(network, SCHEDULER, BANDS, "clean", is_fused=True, null_label=NULL_LABEL)
    return replace(plain, **changes)


def exact_tree(threshold: float | None = 2.0) -> TreeDenoiser:
    """The posterior mean of images whose Haar coefficients are independent and Gaussian."""
    scheduler = NoiseScheduler(KARRAS, DETAIL_STD[:2], threshold)
    return tree_of(Branches(fusion_logit=NEVER), scheduler=scheduler)


def posterior_mean(noisy: Tensor, sigma: Tensor) -> Tensor:
    """The same by hand: every band times std^2 / (std^2 + sigma^2)."""
    variance = sigma[:, None, None, None] ** 2
    coarse, details = noisy, []
    for std in DETAIL_STD:
        coarse, band = haar_split(coarse)
        details.append(std**2 / (std**2 + variance) * band)
    clean = ROOT_STD**2 / (ROOT_STD**2 + variance) * coarse
    for band in reversed(details):
        clean = haar_join(clean, band)
    return clean


def labels_of(num_images: int) -> Tensor:
    return torch.arange(num_images) % (NULL_LABEL + 1)


def predicted(tree: TreeDenoiser, noisy: Tensor, sigma: float, level: int = 0):
    """What the branches say of images that enter at one level."""
    states = [noisy if each == level else noisy[:0] for each in range(NUM_LEVELS)]
    sigmas = torch.full((len(noisy),), sigma, dtype=noisy.dtype)
    return tree.predict(states, sigmas, labels_of(len(noisy)))


# --- the scales of the data


def test_coarse_scales_are_what_the_details_leave_of_the_energy():
    images = normal(20, 1, 16, 16) + 0.3
    stds, rms, coarse = [], [], images
    for _ in range(NUM_LEVELS):
        coarse, details = haar_split(coarse)
        stds.append(details.square().mean().sqrt().item())
        rms.append(coarse.square().mean().sqrt().item())
    bands = bands_of(stds, images.square().mean().sqrt().item())
    assert bands.detail_std == tuple(stds)
    assert bands.coarse_rms == pytest.approx(rms, rel=1e-9)


def test_no_coarse_scale_is_below_that_of_its_details():
    bands = bands_of([0.5, 0.5], image_rms=0.1)
    assert bands.coarse_rms == (0.5, 0.5)


# --- every band by its own scale


@pytest.mark.parametrize("parameterisation", ["noise", "velocity", "clean"])
def test_each_band_is_shown_at_unit_variance(parameterisation):
    network = Branches()
    for sigma in (0.05, 0.5, 5.0):
        coarse = math.hypot(BANDS.coarse_rms[0], sigma) * normal(500, 1, 4, 4)
        details = math.hypot(DETAIL_STD[0], sigma) * normal(500, 3, 4, 4, seed=1)
        tree = tree_of(network, parameterisation=parameterisation)
        predicted(tree, haar_join(coarse, details), sigma)
        (image, *_), noise_condition, *_ = network.calls[-1]
        assert image is not None
        assert image[:, :1].std().item() == pytest.approx(1, abs=0.03)
        assert image[:, 1:].std().item() == pytest.approx(1, abs=0.03)
        assert noise_condition[0].item() == pytest.approx(math.log(sigma) / 4)


def read_by_hand(parameterisation: str, noisy: Tensor, said: float, sigma: float, std: float):
    """What a network that says one number everywhere means, in units of the band."""
    noisy, sigma = noisy / std, sigma / std
    if parameterisation == "noise":
        return std * (noisy - sigma * said)
    # v = cos * noise - sin * clean, and noisy = clean + sigma * noise, with tan = sigma
    angle = math.atan(sigma)
    if parameterisation == "velocity":
        return std * (math.cos(angle) ** 2 * noisy - math.sin(angle) * said)
    return std * (noisy + sigma * math.hypot(1, sigma) * said) / (1 + sigma**2)


@pytest.mark.parametrize("sigma", [0.05, 0.4, 5.0])
@pytest.mark.parametrize("level", range(NUM_LEVELS))
@pytest.mark.parametrize("parameterisation", ["noise", "velocity", "clean"])
@pytest.mark.parametrize("said", [0.0, 0.3])
def test_each_band_is_read_by_its_own_scale(
    parameterisation, level: int, sigma: float, said: float
):
    tree = tree_of(Branches(value=said), is_fused=False, parameterisation=parameterisation)
    noisy = normal(2, 1, 8, 8)
    branch = predicted(tree, noisy, sigma, level)[level]
    for noisy_band, band, std in zip(
        haar_split(noisy),
        haar_split(branch.clean),
        (BANDS.coarse_rms[level], DETAIL_STD[level]),
        strict=True,
    ):
        by_hand = read_by_hand(parameterisation, noisy_band, said, sigma, std)
        torch.testing.assert_close(band, by_hand)
        if not said and parameterisation != "noise":  # the mean of a Gaussian posterior
            torch.testing.assert_close(band, std**2 / (std**2 + sigma**2) * noisy_band)
    torch.testing.assert_close(branch.own_coarse, haar_pool(branch.clean))


def test_in_much_noise_only_the_network_speaks_and_in_none_only_the_image():
    noisy = normal(2, 1, 16, 16)
    tree = tree_of(Branches(value=0.5), is_fused=False)
    much = predicted(tree, 1e4 * noisy, 1e4)[0]
    coarse, details = haar_split(much.clean)
    torch.testing.assert_close(
        coarse, torch.full_like(coarse, 0.5 * BANDS.coarse_rms[0]), rtol=0, atol=2e-3
    )
    torch.testing.assert_close(
        details, torch.full_like(details, 0.5 * DETAIL_STD[0]), rtol=0, atol=2e-3
    )
    little = predicted(tree, noisy, 1e-5)[0]
    torch.testing.assert_close(little.clean, noisy, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 80.0])
def test_the_weighted_error_of_each_band_is_that_of_the_raw_output(sigma: float):
    """So the loss is finite and of one size at all noise: weight * out^2 = 1."""
    noisy = normal(2, 1, 8, 8)
    one, other = (
        predicted(tree_of(Branches(value=value), is_fused=False), noisy, sigma)[0].clean
        for value in (0.0, 0.7)
    )
    for gap, std in zip(haar_split(other - one), (BANDS.coarse_rms[0], DETAIL_STD[0]), strict=True):
        weight = edm_weight(torch.tensor(sigma, dtype=torch.float64), std)
        error = (weight * gap.square().mean()).item()
        assert error == pytest.approx(0.7**2, rel=1e-6)


# --- what each image is routed to


def test_each_image_is_seen_from_the_level_its_noise_names():
    network = Branches()
    tree = tree_of(network)
    sigma = torch.tensor([2.0, 0.1, 0.5, EDGES[0] + 1e-3, EDGES[0] - 1e-3]).double()
    noisy, labels = normal(5, 1, 16, 16), torch.tensor([0, 1, 2, 1, 0])
    tree(noisy, sigma, labels)
    images, noise_condition, seen_labels, levels = network.calls[0]
    order = [1, 4, 2, 3, 0]  # the finest first, otherwise as they came
    assert levels.tolist() == [0, 0, 1, 1, 2]
    assert seen_labels.tolist() == labels[order].tolist()
    torch.testing.assert_close(noise_condition, sigma[order].log() / 4)
    assert [None if image is None else len(image) for image in images] == [2, 4, 5]
    root = haar_pyramid(noisy[order], 4)[3]
    into = (BANDS.coarse_rms[2] ** 2 + sigma[order] ** 2).rsqrt()
    torch.testing.assert_close(images[2][:, :1], into[:, None, None, None] * root)


def test_levels_that_no_image_needs_are_not_looked_at():
    network = Branches()
    tree_of(network)(normal(2, 1, 16, 16), torch.tensor([2.0, 9.0]).double(), labels_of(2))
    assert [image is None for image in network.calls[0][0]] == [True, True, False]


def test_images_come_back_in_their_order_and_do_not_mix():
    tree = exact_tree()
    sigma = torch.tensor([2.0, 0.1, 0.5, 30.0, 0.2]).double()
    noisy = normal(5, 1, 16, 16)
    together = tree(noisy, sigma, labels_of(5))
    for row in range(5):
        rows = slice(row, row + 1)
        alone = tree(noisy[rows], sigma[rows], labels_of(5)[rows])
        torch.testing.assert_close(together[rows], alone)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_single_precision_stays_single_precision(num_channels: int):
    denoised = exact_tree()(
        normal(3, num_channels, 16, 16).float(), torch.tensor([0.1, 0.5, 2.0]), labels_of(3)
    )
    assert denoised.dtype == torch.float32
    assert denoised.shape == (3, num_channels, 16, 16)


# --- what a level does not see


@pytest.mark.parametrize("threshold", [None, 4.0, 2.0, 0.01])
def test_unseen_details_are_the_mean_of_their_gaussian_posterior(threshold: float | None):
    """Independent Gaussian bands lose nothing by being filled in: no threshold shows."""
    sigma = torch.tensor([0.01, 0.3, 0.6, 1.5, 40.0]).double()
    noisy = normal(5, 1, 16, 16) * (1 + sigma)[:, None, None, None]
    denoised = exact_tree(threshold)(noisy, sigma, labels_of(5))
    torch.testing.assert_close(denoised, posterior_mean(noisy, sigma))


def test_details_that_are_foreseen_are_weighed_against_what_is_seen():
    def foresee(level: int, raw: Tensor) -> None:
        if level == 1:
            raw[:, -12:] = 0.25

    residual = (math.log(0.1), math.log(0.4), math.log(0.9))
    tree = tree_of(Branches(log_residual=residual, say=foresee))
    noisy, sigma = normal(2, 1, 16, 16), torch.tensor([0.4, 0.6]).double()
    denoised = tree(noisy, sigma, labels_of(2))
    coarse, noisy_details = haar_split(noisy)
    estimate = tree.at_level(coarse, sigma, labels_of(2), 1)
    expected = DETAIL_STD[0] * haar_join(
        torch.full((2, 3, 4, 4), 0.25).double(), torch.full((2, 9, 4, 4), 0.25).double()
    )
    torch.testing.assert_close(estimate.details, expected)

    got_coarse, got = haar_split(denoised)
    torch.testing.assert_close(got_coarse, estimate.clean)
    for band, share in enumerate((0.1, 0.4, 0.9)):
        variance = share * DETAIL_STD[0] ** 2
        gain = (variance / (variance + sigma**2))[:, None, None]
        mean = expected[:, band] + gain * (noisy_details[:, band] - expected[:, band])
        torch.testing.assert_close(got[:, band], mean)


def test_a_naive_hand_over_forgets_what_was_foreseen():
    def foresee(level: int, raw: Tensor) -> None:
        if level:
            raw[:, -12:] = 0.25

    aware = tree_of(Branches(log_residual=(-1.0, -1.0, -1.0), say=foresee))
    naive = replace(aware, is_naive=True)
    noisy, sigma = normal(2, 1, 8, 8), torch.full((2,), 0.5).double()
    one, other = (tree.at_level(noisy, sigma, labels_of(2), 1) for tree in (aware, naive))
    torch.testing.assert_close(one.clean, other.clean)
    assert one.details.abs().max() > 0.05
    assert other.details.abs().max() == 0
    ratio = math.exp(-0.5)
    torch.testing.assert_close(one.details_std, other.details_std * ratio)
    assert other.details_std.flatten().tolist() == pytest.approx([DETAIL_STD[0]] * 3)
    full, labels = normal(2, 1, 16, 16), labels_of(2)
    assert not torch.allclose(aware(full, sigma, labels), naive(full, sigma, labels), atol=1e-3)


# --- the fusion


def saying(level: int, own_coarse: Tensor, noisy: Tensor, sigma: float, raw: Tensor) -> None:
    """Write the raw output that makes a branch see a given coarse half."""
    noisy_coarse = haar_pyramid(noisy, level + 2)[-1]
    scale = coefficients_of(
        "clean", torch.tensor(sigma, dtype=torch.float64), BANDS.coarse_rms[level]
    )
    raw[:, :1] = (own_coarse - scale.skip * noisy_coarse) / scale.out


def test_the_best_mix_of_two_independent_estimates_is_theirs_by_inverse_variance():
    truth = normal(400, 1, 2, 2)
    of_fine, of_coarse = 0.3, 0.2
    fine = truth + of_fine * normal(400, 1, 2, 2, seed=1)
    coarse = truth + of_coarse * normal(400, 1, 2, 2, seed=2)
    noisy, sigma = normal(400, 1, 8, 8, seed=3), 0.2  # level 1 is 4 x 4, its coarse half 2 x 2
    best_logit = math.log(of_coarse**2 / of_fine**2)

    def fused(logit: float) -> Tensor:
        def say(level: int, raw: Tensor) -> None:
            if level == 1:
                saying(1, fine, noisy, sigma, raw)
                raw[:, 4] = logit - FUSION_START
            if level == 2:  # its clean image is the coarse half of level 1
                own_coarse, details = haar_split(coarse)
                saying(2, own_coarse, noisy, sigma, raw)
                noisy_details = haar_split(haar_pyramid(noisy, 3)[2])[1]
                scale = coefficients_of("clean", torch.tensor(sigma).double(), DETAIL_STD[2])
                raw[:, 1:4] = (details - scale.skip * noisy_details) / scale.out

        branches = predicted(tree_of(Branches(say=say)), noisy, sigma)
        torch.testing.assert_close(branches[2].clean, coarse)
        torch.testing.assert_close(branches[1].own_coarse, fine)
        return haar_pool(branches[1].clean)

    by_hand = (fine / of_fine**2 + coarse / of_coarse**2) / (1 / of_fine**2 + 1 / of_coarse**2)
    best = fused(best_logit)
    torch.testing.assert_close(best, by_hand)
    errors = [(fused(best_logit + shift) - truth).square().mean().item() for shift in (-1, 0, 1)]
    assert errors[1] < min(errors[0], errors[2])
    assert errors[1] == pytest.approx(1 / (1 / of_fine**2 + 1 / of_coarse**2), rel=0.1)


@pytest.mark.parametrize("logit", [-9.0, 0.0, 9.0])
def test_weights_sum_to_one_and_leave_the_details_alone(logit: float):
    noisy, sigma = normal(3, 1, 16, 16), 0.2
    fused = predicted(tree_of(Branches(fusion_logit=logit, value=0.2)), noisy, sigma)
    alone = predicted(tree_of(Branches(value=0.2), is_fused=False), noisy, sigma)
    for level in (0, 1):
        branch, own = fused[level], alone[level]
        weight = branch.fusion_weight
        assert torch.equal(weight, torch.sigmoid(torch.full_like(weight, logit + FUSION_START)))
        coarse, details = haar_split(branch.clean)
        torch.testing.assert_close(details, haar_split(own.clean)[1])
        torch.testing.assert_close(branch.own_coarse, own.own_coarse)
        torch.testing.assert_close(
            coarse, weight * branch.own_coarse + (1 - weight) * fused[level + 1].clean
        )
    assert fused[2].fusion_weight is None


def test_a_new_branch_trusts_itself_most():
    branches = predicted(tree_of(), normal(1, 1, 16, 16), 0.2)
    weight = branches[0].fusion_weight
    torch.testing.assert_close(weight, torch.full_like(weight, 0.8807970779))


def test_without_fusion_each_branch_speaks_for_itself():
    branches = predicted(tree_of(is_fused=False), normal(2, 1, 16, 16), 0.2)
    assert [branch.fusion_weight for branch in branches] == [None] * NUM_LEVELS
    for branch in branches[:2]:
        torch.testing.assert_close(haar_pool(branch.clean), branch.own_coarse)
    assert not torch.allclose(branches[0].own_coarse, branches[1].clean, atol=1e-3)


# --- level by level


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("level", range(NUM_LEVELS))
def test_estimates_of_a_level_have_its_shapes(level: int, num_channels: int):
    network = Branches(log_residual=(-1.0, -2.0, -3.0))
    noisy = normal(2, num_channels, 8, 8)
    estimate = tree_of(network).at_level(noisy, torch.ones(2).double(), labels_of(2), level)
    assert estimate.clean.shape == noisy.shape
    assert [image is None for image in network.calls[0][0]] == [
        each < level for each in range(NUM_LEVELS)
    ]
    if not level:
        assert estimate.details is estimate.details_std is None
        return
    assert estimate.details.shape == (2, 3 * num_channels, 8, 8)
    assert estimate.details_std.shape == (3 * num_channels, 1, 1)
    stds = DETAIL_STD[level - 1] * torch.tensor([-0.5, -1.0, -1.5]).exp()
    torch.testing.assert_close(estimate.details_std[:, 0, 0].float(), stds.repeat(num_channels))


def test_a_level_is_asked_for_at_least_one_image():
    with pytest.raises(ValueError, match="at least one image"):
        tree_of().at_level(normal(0, 1, 8, 8), torch.ones(0).double(), labels_of(0), 1)


def test_entering_coarse_is_the_full_view_at_that_noise():
    tree, noisy = exact_tree(), normal(2, 1, 16, 16)
    sigma = torch.full((2,), 0.5).double()
    full = tree(noisy, sigma, labels_of(2))
    at_level = tree.at_level(haar_pool(noisy), sigma, labels_of(2), 1)
    torch.testing.assert_close(haar_pool(full), at_level.clean)


def test_rows_that_enter_later_foresee_only_their_own_details():
    def foresee(level: int, raw: Tensor) -> None:
        if level:
            raw[:, -12:] = torch.arange(len(raw))[:, None, None, None]  # the row's number

    tree = tree_of(Branches(say=foresee))
    states = [normal(2, 1, 16, 16), normal(3, 1, 8, 8), normal(1, 1, 4, 4)]
    sigma = torch.linspace(0.1, 2, 6).double()
    branches = tree.predict(states, sigma, labels_of(6))
    assert [len(branch.clean) for branch in branches] == [2, 5, 6]
    assert branches[0].details is None
    assert [tuple(branch.details.shape) for branch in branches[1:]] == [(3, 3, 8, 8), (1, 3, 4, 4)]
    for level, rows in ((1, [2, 3, 4]), (2, [5])):
        largest = branches[level].details.amax(dim=(1, 2, 3)) / DETAIL_STD[level - 1]
        assert largest.tolist() == pytest.approx([2 * row for row in rows])
    later = tree.at_level(states[1], sigma[2:5], labels_of(6)[2:5], 1)
    torch.testing.assert_close(later.clean, branches[1].clean[2:])


def test_a_window_is_read_as_part_of_the_image():
    noisy, window = normal(2, 1, 16, 16), Window(top=1, left=2, side=2)
    tree, sigma = tree_of(Branches(value=0.1)), torch.full((2,), 0.2).double()
    states = [noisy, noisy[:0, :, :8, :8], noisy[:0, :, :4, :4]]
    whole = tree.predict(states, sigma, labels_of(2))
    part = tree.predict(states, sigma, labels_of(2), window)
    torch.testing.assert_close(part[0].clean, window.of(whole[0].clean, 4))
    torch.testing.assert_close(part[0].own_coarse, window.of(whole[0].own_coarse, 2))
    torch.testing.assert_close(part[1].clean, whole[1].clean)


# --- sampling


def basis(size_px: int) -> Tensor:
    num_pixels = size_px**2
    return torch.eye(num_pixels, dtype=torch.float64).reshape(num_pixels, 1, size_px, size_px)


def band_ratios(images: Tensor) -> list[float]:
    """Deviation of each band of samples of an orthonormal basis of noises, over the data's."""
    found, coarse = [], images
    for std in DETAIL_STD:
        coarse, details = haar_split(coarse)
        found.append(details.square().mean().sqrt().item() / std)
    return [*found, coarse.square().mean().sqrt().item() / ROOT_STD]


def no_noise() -> Tensor:
    raise AssertionError("the sampler drew noise of its own")


@pytest.mark.parametrize("threshold", [None, 4.0, 2.0])
def test_exact_branches_give_images_of_the_variance_of_the_data(threshold: float | None):
    tree, noise = exact_tree(threshold), 16 * basis(16)
    sigmas, labels = KARRAS.sampling_sigmas(40).double(), labels_of(256)
    down = sample_hierarchical(tree, noise, sigmas, labels, no_noise)
    full = sample_dpm_solver_pp_2m(tree, noise, sigmas, labels, no_noise)
    assert band_ratios(down) == pytest.approx([1] * 4, abs=0.025)
    assert band_ratios(full) == pytest.approx([1] * 4, abs=0.025)
    if threshold is None:
        torch.testing.assert_close(down, full, rtol=0, atol=1e-10)


def test_the_full_solver_does_not_see_the_thresholds_of_exact_branches():
    noise, sigmas = normal(4, 1, 16, 16), KARRAS.sampling_sigmas(12).double()
    one, other = (
        sample_dpm_solver_pp_2m(exact_tree(threshold), noise, sigmas, labels_of(4), no_noise)
        for threshold in (None, 2.0)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("sampler", [*SAMPLERS, "hierarchical"])
def test_works_with_every_sampler_and_with_guidance(sampler, guidance: float):
    class Classes(Branches):
        """Darker images for class 0, brighter ones for class 1."""

        def __call__(self, images, noise_condition, labels, *others) -> list[BranchOutput]:
            outputs = super().__call__(images, noise_condition, labels, *others)
            shift = torch.tensor([-0.5, 0.5, 0.0])[labels][:, None, None]
            for output in outputs:
                output.raw[:, 0] += shift[: len(output.raw)]
            return outputs

    spec = GenerationSpec(3, sampler, 6, guidance, (0.0, 100.0), batch_images=3)
    bands = Bands(DETAIL_STD, (0.4, 0.4, 0.4))
    tree = tree_of(Classes(fusion_logit=NEVER), bands=bands)
    labels = torch.tensor([0, 1, 2, 1])
    chunks = list(generate(tree, KARRAS, spec, labels, [7, 7, 7, 7], (1, 16, 16)))
    images = torch.cat(chunks).double()
    assert images.shape == (4, 1, 16, 16)
    dark, bright, none, again = images.mean(dim=(1, 2, 3)).tolist()
    assert dark < none < bright
    assert bright == pytest.approx(again, abs=0.01)
    assert images.std() > 5


def test_guidance_acts_on_a_tree_as_on_a_denoiser():
    class Classes(Branches):
        def __call__(self, images, noise_condition, labels, *others) -> list[BranchOutput]:
            outputs = super().__call__(images, noise_condition, labels, *others)
            for output in outputs:
                output.raw[:] += 0.1 * labels[: len(output.raw), None, None, None]
            return outputs

    tree, guiding = tree_of(Classes()), (2.0, (0.0, 100.0), NULL_LABEL)
    noisy, labels = normal(2, 1, 8, 8), torch.tensor([0, 1])
    sigma = torch.full((2,), 0.1).double()
    by_level = GuidedTree(tree, *guiding).at_level(noisy, sigma, labels, 0).clean
    torch.testing.assert_close(by_level, Guided(tree, *guiding)(noisy, sigma, labels))
    plain, none = tree(noisy, sigma, labels), tree(noisy, sigma, torch.full((2,), NULL_LABEL))
    torch.testing.assert_close(by_level, 2 * plain - none)
