"""Making images: the same image from the same seed, whatever the batch."""

import pytest
import torch
from torch import Tensor

from vivero.diffusion.generation import GenerationSpec, generate, image_seed, to_uint8
from vivero.diffusion.preconditioning import Denoiser
from vivero.diffusion.samplers import SAMPLERS
from vivero.diffusion.schedules import KarrasSchedule

SCHEDULE = KarrasSchedule(0.02, 20.0, log_sigma_mean=-1.2, log_sigma_std=1.2)
SHAPE = (3, 6, 5)
CONVOLUTION = torch.nn.Conv2d(3, 3, 3, padding=1).requires_grad_(requires_grad=False)


def network(scaled_input: Tensor, noise_condition: Tensor, labels: Tensor) -> Tensor:
    shift = 0.1 * labels + noise_condition
    return torch.tanh(CONVOLUTION(scaled_input) + shift[:, None, None, None])


DENOISER = Denoiser(network, "clean", sigma_data=0.5, null_label=4)


def spec(**changes: object) -> GenerationSpec:
    values = {
        "seed": 5,
        "sampler": "ddpm",
        "num_steps": 4,
        "guidance": 2.0,
        "guidance_interval": (0.1, 5.0),
        "batch_images": 3,
    }
    return GenerationSpec(**{**values, **changes})  # type: ignore[arg-type]


def made(indices: list[int], **changes: object) -> Tensor:
    labels = torch.tensor([index % 4 for index in indices])
    return torch.cat(list(generate(DENOISER, SCHEDULE, spec(**changes), labels, indices, SHAPE)))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(sampler: str):
    together = made(list(range(7)), sampler=sampler, batch_images=7)
    for changes in ({"batch_images": 1}, {"batch_images": 3}):
        apart = made(list(range(7)), sampler=sampler, **changes)
        assert (apart.int() - together.int()).abs().max() <= 1
    alone = made([5], sampler=sampler)
    assert (alone[0].int() - together[5].int()).abs().max() <= 1


def test_same_seed_same_bytes_and_other_seed_other_images():
    assert torch.equal(made([0, 1]), made([0, 1]))
    assert not torch.equal(made([0, 1]), made([0, 1], seed=6))


def test_neither_reads_nor_moves_the_global_generator():
    before = torch.random.get_rng_state()
    made([0, 1, 2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gives_ordinary_bytes_a_batch_at_a_time():
    labels = torch.zeros(5, dtype=torch.int64)
    chunks = list(generate(DENOISER, SCHEDULE, spec(batch_images=2), labels, range(5), SHAPE))

    assert [tuple(chunk.shape) for chunk in chunks] == [(2, *SHAPE), (2, *SHAPE), (1, *SHAPE)]
    assert all(chunk.dtype == torch.uint8 and not chunk.is_inference() for chunk in chunks)


def test_leaves_no_inference_mode_behind_between_batches():
    labels = torch.zeros(4, dtype=torch.int64)
    for _ in generate(DENOISER, SCHEDULE, spec(batch_images=2), labels, range(4), SHAPE):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_refuses_labels_that_do_not_exist():
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.4; got 0\.\.5"):
        next(generate(DENOISER, SCHEDULE, spec(), torch.tensor([0, 5]), [0, 1], SHAPE))


def test_refuses_another_number_of_indices():
    with pytest.raises(ValueError, match="need one index per label; got 1 for 2"):
        next(generate(DENOISER, SCHEDULE, spec(), torch.tensor([0, 1]), [0], SHAPE))


def test_seeds_are_stable_and_apart():
    assert image_seed(0, 0) == 6213027144842677344
    seeds = {image_seed(seed, index) for seed in range(20) for index in range(500)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_pixels_round_to_the_nearest_level_and_are_cut_off():
    images = torch.tensor([-1.2, -1.0, 0.0, 127 / 127.5 - 1, 1.0, 3.0]).reshape(1, 1, 2, 3)
    assert to_uint8(images).flatten().tolist() == [0, 0, 128, 127, 255, 255]


def test_every_level_comes_back_from_the_range_of_the_model():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels)
