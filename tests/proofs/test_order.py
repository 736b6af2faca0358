"""After a resume at any batch, every process sees the very images it would have seen, in order."""

import random

import numpy as np
import pytest
import torch

from tests.unit.training.tiny_run import NUM_CLASSES, tiny_feed, tiny_train_config
from vivero.training.batches import Batches
from vivero.training.distributed import Workers
from vivero.training.loss import build_objective

BATCH_IMAGES, NUM_IMAGES, NUM_EPOCHS, NUM_RESUMES = 8, 44, 3, 100  # epochs end within batches
END = NUM_EPOCHS * NUM_IMAGES // BATCH_IMAGES * BATCH_IMAGES


def batches(rank: int = 0, num_processes: int = 1) -> Batches:
    """What a process that has just started would train on."""
    config = tiny_train_config(num_processes=num_processes, batch_images=BATCH_IMAGES)
    workers = Workers(rank, num_processes, torch.device("cpu"))
    return Batches(config, workers, tiny_feed(NUM_IMAGES), build_objective(config, NUM_CLASSES))


def order_from(begin: int, num_processes: int) -> list[str]:
    """Names of the images from a moment to the end, those of all processes in their order."""
    started = [batches(rank, num_processes) for rank in range(num_processes)]
    clocks = range(begin, END, BATCH_IMAGES)
    return [key for clock in clocks for process in started for key in process.keys(clock)]


@pytest.fixture(scope="module")
def whole() -> list[str]:
    return order_from(0, 1)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_the_order_after_a_resume_is_the_order_without(whole: list[str], num_processes: int):
    rng = random.Random(num_processes)
    begins = [rng.randrange(0, END, BATCH_IMAGES) for _ in range(NUM_RESUMES)]
    differing = [begin for begin in begins if order_from(begin, num_processes) != whole[begin:]]
    assert differing == []


def test_the_noise_of_each_image_is_the_same_for_any_number_of_processes():
    for begin in range(0, END, 5 * BATCH_IMAGES):
        joint = batches().draw(begin)
        for num_processes in (2, 4):
            draws = [batches(rank, num_processes).draw(begin) for rank in range(num_processes)]
            assert torch.equal(torch.cat([draw.noise for draw in draws]), joint.noise)
            assert torch.equal(torch.cat([draw.sigma for draw in draws]), joint.sigma)


def test_each_epoch_has_every_image_once_in_an_order_of_its_own(whole: list[str]):
    epochs = np.array(whole[: 2 * NUM_IMAGES]).reshape(2, NUM_IMAGES)
    assert all(len(set(epoch)) == NUM_IMAGES for epoch in epochs.tolist())
    assert (epochs[0] != epochs[1]).any()
