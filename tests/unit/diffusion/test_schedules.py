"""The noise schedules, against diffusers, their papers and the rules they must keep."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, EDMDPMSolverMultistepScheduler, HeunDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from vivero.diffusion.schedules import (
    MAX_BETA,
    CosineSchedule,
    KarrasSchedule,
    LinearSchedule,
    NoiseSchedule,
    build_schedule,
    cosine_alpha_bar,
    linear_alpha_bar,
)

# diffusers hands tensors to numpy in a way that numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KARRAS = KarrasSchedule(sigma_min=0.01, sigma_max=80.0, log_sigma_mean=-1.2, log_sigma_std=1.2)
SCHEDULES = [LinearSchedule(), CosineSchedule(), KARRAS]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


def test_linear_is_the_table_of_diffusers():
    oracle = DDPMScheduler(beta_schedule="linear").alphas_cumprod
    assert torch.allclose(linear_alpha_bar().float(), oracle, rtol=1e-4)


def test_cosine_is_the_table_of_diffusers():
    oracle = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    assert torch.allclose(cosine_alpha_bar().float(), oracle, rtol=1e-3)


def test_cosine_follows_its_paper_until_the_cap():
    got = cosine_alpha_bar(1000)

    def level(t: int) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [level(t) / level(0) for t in (1, 250, 500, 900)]
    assert got[[0, 249, 499, 899]].tolist() == pytest.approx(expected, rel=1e-9)
    assert 1 - float(got[-1] / got[-2]) == pytest.approx(MAX_BETA)


@given(num_timesteps=st.integers(1, 1500), offset=st.floats(0, 0.1))
def test_cosine_only_ever_removes_signal(num_timesteps: int, offset: float):
    alpha_bar = cosine_alpha_bar(num_timesteps, offset)

    assert alpha_bar.shape == (num_timesteps,)
    assert alpha_bar.dtype == torch.float64
    assert bool((alpha_bar > 0).all() and (alpha_bar < 1).all())
    assert bool((alpha_bar.diff() < 0).all())


@given(num_timesteps=st.integers(1, 1500))
def test_linear_only_ever_removes_signal(num_timesteps: int):
    alpha_bar = linear_alpha_bar(num_timesteps)
    assert bool((alpha_bar > 0).all() and (alpha_bar < 1).all())
    assert bool((alpha_bar.diff() < 0).all())


@pytest.mark.parametrize(("num_steps", "first_beta"), [(0, 1e-4), (10, 0.0), (10, 0.5)])
def test_linear_refuses_what_cannot_be(num_steps: int, first_beta: float):
    with pytest.raises(ValueError, match="need num_timesteps >= 1"):
        linear_alpha_bar(num_steps, first_beta)


def test_cosine_refuses_what_cannot_be():
    with pytest.raises(ValueError, match=r"got 0, 0\.008"):
        cosine_alpha_bar(0)


@pytest.mark.parametrize("num_steps", [1, 2, 18])
def test_karras_visits_the_levels_of_diffusers(num_steps: int):
    oracle = EDMDPMSolverMultistepScheduler(sigma_min=0.01, sigma_max=80.0)
    oracle.set_timesteps(num_steps)
    assert torch.allclose(KARRAS.sampling_sigmas(num_steps).float(), oracle.sigmas, rtol=1e-4)


@pytest.mark.parametrize(
    ("schedule", "name"), [(LinearSchedule(), "linear"), (CosineSchedule(), "squaredcos_cap_v2")]
)
def test_tables_visit_the_levels_of_diffusers(schedule: NoiseSchedule, name: str):
    oracle = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule=name)
    oracle.set_timesteps(18)  # "linspace"; it lists inner levels twice
    levels = oracle.sigmas.unique_consecutive()
    assert torch.allclose(schedule.sampling_sigmas(18).float(), levels, rtol=2e-3)


@every_schedule
@given(num_steps=st.integers(1, 300))
def test_sampling_falls_to_zero(schedule: NoiseSchedule, num_steps: int):
    sigmas = schedule.sampling_sigmas(num_steps)

    assert sigmas.shape == (num_steps + 1,)
    assert sigmas.dtype == torch.float64
    assert bool((sigmas.diff() < 0).all())
    assert sigmas[-1] == 0
    assert sigmas[0] == schedule.sigma(torch.ones(1, dtype=torch.float64))


@every_schedule
def test_sampling_takes_at_least_one_step(schedule: NoiseSchedule):
    with pytest.raises(ValueError, match="need num_steps >= 1; got 0"):
        schedule.sampling_sigmas(0)


@every_schedule
@given(times=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_noise_grows_with_time(schedule: NoiseSchedule, times: list[float]):
    early, late = schedule.sigma(torch.tensor(sorted(times), dtype=torch.float64))
    assert 0 < early <= late


@every_schedule
def test_training_levels_are_finite_at_the_ends_of_uniform(schedule: NoiseSchedule):
    ends = torch.tensor([0.0, 0.5, 1 - 2**-24])
    sigma = schedule.draw_sigma(ends)

    assert sigma.dtype == torch.float32
    assert bool(sigma.isfinite().all() and (sigma > 0).all())
    assert bool((sigma.diff() > 0).all())


def test_karras_trains_on_the_log_normal_it_names():
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    log_sigma = KARRAS.draw_sigma(uniform).log()
    assert log_sigma.mean().item() == pytest.approx(-1.2, abs=1e-6)
    assert log_sigma.std().item() == pytest.approx(1.2, rel=1e-3)


def test_tables_train_on_each_of_their_levels_equally():
    schedule = LinearSchedule(num_timesteps=50)
    uniform = (torch.arange(500, dtype=torch.float64) + 0.5) / 500
    levels, counts = schedule.draw_sigma(uniform).unique(return_counts=True)
    assert torch.equal(levels, schedule.sigma_table)
    assert counts.tolist() == [10] * 50


@pytest.mark.parametrize(
    ("name", "kind"),
    [("linear", LinearSchedule), ("cosine", CosineSchedule), ("karras", KarrasSchedule)],
)
def test_params_name_the_schedule(config_factory, name: str, kind: type[NoiseSchedule]):
    config = config_factory({"train.diffusion.schedule": name}).train.diffusion
    assert isinstance(build_schedule(config), kind)


def test_sigma_ends_of_params_are_those_of_karras(config_factory):
    config = config_factory({"train.diffusion.sigma_min": 0.5, "train.diffusion.sigma_max": 9.0})
    sigmas = build_schedule(config.train.diffusion).sampling_sigmas(3)
    assert sigmas[[0, 2]].tolist() == pytest.approx([9.0, 0.5])
