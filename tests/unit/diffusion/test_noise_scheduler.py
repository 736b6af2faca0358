"""The noise scheduler: which level a noise belongs to, and how much noise a level has."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vivero.diffusion import noise_scheduler
from vivero.diffusion.generation import SamplingLevels
from vivero.diffusion.haar import haar_pyramid
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.schedules import CosineSchedule, KarrasSchedule, LinearSchedule, NoiseSchedule

KARRAS = KarrasSchedule(0.002, 80.0, log_sigma_mean=-1.2, log_sigma_std=1.2)
SCHEDULES = [LinearSchedule(), CosineSchedule(), KARRAS]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
BAND_STD = (0.2, 0.5, 1.1)
SCHEDULER = NoiseScheduler(KARRAS, BAND_STD, threshold=2.0)


def noise(seed: int, shape: tuple[int, ...] = (4, 3, 16, 16)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_a_level_is_left_above_its_threshold():
    assert SCHEDULER.thresholds == (0.4, 1.0, 2.2)
    steps = {0.01: 0, 0.4: 0, 0.41: 1, 1.0: 1, 1.01: 2, 2.2: 2, 2.21: 3, 80.0: 3}
    assert [SCHEDULER.level_of(sigma) for sigma in steps] == list(steps.values())


def test_a_band_weaker_than_a_finer_one_is_never_seen_before_it():
    scheduler = NoiseScheduler(KARRAS, (0.5, 0.2, 1.1), threshold=2.0)
    assert scheduler.thresholds == (1.0, 1.0, 2.2)
    assert [scheduler.level_of(sigma) for sigma in (0.5, 1.0, 1.1)] == [0, 0, 2]


def test_without_a_threshold_all_noise_is_seen_on_the_image():
    scheduler = NoiseScheduler(KARRAS, BAND_STD, threshold=None)
    assert scheduler.level_of(1e30) == 0
    assert scheduler.levels_of(torch.tensor([0.1, 1e30])).tolist() == [0, 0]


@given(
    sigmas=st.lists(
        st.floats(2**-10, 128, width=32) | st.sampled_from([0.5, 1.0, 2.0]), min_size=1
    ),
    band_std=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.3]), max_size=4),
    threshold=st.none() | st.sampled_from([1.0, 2.0, 2.7]),
)
def test_many_levels_at_once_are_each_alone(
    sigmas: list[float], band_std: list[float], threshold: float | None
):
    scheduler = NoiseScheduler(KARRAS, tuple(band_std), threshold)
    levels = scheduler.levels_of(torch.tensor(sigmas))
    assert levels.dtype == torch.int64
    assert levels.tolist() == [scheduler.level_of(sigma) for sigma in sigmas]


@given(low=st.floats(1e-3, 100), high=st.floats(1e-3, 100))
def test_more_noise_never_belongs_to_a_finer_level(low: float, high: float):
    assert SCHEDULER.level_of(min(low, high)) <= SCHEDULER.level_of(max(low, high))


@pytest.mark.parametrize(
    ("band_std", "threshold", "message"),
    [
        ((0.2, -0.1), 2.0, "band_std must be finite and at least 0"),
        ((0.2, math.nan), 2.0, "band_std must be finite and at least 0"),
        ((0.2,), 0.0, "threshold must be above 0 or None; got 0.0"),
        ((0.2,), math.nan, "threshold must be above 0 or None; got nan"),
    ],
)
def test_refuses_what_cannot_be(band_std: tuple[float, ...], threshold: float, message: str):
    with pytest.raises(ValueError, match=message):
        NoiseScheduler(KARRAS, band_std, threshold)


def test_fit_measures_the_deviation_of_every_band(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(noise_scheduler, "CHUNK_VALUES", 3 * 2 * 16 * 24)  # of three images
    images = torch.tanh(noise(0, (7, 2, 16, 24)).cumsum(dim=-1) / 4)
    fitted = NoiseScheduler(KARRAS, (), 2.0).fit(images, num_levels=4)

    assert (fitted.schedule, fitted.threshold, fitted.num_levels) == (KARRAS, 2.0, 4)
    for level, std in enumerate(fitted.band_std):
        fine = 2**level * F.avg_pool2d(images, 2**level)
        a, b = fine[..., ::2, ::2], fine[..., ::2, 1::2]
        c, d = fine[..., 1::2, ::2], fine[..., 1::2, 1::2]
        details = torch.stack([a - b + c - d, a + b - c - d, a - b - c + d]) / 2
        assert std == pytest.approx(details.std(correction=0).item(), rel=1e-5)


def test_fit_takes_bytes_as_pixels_from_minus_1_to_1():
    pixels = (40 * noise(0) + 128).clamp(0, 255).to(torch.uint8)
    of_bytes = NoiseScheduler(KARRAS, (), None).fit(pixels, 3).band_std
    of_floats = NoiseScheduler(KARRAS, (), None).fit(pixels.double() / 127.5 - 1, 3).band_std
    assert of_bytes == pytest.approx(of_floats, rel=1e-5)


def test_white_noise_is_as_strong_in_every_band():
    fitted = NoiseScheduler(KARRAS, (), 2.0).fit(0.3 * noise(0, (64, 3, 32, 32)), num_levels=4)
    # 9,216 details in the coarsest band: the deviation is known to 0.7 %
    assert fitted.band_std == pytest.approx((0.3, 0.3, 0.3), rel=0.025)


def test_a_slope_counts_as_details_only_by_how_it_varies():
    ramp = torch.linspace(-1, 1, 16).expand(4, 1, 16, 16)
    finest = NoiseScheduler(KARRAS, (), 2.0).fit(ramp, num_levels=2).band_std[0]
    # one band in three is -2/15 everywhere, the others 0
    assert finest == pytest.approx(2 / 15 * math.sqrt(1 / 3 - 1 / 9), rel=1e-4)


def test_a_tree_of_one_level_has_no_bands():
    assert NoiseScheduler(KARRAS, BAND_STD, 2.0).fit(noise(0), num_levels=1).band_std == ()


@pytest.mark.parametrize(
    ("shape", "num_levels"), [((2, 1, 28, 28), 4), ((0, 1, 8, 8), 2), ((2, 1, 8, 8), 0)]
)
def test_fit_refuses_a_tree_that_does_not_fit(shape: tuple[int, ...], num_levels: int):
    with pytest.raises(ValueError, match=rf"got {num_levels} levels for {shape[0]} images of"):
        SCHEDULER.fit(torch.zeros(shape), num_levels)


def test_fit_refuses_whole_numbers_other_than_bytes():
    with pytest.raises(ValueError, match=r"uint8 or floating point; got torch\.int64"):
        SCHEDULER.fit(torch.zeros(2, 1, 8, 8, dtype=torch.int64), num_levels=2)


@every_schedule
@pytest.mark.parametrize("level", [0, 1, 3])
def test_the_log_snr_of_a_level_is_shifted(schedule: NoiseSchedule, level: int):
    scheduler = NoiseScheduler(schedule, BAND_STD, 2.0)
    time = torch.linspace(0, 1, 20, dtype=torch.float64)
    log_snr = -2 * scheduler.get_noise_level(time, level).log()
    expected = -2 * schedule.sigma(time).log() + 2 * level * math.log(2)
    assert torch.allclose(log_snr, expected)
    assert bool((log_snr.diff() < 0).all())


@pytest.mark.parametrize("level", [-1, 4])
def test_there_is_no_noise_on_a_level_that_is_not(level: int):
    with pytest.raises(ValueError, match=rf"level must lie in 0\.\.3; got {level}"):
        SCHEDULER.get_noise_level(torch.tensor([0.5]), level)


@every_schedule
def test_the_mean_pixels_of_a_noisy_image_have_the_noise_of_their_level(schedule: NoiseSchedule):
    scheduler = NoiseScheduler(schedule, BAND_STD, 2.0)
    time = torch.full((64,), 0.6, dtype=torch.float64)
    sigma = schedule.sigma(time)[:, None, None, None]
    levels = haar_pyramid(sigma * noise(0, (64, 3, 32, 32)), 4)
    for level, noisy in enumerate(levels):
        expected = scheduler.get_noise_level(time, level)[0].item()
        assert (noisy / 2**level).std().item() == pytest.approx(expected, rel=0.04)


TIMES = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted)


@every_schedule
@given(times=TIMES, level=st.integers(0, 3))
def test_two_steps_of_noise_are_one(schedule: NoiseSchedule, times: list[float], level: int):
    scheduler = NoiseScheduler(schedule, BAND_STD, 2.0)
    start, middle, end = (torch.full((1,), time, dtype=torch.float64) for time in times)
    zero, one = torch.zeros(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double()

    def added(time_from: Tensor, time_to: Tensor) -> float:
        return scheduler.step_noise(zero, time_from, time_to, level, one).item()

    # independent noises: variances add up
    twice = math.hypot(added(start, middle), added(middle, end))
    assert twice == pytest.approx(added(start, end), rel=1e-9, abs=1e-12)
    ends = scheduler.get_noise_level(torch.cat([start, end]), level).tolist()
    variance = ends[1] ** 2 - ends[0] ** 2
    assert added(start, end) ** 2 == pytest.approx(variance, rel=1e-9, abs=1e-15 * ends[1] ** 2)


@every_schedule
def test_two_steps_are_the_one_step_whose_noise_is_theirs(schedule: NoiseSchedule):
    scheduler = NoiseScheduler(schedule, BAND_STD, 2.0)
    start, middle, end = (torch.full((4,), t, dtype=torch.float64) for t in (0.1, 0.35, 0.8))
    noisy, first, second = noise(0), noise(1), noise(2)
    between = scheduler.step_noise(noisy, start, middle, 1, first)
    got = scheduler.step_noise(between, middle, end, 1, second)

    levels = [scheduler.get_noise_level(time, 1)[0].item() ** 2 for time in (start, middle, end)]
    shares = (levels[1] - levels[0], levels[2] - levels[1])
    joint = (math.sqrt(shares[0]) * first + math.sqrt(shares[1]) * second) / math.sqrt(sum(shares))
    assert torch.allclose(got, scheduler.step_noise(noisy, start, end, 1, joint))


def test_each_image_takes_its_own_step_and_keeps_its_precision():
    time_from, time_to = torch.tensor([0.2, 0.5]), torch.tensor([0.2, 0.9])
    noisy = noise(0, (2, 1, 4, 4)).float()
    got = SCHEDULER.step_noise(noisy, time_from, time_to, 2, torch.ones_like(noisy))
    assert got.dtype == torch.float32
    assert torch.equal(got[0], noisy[0])
    before, after = (SCHEDULER.get_noise_level(t, 2)[1].item() for t in (time_from, time_to))
    assert torch.allclose(got[1] - noisy[1], torch.tensor(math.sqrt(after**2 - before**2)))


def test_noise_is_never_taken_away():
    one = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="time_to must not be below time_from"):
        SCHEDULER.step_noise(one, torch.tensor([0.5]), torch.tensor([0.4]), 0, one)


@every_schedule
def test_names_the_levels_of_its_schedule_to_samplers(schedule: NoiseSchedule):
    scheduler = NoiseScheduler(schedule, BAND_STD, 2.0)
    assert isinstance(scheduler, SamplingLevels)
    assert torch.equal(scheduler.sampling_sigmas(7), schedule.sampling_sigmas(7))
