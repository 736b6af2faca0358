"""Every schedule against an oracle, and the clock that all of them follow."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.tiny_run import tiny_train_config
from vivero.training.learning_rate import learning_rate, rate_at

SCHEDULES = ["constant", "cosine", "one_cycle", "inverse_square_root"]


def rate(schedule: str, images_seen: int, warmup_images: int = 10, total_images: int = 100):
    return learning_rate(
        schedule, images_seen, peak=2.0, warmup_images=warmup_images, total_images=total_images
    )


def test_constant_rises_and_stays():
    assert [rate("constant", seen) for seen in (0, 5, 10, 11, 100)] == [0, 1, 2, 2, 2]


def test_cosine_rises_then_follows_half_a_cosine():
    assert rate("cosine", 0) == 0
    assert rate("cosine", 5) == pytest.approx(0.5 * 2 * (1 + math.cos(0.05 * math.pi)) / 2)
    assert rate("cosine", 50) == pytest.approx(1.0)
    assert rate("cosine", 100) == pytest.approx(0, abs=1e-12)


def test_inverse_square_root_halves_when_four_times_the_warmup_is_seen():
    rates = [rate("inverse_square_root", seen) for seen in (5, 10, 40, 90)]
    assert rates == pytest.approx([1.0, 2.0, 1.0, 2 / 3])


@pytest.mark.parametrize(("num_warmup", "num_steps"), [(3, 10), (30, 100), (1, 50)])
def test_one_cycle_is_that_of_torch(num_warmup: int, num_steps: int):
    # torch puts the peak at step pct_start * num_steps - 1 and the end at step num_steps - 1.
    batch_images, last = 8, num_steps
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.0, last + 1, pct_start=(num_warmup + 1) / (last + 1), cycle_momentum=False
    )
    for step in range(last + 1):
        ours = rate(
            "one_cycle", step * batch_images, num_warmup * batch_images, last * batch_images
        )
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9), step
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            theirs.step()  # it warns that nothing was optimised in between


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse_square_root"])
def test_no_warmup_starts_at_the_peak(schedule: str):
    assert rate(schedule, 0, warmup_images=0) == 2.0


def test_one_cycle_without_warmup_only_falls():
    rates = [rate("one_cycle", seen, warmup_images=0) for seen in range(101)]
    assert rates[0] == 2.0
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(seen=st.integers(0, 100), warmup_images=st.integers(0, 99))
def test_never_leaves_the_range_up_to_the_peak(schedule: str, seen: int, warmup_images: int):
    assert 0 <= rate(schedule, seen, warmup_images) <= 2.0


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "inverse_square_root"])
@given(seen=st.integers(10, 99))
def test_only_falls_after_warmup(schedule: str, seen: int):
    assert rate(schedule, seen) > rate(schedule, seen + 1) >= 0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "change", [{"num_processes": 4}, {"num_micro_batches": 8}, {"batch_images": 16}]
)
def test_only_the_images_seen_count(schedule: str, change: dict[str, int]):
    one = tiny_train_config(learning_rate_schedule=schedule)
    other = tiny_train_config(
        **{"learning_rate_schedule": schedule, "validate_every_images": 96,
           "checkpoint_every_images": 48, **change}
    )  # fmt: skip
    assert [rate_at(seen, one) for seen in range(97)] == [
        rate_at(seen, other) for seen in range(97)
    ]
