"""What is measured of a sampler, on images whose flow is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vivero.diffusion.preconditioning import Denoiser
from vivero.diffusion.schedules import KarrasSchedule
from vivero.errors import SamplingError
from vivero.evaluation.sampler_comparison import Cell
from vivero.evaluation.sampler_runs import (
    CONVERGED,
    Subject,
    converged_solution,
    divergence,
    flow_images,
    full_evaluation_ms,
    made_images,
    rms_distance,
)

SCHEDULE = KarrasSchedule(0.02, 20.0, log_sigma_mean=-1.2, log_sigma_std=1.2)


class Bent(nn.Module):
    """Not linear, and other for each class; scale 1 is a sound network."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, scaled: Tensor, noise_condition: Tensor, labels: Tensor) -> Tensor:
        shift = noise_condition + 0.3 * labels
        return self.scale * torch.tanh(scaled + shift[:, None, None, None])


def subject(network: nn.Module | None = None, **changes: object) -> Subject:
    network = Bent() if network is None else network
    values = Subject(
        network=network,
        denoiser=Denoiser(network, "clean", sigma_data=0.5, null_label=3),
        schedule=SCHEDULE,
        image_shape=(1, 4, 4),
        labels=torch.arange(6) % 3,
        seed=0,
        guidance=1.0,
        guidance_interval=(0.1, 5.0),
        batch_images=4,
    )
    return replace(values, **changes)  # type: ignore[arg-type]


def made(cell: Cell, **changes: object):
    done: list[int] = []
    result = made_images(subject(**changes), cell, 6, done.append)
    assert sum(done) == 6 * cell.num_passes
    return result


@pytest.mark.parametrize(("sampler", "evaluations"), [("ddim", 5), ("uni_pc", 5), ("heun", 9)])
def test_evaluations_are_those_of_one_image(sampler: str, evaluations: int):
    cell = Cell(sampler, 5)  # type: ignore[arg-type]
    assert made(cell).evaluations == evaluations == cell.num_passes


def test_guided_evaluations_count_twice_within_the_interval():
    sigmas = SCHEDULE.sampling_sigmas(5)[:-1]
    num_guided = int(((sigmas >= 0.1) & (sigmas <= 5.0)).sum())
    assert 0 < num_guided < 5
    assert made(Cell("ddim", 5), guidance=2.0).evaluations == 5 + num_guided


def test_images_and_time_of_a_cell():
    result = made(Cell("ddpm", 250))
    assert result.images.shape == (6, 1, 4, 4)
    assert result.ms_per_image > 0
    assert full_evaluation_ms(subject()) > 0


def test_the_converged_solution_is_at_no_distance_from_itself():
    bench = subject()
    solution = converged_solution(bench, 4)
    images = made(CONVERGED).images
    assert divergence(bench, CONVERGED, images, solution.images) == 0
    assert 0 < solution.uncertainty < 1e-3


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpm_solver_pp_2m", "uni_pc"])
def test_divergence_falls_with_the_steps(sampler: str):
    bench = subject()
    solution = converged_solution(bench, 4).images
    cells = [Cell(sampler, num_steps) for num_steps in (5, 20, 80)]  # type: ignore[arg-type]
    errors = [rms_distance(flow_images(bench, cell, 4), solution) for cell in cells]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_divergence_starts_from_the_noise_of_the_images():
    bench = subject()
    cell = Cell("uni_pc", 8)
    exact = flow_images(bench, cell, 6)
    rounded = torch.from_numpy(made(cell).images).float() / 127.5 - 1
    assert (exact.clamp(-1, 1) - rounded).abs().max() <= 0.5 / 127.5 + 1e-5


def test_ddpm_has_no_divergence():
    bench = subject()
    cell = Cell("ddpm", 250)
    assert divergence(bench, cell, made(cell).images, torch.zeros(4, 1, 4, 4)) is None


def test_a_sampler_that_diverges_stops_with_step_and_value():
    with pytest.raises(SamplingError, match=r"diverged at step \d+ \(sigma .*reached -?\d"):
        made(Cell("ddim", 8), network=Bent(scale=1e6))
