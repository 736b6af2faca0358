"""The hierarchical sampler, on Gaussian images whose every level has an exact denoiser.

There each step is linear, so an orthonormal basis of all noises, each sqrt(pixels) long as noise
is, gives the exact covariance of the samples without drawing one; and its batch has the exact mean
square of everything, which is what an adaptive descent looks at.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from vivero.diffusion.haar import haar_join, haar_pyramid, haar_split
from vivero.diffusion.hierarchical import (
    CountedTree,
    LevelEstimate,
    TreeModel,
    sample_hierarchical,
)
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.samplers import sample_dpm_solver_pp_2m
from vivero.diffusion.schedules import KarrasSchedule
from vivero.errors import SamplingError

KARRAS = KarrasSchedule(0.002, 80.0, log_sigma_mean=-1.2, log_sigma_std=1.2)
NUM_LEVELS = 3
BAND_STD = (0.158, 0.391)  # measured on photographs of 32 x 32
ROOT_STD = 3.0


def basis(size_px: int) -> Tensor:
    num_pixels = size_px**2
    return torch.eye(num_pixels, dtype=torch.float64).reshape(num_pixels, 1, size_px, size_px)


def independent_bands(size_px: int = 16) -> Tensor:
    """Covariance of images whose Haar coefficients are independent."""
    coarse, columns = basis(size_px), []
    for std in BAND_STD:
        coarse, details = haar_split(coarse)
        columns.append(std * details.flatten(1))
    columns.append(ROOT_STD * coarse.flatten(1))
    factor = torch.cat(columns, dim=1)
    return factor @ factor.T


def neighbouring_pixels_alike(size_px: int = 8, reach_px: float = 4.0) -> Tensor:
    """Covariance that falls with distance: the details can be foreseen from the coarse image."""
    position = torch.arange(size_px, dtype=torch.float64) / reach_px
    row, column = (axis.flatten() for axis in torch.meshgrid(position, position, indexing="ij"))
    distance = torch.hypot(row[:, None] - row, column[:, None] - column)
    return 0.25 * torch.exp(-distance)


class GaussianTree:
    """The best possible tree for images of a covariance, (pixels, pixels), and mean 0."""

    def __init__(self, covariance: Tensor, threshold: float | None, foresees: bool = True) -> None:
        self.foresees = foresees
        self.size_px = math.isqrt(len(covariance))
        self.levels = [z.flatten(1).T for z in haar_pyramid(basis(self.size_px), NUM_LEVELS)]
        self.bands = [
            haar_split(fine)[1].flatten(1).T
            for fine in haar_pyramid(basis(self.size_px), NUM_LEVELS)[:-1]
        ]
        self.covariance = covariance
        self.of_level = [level @ covariance @ level.T for level in self.levels]
        self.spectra = [torch.linalg.eigh(of_level) for of_level in self.of_level]
        stds = (_variance(band, covariance) ** 0.5 for band in self.bands)
        self.scheduler = NoiseScheduler(KARRAS, tuple(stds), threshold)

    def at_level(self, noisy: Tensor, sigma: Tensor, labels: Tensor, level: int) -> LevelEstimate:
        values, vectors = self.spectra[level]
        inverse = vectors @ ((1 / (values + sigma[0] ** 2))[:, None] * vectors.T)
        whitened = noisy.flatten(1) @ inverse
        clean = (whitened @ self.of_level[level]).reshape(noisy.shape)
        if level == 0 or not self.foresees:
            return LevelEstimate(clean, None, None)
        band = self.bands[level - 1]
        cross = band @ self.covariance @ self.levels[level].T
        left = band @ self.covariance @ band.T - cross @ inverse @ cross.T
        std = left.diagonal().reshape(3, -1).mean(dim=1).sqrt()[:, None, None]
        details = (whitened @ cross.T).reshape(len(noisy), 3, *noisy.shape[2:])
        return LevelEstimate(clean, details, std)

    def denoise(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return self.at_level(noisy, sigma, labels, 0).clean


def _variance(rows: Tensor, covariance: Tensor) -> float:
    return (rows @ covariance @ rows.T).diagonal().mean().item()


def no_noise() -> Tensor:
    raise AssertionError("the sampler drew noise of its own")


def sampled(
    tree: TreeModel, noise: Tensor, num_steps: int, adaptive_threshold: float | None = None
) -> Tensor:
    labels = torch.zeros(len(noise), dtype=torch.int64)
    sigmas = tree.scheduler.sampling_sigmas(num_steps)
    return sample_hierarchical(tree, noise, sigmas, labels, no_noise, adaptive_threshold)


def covariance_of_samples(
    tree: TreeModel, size_px: int, num_steps: int, adaptive_threshold: float | None = None
) -> Tensor:
    noise = size_px * basis(size_px)
    images = sampled(tree, noise, num_steps, adaptive_threshold).flatten(1)
    return images.T @ images / len(images)


def band_ratios(tree: GaussianTree, of_samples: Tensor) -> list[float]:
    """Deviation of the samples over that of the data: each band, finest first, then the root."""
    return [
        math.sqrt(_variance(rows, of_samples) / _variance(rows, tree.covariance))
        for rows in [*tree.bands, tree.levels[-1]]
    ]


def divergence(tree: GaussianTree, of_samples: Tensor) -> float:
    """Kullback-Leibler divergence of the samples from the data, in nats per pixel."""
    num_pixels = len(of_samples)
    trace = torch.linalg.solve(tree.covariance, of_samples).trace()
    logs = torch.logdet(tree.covariance) - torch.logdet(of_samples)
    return (trace - num_pixels + logs).item() / 2 / num_pixels


def random_noise(num_images: int, size_px: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, 1, size_px, size_px, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("num_steps", [1, 2, 18])
def test_a_tree_that_is_never_left_is_the_usual_solver(num_steps: int):
    tree = GaussianTree(neighbouring_pixels_alike(), threshold=None)
    noise, labels = random_noise(5, 8), torch.zeros(5, dtype=torch.int64)
    sigmas = KARRAS.sampling_sigmas(num_steps)
    usual = sample_dpm_solver_pp_2m(tree.denoise, noise, sigmas, labels, no_noise)
    assert torch.equal(sampled(tree, noise, num_steps), usual)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (None, (1.079, 1.067)),
        (4.0, (1.066, 1.051)),
        (3.0, (1.035, 1.051)),
        (2.0, (1.035, 1.024)),
    ],
)
def test_bands_come_out_as_of_the_full_solver_at_18_steps(
    threshold: float | None, expected: tuple[float, float]
):
    # The errors of the solver itself, known from an independent prototype. With a memory that knows
    # nothing of new bands the first ratio is 1.105 to 1.172.
    tree = GaussianTree(independent_bands(), threshold)
    finest, second, _ = band_ratios(tree, covariance_of_samples(tree, 16, num_steps=18))
    assert (finest, second) == pytest.approx(expected, abs=1.5e-3)


@pytest.mark.parametrize("threshold", [4.0, 3.0, 2.0])
@pytest.mark.parametrize("num_steps", [30, 40])
def test_bands_have_the_variance_of_the_data(threshold: float, num_steps: int):
    tree = GaussianTree(independent_bands(), threshold)
    ratios = band_ratios(tree, covariance_of_samples(tree, 16, num_steps))
    assert ratios == pytest.approx([1, 1, 1], abs=0.025)


def test_spends_its_passes_where_the_noise_leaves_something_to_see():
    tree = CountedTree(GaussianTree(independent_bands(), threshold=2.0))
    sampled(tree, random_noise(3, 16), num_steps=18)
    assert tree.num_images == [3 * 6, 3 * 1, 3 * 11]


def test_what_is_foreseen_of_the_details_is_worth_having():
    covariance = neighbouring_pixels_alike()

    def divergence_of(threshold: float | None, *, foresees: bool = True) -> float:
        tree = GaussianTree(covariance, threshold, foresees)
        return divergence(tree, covariance_of_samples(tree, 8, num_steps=40))

    foreseen = divergence_of(2.0)
    assert divergence_of(None) < foreseen < 0.003
    assert foreseen < 0.2 * divergence_of(2.0, foresees=False)


@dataclass
class ScriptedTree:
    """Expects the same values everywhere, whatever it is shown, and remembers what that was."""

    scheduler: NoiseScheduler
    clean: float = 0.5
    details: float = 0.0
    details_std: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        self.seen: list[tuple[int, float, Tensor]] = []

    def at_level(self, noisy: Tensor, sigma: Tensor, labels: Tensor, level: int) -> LevelEstimate:
        self.seen.append((level, sigma[0].item(), noisy))
        clean = torch.full_like(noisy, self.clean)
        if level == 0:
            return LevelEstimate(clean, None, None)
        details = torch.full_like(noisy.repeat(1, 3, 1, 1), self.details)
        return LevelEstimate(clean, details, noisy.new_tensor(self.details_std)[:, None, None])


SCRIPT = NoiseScheduler(KARRAS, BAND_STD, threshold=2.0)  # thresholds at 0.316 and 0.782


def run_script(
    tree: ScriptedTree,
    noise: Tensor,
    sigmas: Sequence[float],
    adaptive_threshold: float | None = None,
) -> Tensor:
    labels = torch.zeros(len(noise), dtype=torch.int64)
    grid = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    return sample_hierarchical(tree, noise, grid, labels, no_noise, adaptive_threshold)


def test_begins_with_the_coarse_part_of_the_noise():
    tree, noise = ScriptedTree(SCRIPT), random_noise(2, 8)
    run_script(tree, noise, [10.0, 0.1])
    level, sigma, noisy = tree.seen[0]
    assert (level, sigma) == (2, 10.0)
    assert torch.allclose(noisy, 10.0 * haar_pyramid(noise, 3)[2])


def test_details_join_with_what_was_foreseen_and_the_same_noise():
    tree = ScriptedTree(SCRIPT, details=0.3, details_std=(0.1, 0.2, 0.4))
    noise = random_noise(2, 16)
    run_script(tree, noise, [2.0, 0.5, 0.1])

    assert [(level, sigma) for level, sigma, _ in tree.seen] == [(2, 2.0), (1, 0.5), (0, 0.1)]
    coarse, details = haar_split(tree.seen[1][2])
    assert torch.allclose(coarse, 0.5 + 0.5 / 2.0 * (tree.seen[0][2] - 0.5))
    noise_of_band = haar_split(haar_pyramid(noise, 3)[1])[1]
    stds = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)[:, None, None]
    assert torch.allclose(details, 0.3 + (stds**2 + 0.5**2).sqrt() * noise_of_band)
    _, details = haar_split(tree.seen[2][2])
    assert torch.allclose(details, 0.3 + (stds**2 + 0.1**2).sqrt() * haar_split(noise)[1])


def test_details_that_join_have_the_moments_of_noisy_details():
    tree = ScriptedTree(SCRIPT, details=0.3, details_std=(0.1, 0.2, 0.4))
    run_script(tree, random_noise(100, 16), [2.0, 0.5])
    _, details = haar_split(tree.seen[1][2])
    # 1,600 values a band: the mean is known to 1.6 %, the deviation to 1.8 % of the deviation
    for band, std in enumerate((0.1, 0.2, 0.4)):
        total = math.hypot(std, 0.5)
        assert details[:, band].mean().item() == pytest.approx(0.3, abs=0.06 * total)
        assert details[:, band].std().item() == pytest.approx(total, rel=0.06)


def test_bands_of_which_nothing_is_foreseen_are_what_they_are_over_the_data():
    class Blind(ScriptedTree):
        def at_level(self, *arguments) -> LevelEstimate:
            return replace(super().at_level(*arguments), details=None, details_std=None)

    tree, noise = Blind(SCRIPT), random_noise(2, 8)
    run_script(tree, noise, [2.0, 0.5])
    _, details = haar_split(tree.seen[1][2])
    noise_of_band = haar_split(haar_pyramid(noise, 3)[1])[1]
    assert torch.allclose(details, math.hypot(BAND_STD[1], 0.5) * noise_of_band)


def test_a_level_that_is_skipped_is_looked_at_for_what_it_foresees():
    tree, noise = ScriptedTree(SCRIPT, details=0.3), random_noise(2, 8)
    run_script(tree, noise, [2.0, 0.1])
    assert [(level, sigma) for level, sigma, _ in tree.seen] == [(2, 2.0), (1, 0.1), (0, 0.1)]
    _, details = haar_split(tree.seen[2][2])
    assert torch.allclose(details, 0.3 + 0.1 * haar_split(noise)[1])


def test_the_look_at_a_skipped_level_pays():
    covariance = neighbouring_pixels_alike()

    class LooksPast(GaussianTree):
        def at_level(self, noisy, sigma, labels, level) -> LevelEstimate:
            estimate = super().at_level(noisy, sigma, labels, level)
            return replace(estimate, details=None, details_std=None) if level == 1 else estimate

    tree = CountedTree(GaussianTree(covariance, threshold=2.0))
    looking = covariance_of_samples(tree, 8, num_steps=10)
    assert sum(tree.num_images) == 64 * 11, "the grid must skip a level"
    past = covariance_of_samples(LooksPast(covariance, threshold=2.0), 8, num_steps=10)
    assert divergence(tree.tree, looking) < 0.6 * divergence(tree.tree, past)


def test_bands_that_the_last_noise_hides_are_denoised_as_gaussian():
    tree = ScriptedTree(SCRIPT, clean=0.7, details=0.3, details_std=(0.1, 0.2, 0.4))
    noise = random_noise(2, 8)
    got = run_script(tree, noise, [10.0])

    bands = [haar_split(level)[1] for level in haar_pyramid(noise, 3)[:2]]
    stds = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)[:, None, None]
    second = 0.3 + stds**2 / (stds**2 + 100).sqrt() * bands[1]
    finest = BAND_STD[0] ** 2 / math.sqrt(BAND_STD[0] ** 2 + 100) * bands[0]
    root = torch.full((2, 1, 2, 2), 0.7, dtype=torch.float64)
    assert torch.allclose(got, haar_join(haar_join(root, second), finest))


def test_an_image_does_not_depend_on_its_batch():
    tree, noise = GaussianTree(neighbouring_pixels_alike(), threshold=2.0), random_noise(5, 8)
    together = sampled(tree, noise, num_steps=12)
    for index in range(5):
        alone = sampled(tree, noise[index : index + 1], num_steps=12)
        assert torch.allclose(alone[0], together[index], atol=1e-9)
    other = torch.cat([noise[:1], random_noise(4, 8, seed=9)])
    assert torch.allclose(sampled(tree, other, num_steps=12)[0], together[0], atol=1e-9)


def test_images_keep_the_precision_of_the_noise():
    tree, noise = ScriptedTree(SCRIPT, details=0.1), random_noise(2, 8).float()
    images = sampled(tree, noise, num_steps=12)
    assert images.dtype == torch.float32
    assert all(noisy.dtype == torch.float32 for _, _, noisy in tree.seen)


def test_descends_early_where_details_carry_signal_and_is_nearer_to_the_data_for_it():
    # a threshold far below what these images ask for: late in every band
    late = GaussianTree(neighbouring_pixels_alike(), threshold=0.5)
    passes, divergences = [], []
    for adaptive_threshold in (None, 1e9, 0.2, 0.02):
        counted = CountedTree(late)
        of_samples = covariance_of_samples(counted, 8, 40, adaptive_threshold)
        passes.append([num_images // 64 for num_images in counted.num_images])
        divergences.append(divergence(late, of_samples))

    assert passes == [[9, 2, 29], [9, 2, 29], [11, 2, 27], [14, 2, 24]]
    assert divergences[0] == divergences[1] > 1.5 * divergences[2] > 5 * divergences[3]
    assert band_ratios(late, of_samples) == pytest.approx([1, 1, 1], abs=0.025)


def test_an_image_descends_by_its_own_signal_whatever_its_batch():
    late, noise = GaussianTree(neighbouring_pixels_alike(), threshold=0.5), random_noise(12, 8)
    counted = CountedTree(late)
    together = sampled(counted, noise, 40, adaptive_threshold=0.2)
    alone = [sampled(late, one[None], 40, adaptive_threshold=0.2) for one in noise]
    assert torch.allclose(together, torch.cat(alone), atol=1e-10)
    assert any(num_images % len(noise) for num_images in counted.num_images)  # they did part


@dataclass
class Remembering:
    """A tree that remembers level, noise and number of images of each pass."""

    tree: TreeModel

    def __post_init__(self) -> None:
        self.scheduler = self.tree.scheduler
        self.passes: list[tuple[int, float, int]] = []

    def at_level(self, noisy: Tensor, sigma: Tensor, labels: Tensor, level: int) -> LevelEstimate:
        self.passes.append((level, sigma[0].item(), len(noisy)))
        return self.tree.at_level(noisy, sigma, labels, level)


@pytest.mark.parametrize(("num_steps", "num_passes"), [(8, 10), (50, 57)])
def test_a_step_asks_the_tree_once_a_level_however_images_part(num_steps: int, num_passes: int):
    late, noise = GaussianTree(neighbouring_pixels_alike(), threshold=0.5), random_noise(24, 8)
    tree = Remembering(late)
    together = sampled(tree, noise, num_steps, adaptive_threshold=0.2)

    steps = [(level, sigma) for level, sigma, _ in tree.passes]
    assert len(set(steps)) == len(steps) == num_passes  # 12 and 173 if those who met stayed apart
    assert len({sigma for _, sigma in steps}) == num_steps < len(steps)  # they did part
    alone = [sampled(late, one[None], num_steps, adaptive_threshold=0.2) for one in noise]
    assert torch.allclose(together, torch.cat(alone), atol=1e-10)


def test_signal_is_measured_against_the_noise_of_the_next_look():
    def levels(details: float, adaptive_threshold: float) -> list[int]:
        tree = ScriptedTree(SCRIPT, details=details)
        run_script(tree, random_noise(2, 8), [4.0, 2.0, 1.0], adaptive_threshold)
        return [level for level, _, _ in tree.seen]

    assert levels(1.01, 0.25) == [2, 1, 0]
    assert levels(0.99, 0.25) == [2, 2, 1]
    assert levels(0.51, 0.25) == [2, 2, 1]
    assert levels(0.49, 0.25) == [2, 2, 2]
    assert levels(0.51, 0.30) == [2, 2, 2]


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (3, 3, 1, 1)])
def test_rows_of_an_estimate_keep_the_deviation_that_all_images_share(shape: tuple[int, ...]):
    std = torch.arange(math.prod(shape)).reshape(shape) + 1.0
    whole = LevelEstimate(random_noise(3, 4), random_noise(3, 4).repeat(1, 3, 1, 1), std)
    rows = torch.tensor([2, 0])
    some = whole.of_rows(rows)
    assert torch.equal(some.clean, whole.clean[rows])
    assert torch.equal(some.details, whole.details[rows])
    of_each = std.expand_as(whole.details)[rows]
    assert torch.equal(some.details_std.expand_as(some.details), of_each)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e9])
@pytest.mark.parametrize("where", ["clean", "details"])
def test_says_at_which_step_the_tree_broke(where: str, bad: float):
    class Breaking(ScriptedTree):
        def at_level(self, noisy, sigma, labels, level) -> LevelEstimate:
            estimate = super().at_level(noisy, sigma, labels, level)
            if len(self.seen) == 2:
                getattr(estimate, where)[1, 0, 0, 0] = bad
            return estimate

    with pytest.raises(SamplingError, match=r"at step 1 \(sigma 1\)"):
        run_script(Breaking(SCRIPT), random_noise(2, 8), [2.0, 1.0, 0.5, 0.1])


def test_refuses_noise_that_does_not_fit_the_tree():
    with pytest.raises(ValueError, match="got 3 levels for 6 x 6"):
        run_script(ScriptedTree(SCRIPT), random_noise(2, 6), [2.0])


def test_refuses_levels_that_do_not_end_in_0():
    tree = ScriptedTree(SCRIPT)
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="sigmas must end in 0"):
        sample_hierarchical(tree, random_noise(2, 8), torch.tensor([2.0, 1.0]), labels, no_noise)
