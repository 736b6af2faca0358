"""The noise embedding: waves of fixed frequencies, which tell one amount of noise from another."""

import math

import pytest
import torch

from vivero.models.embeddings import (
    LEAST_FREQUENCY,
    MOST_FREQUENCY,
    NUM_FREQUENCIES,
    NoiseEmbedding,
)


@pytest.fixture
def embedding() -> NoiseEmbedding:
    torch.manual_seed(0)
    return NoiseEmbedding(16)


def waves_of(embedding: NoiseEmbedding, noise_condition: torch.Tensor) -> torch.Tensor:
    """What the layers are given."""
    seen: list[torch.Tensor] = []
    hook = embedding.layers.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    embedding(noise_condition)
    hook.remove()
    return seen[0]


def test_frequencies_are_equally_spaced_in_their_logarithm(embedding):
    frequencies = embedding.frequencies.double()
    assert len(frequencies) == NUM_FREQUENCIES
    assert frequencies[0].item() == pytest.approx(LEAST_FREQUENCY, rel=1e-5)
    assert frequencies[-1].item() == pytest.approx(MOST_FREQUENCY, rel=1e-5)
    ratios = frequencies[1:] / frequencies[:-1]
    assert ratios.max().item() == pytest.approx(ratios.min().item(), rel=1e-5)


def test_each_frequency_gives_a_cosine_and_a_sine(embedding):
    noise_condition = torch.tensor([-1.1, 0.4])
    got = waves_of(embedding, noise_condition)
    for row, condition in enumerate(noise_condition.tolist()):
        for index, frequency in enumerate(embedding.frequencies.tolist()):
            angle = condition * frequency
            assert got[row, index].item() == pytest.approx(math.cos(angle), abs=1e-4)
            assert got[row, index + NUM_FREQUENCIES].item() == pytest.approx(
                math.sin(angle), abs=1e-4
            )


def test_no_two_noise_levels_look_alike(embedding):
    # ln(sigma) / 4 from sigma 0.002 to 80, at steps of 5 % of sigma
    conditions = torch.arange(math.log(0.002) / 4, math.log(80) / 4, math.log(1.05) / 4)
    waves = waves_of(embedding, conditions)
    distance = torch.cdist(waves, waves) + 99 * torch.eye(len(waves))
    assert distance.min() > 0.5
    assert embedding(conditions).shape == (len(conditions), 16)


def test_the_least_frequency_tells_high_noise_from_low(embedding):
    """It runs through less than half a wave, so it never says the same twice."""
    conditions = torch.linspace(math.log(0.002) / 4, math.log(80) / 4, 50)
    sines = waves_of(embedding, conditions)[:, NUM_FREQUENCIES]
    assert bool((sines[1:] > sines[:-1]).all())


def test_images_do_not_mix(embedding):
    conditions = torch.tensor([0.3, -0.2])
    torch.testing.assert_close(embedding(conditions)[1:], embedding(conditions[1:]))


def test_frequencies_are_no_weights(embedding):
    assert "frequencies" not in embedding.state_dict()
    assert "frequencies" not in dict(embedding.named_parameters())
