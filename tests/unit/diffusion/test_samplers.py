"""The samplers, against diffusers' schedulers and against images whose answer is known exactly.

The exact case: pixels that are normal with mean MEAN and deviation STD. The best denoiser is
linear, the flow from noise to image is known, so errors are those of the sampler alone.
"""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from vivero.diffusion.preconditioning import Denoiser
from vivero.diffusion.samplers import MAX_RATIO, SAMPLERS, checked
from vivero.diffusion.schedules import KarrasSchedule, LinearSchedule
from vivero.errors import SamplingError

# diffusers hands tensors to numpy in a way that numpy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MEAN, STD = 0.3, 0.5
LABELS = torch.arange(6)
TRAILING = {"beta_schedule": "linear", "timestep_spacing": "trailing", "prediction_type": "sample"}
BETAS = {"beta_start": 1e-4, "beta_end": 0.02}


def exact(noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    variance = sigma[:, None, None, None] ** 2
    return (STD**2 * noisy + variance * MEAN) / (STD**2 + variance)


def curved(noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """Not linear, and different for each label: an oracle must agree on this too."""
    scale = 1 / (0.3 + sigma + 0.1 * labels)
    return torch.tanh(noisy * scale[:, None, None, None])


def noise(num_images: int = 6, size_px: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, 2, size_px, size_px)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def no_noise() -> Tensor:
    raise AssertionError("a deterministic sampler drew noise")


def grid(num_steps: int, sigma_min: float = 1e-4, sigma_max: float = 20.0) -> Tensor:
    return KarrasSchedule(sigma_min, sigma_max, -1.2, 1.2).sampling_sigmas(num_steps)


def table_grid(timesteps: Tensor) -> Tensor:
    sigmas = LinearSchedule().sigma_table[timesteps.long()]
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def run_in_diffusers(scheduler, start: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Sample with a variance-preserving scheduler that takes the denoised image."""
    sigmas = table_grid(scheduler.timesteps)
    noisy_vp = start * sigmas[0] / torch.sqrt(1 + sigmas[0] ** 2)
    extra = {} if generator is None else {"generator": generator}
    for timestep, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        noisy = noisy_vp * torch.sqrt(1 + sigma**2)
        denoised = curved(noisy, sigma.expand(len(noisy)), LABELS)
        noisy_vp = scheduler.step(denoised, timestep, noisy_vp, **extra).prev_sample
    return noisy_vp


@pytest.mark.parametrize("num_steps", [1, 10, 50])
def test_ddpm_takes_the_steps_of_diffusers(num_steps: int):
    scheduler = DDPMScheduler(**TRAILING, clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(num_steps)
    expected = run_in_diffusers(scheduler, noise(), torch.Generator().manual_seed(7))

    generator = torch.Generator().manual_seed(7)
    got = SAMPLERS["ddpm"](
        curved,
        noise(),
        table_grid(scheduler.timesteps),
        LABELS,
        lambda: torch.randn(noise().shape, generator=generator, dtype=torch.float64),
    )
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 10, 50])
def test_ddim_takes_the_steps_of_diffusers(num_steps: int):
    scheduler = DDIMScheduler(**TRAILING, clip_sample=False)
    scheduler.set_timesteps(num_steps)
    expected = run_in_diffusers(scheduler, noise())

    sigmas = table_grid(scheduler.timesteps)
    got = SAMPLERS["ddim"](curved, noise(), sigmas, LABELS, no_noise)
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 50])
def test_dpm_solver_takes_the_steps_of_diffusers(num_steps: int):
    scheduler = DPMSolverMultistepScheduler(**TRAILING, **BETAS, final_sigmas_type="zero")
    scheduler.set_timesteps(num_steps)
    expected = run_in_diffusers(scheduler, noise())

    sigmas = table_grid(scheduler.timesteps)
    got = SAMPLERS["dpm_solver_pp_2m"](curved, noise(), sigmas, LABELS, no_noise)
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 18])
def test_dpm_solver_takes_the_steps_of_diffusers_on_the_levels_of_edm(num_steps: int):
    def network(scaled_input: Tensor, noise_condition: Tensor, labels: Tensor) -> Tensor:
        shift = noise_condition + labels
        return torch.tanh(scaled_input + shift[:, None, None, None])

    schedule = KarrasSchedule(0.01, 80.0, log_sigma_mean=-1.2, log_sigma_std=1.2)
    denoiser = Denoiser(network, "clean", sigma_data=0.7, null_label=6)
    sigmas = schedule.sampling_sigmas(num_steps)
    got = SAMPLERS["dpm_solver_pp_2m"](denoiser, noise(), sigmas, LABELS, no_noise)

    oracle = EDMDPMSolverMultistepScheduler(sigma_min=0.01, sigma_max=80.0, sigma_data=0.7)
    oracle.set_timesteps(num_steps)
    noisy = noise() * 80.0
    for noise_condition in oracle.timesteps:
        scaled = oracle.scale_model_input(noisy, noise_condition)
        output = network(scaled, noise_condition.expand(6), LABELS)
        noisy = oracle.step(output, noise_condition, noisy).prev_sample
    assert torch.allclose(got, noisy, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 50])
def test_sde_dpm_solver_takes_the_steps_of_diffusers(num_steps: int):
    scheduler = DPMSolverMultistepScheduler(
        **TRAILING, **BETAS, algorithm_type="sde-dpmsolver++", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(num_steps)
    sigmas = table_grid(scheduler.timesteps)
    generator = torch.Generator().manual_seed(7)
    fresh = [torch.randn(noise().shape, generator=generator).double() for _ in sigmas]
    noisy_vp = noise() * sigmas[0] / torch.sqrt(1 + sigmas[0] ** 2)
    for timestep, sigma, drawn in zip(scheduler.timesteps, sigmas, fresh, strict=False):
        denoised = curved(noisy_vp * torch.sqrt(1 + sigma**2), sigma.expand(6), LABELS)
        step = scheduler.step(denoised, timestep, noisy_vp, variance_noise=drawn)
        noisy_vp = step.prev_sample

    draws = iter(fresh)
    got = SAMPLERS["sde_dpm_solver_pp_2m"](curved, noise(), sigmas, LABELS, lambda: next(draws))
    assert torch.allclose(got, noisy_vp.double(), atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 10, 50])
def test_uni_pc_takes_the_steps_of_diffusers(num_steps: int):
    scheduler = UniPCMultistepScheduler(
        **TRAILING, **BETAS, solver_order=2, solver_type="bh2", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(num_steps)
    expected = run_in_diffusers(scheduler, noise())

    sigmas = table_grid(scheduler.timesteps)
    got = SAMPLERS["uni_pc"](curved, noise(), sigmas, LABELS, no_noise)
    assert torch.allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("num_steps", [2, 10, 28])
def test_heun_takes_the_steps_of_diffusers(num_steps: int):
    scheduler = HeunDiscreteScheduler(**BETAS, beta_schedule="linear")
    scheduler.set_timesteps(num_steps)
    sigmas = LinearSchedule().sampling_sigmas(num_steps)
    got = SAMPLERS["heun"](curved, noise(), sigmas, LABELS, no_noise)

    noisy = noise() * sigmas[0]
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(noisy, timestep)
        sigma = scheduler.sigmas[scheduler.step_index].double()
        denoised = curved(noisy, sigma.expand(6), LABELS)
        noisy = scheduler.step((noisy - denoised) / sigma, timestep, noisy).prev_sample
    assert torch.allclose(got, noisy, atol=2e-3)


def worst_error(name: str, num_steps: int) -> float:
    sigmas = grid(num_steps)
    images = SAMPLERS[name](exact, noise(), sigmas, LABELS, no_noise)
    start = sigmas[0] * noise()
    truth = MEAN + (start - MEAN) * STD / math.sqrt(STD**2 + sigmas[0].item() ** 2)
    return float((images - truth).abs().max())


@pytest.mark.parametrize(
    ("name", "order"), [("ddim", 1), ("heun", 2), ("dpm_solver_pp_2m", 2), ("uni_pc", 3)]
)
@pytest.mark.parametrize("num_steps", [32, 64])
def test_errors_fall_with_the_order_of_the_method(name: str, order: int, num_steps: int):
    gain = worst_error(name, num_steps) / worst_error(name, 2 * num_steps)
    assert math.log2(gain) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", ["heun", "dpm_solver_pp_2m", "uni_pc"])
def test_second_order_needs_a_quarter_of_the_steps(name: str):
    assert worst_error(name, 32) < worst_error("ddim", 128)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_mean_and_variance_of_the_images(name: str):
    generator = torch.Generator().manual_seed(3)
    start = noise(num_images=6, size_px=64, seed=2)

    def draw_noise() -> Tensor:
        return torch.randn(start.shape, generator=generator, dtype=torch.float64)

    images = SAMPLERS[name](exact, start, grid(300), LABELS, draw_noise)
    # 49,152 pixels: the mean is known to 0.0023, the deviation to 0.0016
    assert images.mean().item() == pytest.approx(MEAN, abs=0.012)
    assert images.std().item() == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_denoised_noise(name: str):
    images = SAMPLERS[name](exact, noise(), grid(1), LABELS, no_noise)
    sigma = torch.full((6,), 20.0, dtype=torch.float64)
    assert torch.allclose(images, exact(20.0 * noise(), sigma, LABELS))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_says_at_which_step_the_model_broke(name: str, bad: float):
    def broken(after: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        calls = 0

        def denoise(noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            denoised = exact(noisy, sigma, labels)
            if calls > after:
                denoised[2, 0, 1, 1] = bad
            return denoised

        return denoise

    passes_before = 4 if name == "heun" else 2
    with pytest.raises(SamplingError, match=rf"gave {bad} at step 2 \(sigma .*in 1 of 192 values"):
        SAMPLERS[name](broken(passes_before), noise(), grid(5), LABELS, noise)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_that_grows_without_end_is_stopped_while_its_numbers_are_finite(name: str):
    def explosive(noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return -7.0 * noisy

    with pytest.raises(SamplingError, match=r"diverged at step \d+ \(sigma .*reached -?\d"):
        SAMPLERS[name](explosive, noise(), grid(30), LABELS, noise)


@pytest.mark.parametrize(
    ("denoised", "noisy", "said"),
    [
        (-301.0, 0.0, r"step 4 \(sigma 2\): the denoised image reached -301, .*at most 300 can be"),
        (0.0, 1e4, r"step 4 \(sigma 2\): the noisy image reached 1e\+04, .*at most 8100 can be"),
    ],
)
def test_what_is_impossible_is_named_with_step_and_value(denoised: float, noisy: float, said: str):
    image, state = noise(), noise()
    image[1, 0, 2, 3], state[3, 1, 0, 0] = denoised or 0.1, noisy or 0.1
    with pytest.raises(SamplingError, match=said):
        checked(image, state, 4, 2.0, 80.0)


def test_the_largest_noise_and_a_bad_guess_of_it_are_let_pass():
    sigma = 2e4  # where the cosine schedule begins; half of the noise is guessed wrong
    state = sigma * noise()
    assert checked(0.5 * state, state, 0, sigma, sigma) is not None
    assert checked(torch.full((2,), MAX_RATIO), torch.ones(2), 9, 1e-3, sigma) is not None
