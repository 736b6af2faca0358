"""Routing: a function of the clock, soft at the thresholds, and a lot for every branch."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.schedules import KarrasSchedule
from vivero.training.randomness import Moment, draw_noise
from vivero.training.routing import OVERLAP, Router, Routing

KARRAS = KarrasSchedule(0.01, 80.0, log_sigma_mean=-0.6, log_sigma_std=1.2)
SCHEDULER = NoiseScheduler(KARRAS, (0.1, 0.3), threshold=4.0)  # thresholds at 0.4 and 1.2
NUM_LEVELS = 3
MOMENT = Moment(0, "train", 640)


def routed(
    sigma: Tensor,
    moment: Moment = MOMENT,
    crop_share: float = 1.0,
    scheduler: NoiseScheduler = SCHEDULER,
) -> Routing:
    num_images = len(sigma)
    router = Router(scheduler, num_cells=8, crop_share=crop_share)
    return router.at(moment, sigma, slice(0, num_images), num_images)


def drawn_sigma(num_images: int, begin: int) -> Tensor:
    moment = Moment(0, "train", begin)
    draw = draw_noise(moment, (num_images, 1, 1, 1), slice(0, num_images), KARRAS.draw_sigma, 0.0)
    return draw.sigma


def test_far_from_a_threshold_noise_alone_decides():
    routing = routed(torch.tensor([0.02, 0.28, 0.57, 0.84, 1.71, 40.0]))
    assert routing.levels.tolist() == [0, 0, 1, 1, 2, 2]
    assert not routing.is_near[[0, 2, 4, 5]].any()


def test_within_the_overlap_an_image_goes_to_either_side():
    """By a factor that is uniform in its logarithm: at the threshold itself half and half."""
    for sigma, share in (
        (0.4, 0.5),
        (0.4 * 2**0.25, 0.75),
        (0.4 * 2**-0.25, 0.25),
        (0.4 * 2**0.49, 0.99),
        (0.4 * 2**-0.49, 0.01),
    ):
        levels = routed(torch.full((4000,), sigma)).levels
        assert set(levels.tolist()) == {0, 1}
        assert levels.double().mean().item() == pytest.approx(share, abs=0.03)


def test_images_are_near_that_a_coarser_level_could_as_well_be_asked_about():
    sigma = torch.tensor([0.4 / OVERLAP - 1e-3, 0.4 / OVERLAP + 1e-3, 0.4, 0.4 * OVERLAP - 1e-3])
    for begin in range(0, 640, 64):
        routing = routed(sigma, Moment(0, "train", begin))
        on_fine_side = routing.levels == 0
        assert routing.is_near.tolist() == [False, *on_fine_side[1:].tolist()]


def test_at_the_root_nothing_is_near():
    assert not routed(torch.full((50,), 5.0)).is_near.any()


def test_without_a_threshold_all_images_enter_at_the_finest_level():
    never = NoiseScheduler(KARRAS, (0.1, 0.3), threshold=None)
    routing = routed(torch.tensor([0.1, 80.0]), scheduler=never)
    assert routing.levels.tolist() == [0, 0]
    assert not routing.is_near.any()


def test_rows_name_the_images_of_a_level():
    routing = Routing(
        levels=torch.tensor([1, 0, 2, 0, 1]),
        is_near=torch.tensor([True, True, False, False, False]),
        sigma=torch.ones(5),
        window=None,
    )
    assert [routing.rows(level).tolist() for level in range(NUM_LEVELS)] == [[1, 3], [0, 4], [2]]
    assert [routing.rows_alone(level).tolist() for level in (1, 2)] == [[1], [0]]


def test_the_same_moment_routes_alike_and_another_does_not():
    sigma = torch.full((64,), 0.4)
    levels = [
        routed(sigma, moment).levels.tolist()
        for moment in (MOMENT, MOMENT, Moment(0, "train", 704), Moment(1, "train", 640))
    ]
    assert levels[0] == levels[1]
    assert levels[0] != levels[2] != levels[3] != levels[0]


def test_processes_route_their_part_as_one_process_routes_all():
    sigma = torch.full((64,), 0.4)
    router = Router(SCHEDULER, num_cells=8, crop_share=0.5)
    whole = router.at(MOMENT, sigma, slice(0, 64), 64)
    for images in (slice(0, 32), slice(32, 64)):
        part = router.at(MOMENT, sigma[images], images, 64)
        assert torch.equal(part.levels, whole.levels[images])
        assert torch.equal(part.is_near, whole.is_near[images])
        assert part.window == whole.window


def test_a_part_of_a_batch_keeps_its_routing():
    whole = routed(torch.linspace(0.1, 2, 20), crop_share=0.5)
    part = whole[slice(5, 9)]
    for name in ("levels", "is_near", "sigma"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[5:9])
    assert part.window == whole.window


@pytest.mark.parametrize("batch_images", [32, 64])
def test_every_step_has_images_for_every_level(batch_images: int):
    """As many as the noise asks for: its draw is stratified, and only the edges are soft."""
    bounds = [0.0, 0.4, 1.2, math.inf]
    normal = torch.distributions.Normal(-0.6, 1.2)
    shares = [
        (normal.cdf(torch.tensor(high).log()) - normal.cdf(torch.tensor(low).log())).item()
        for low, high in pairwise(bounds)
    ]
    counts = []
    for step in range(60):
        begin = step * batch_images
        levels = routed(drawn_sigma(batch_images, begin), Moment(0, "train", begin)).levels
        counts.append(levels.bincount(minlength=NUM_LEVELS))
    of_steps = torch.stack(counts)
    assert int(of_steps.min()) >= 1
    expected = torch.tensor(shares) * batch_images
    assert (of_steps - expected).abs().max() < 0.15 * batch_images
    assert of_steps.double().mean(dim=0).tolist() == pytest.approx(expected.tolist(), rel=0.05)


def test_the_overlap_changes_no_share_of_the_noise_levels():
    """An image keeps its noise: near a threshold both levels see what is on either side of it."""
    sigma = torch.cat([drawn_sigma(64, 64 * step) for step in range(40)])
    levels = torch.cat(
        [
            routed(part, Moment(0, "train", 64 * step)).levels
            for step, part in enumerate(sigma.split(64))
        ]
    )
    assert sigma[levels == 0].max() > 0.4 * 1.3
    assert sigma[levels == 0].max() <= 0.4 * OVERLAP
    assert sigma[levels == 1].min() < 0.4 / 1.3
    assert sigma[levels == 1].min() >= 0.4 / OVERLAP


# --- windows


def test_all_of_the_finest_branch_is_no_window():
    assert routed(torch.ones(2)).window is None


@pytest.mark.parametrize(
    ("crop_share", "side"), [(0.5, 4), (0.75, 6), (0.9, 7), (0.01, 1), (0.99, None)]
)
def test_a_window_has_its_share_of_the_side(crop_share: float, side: int | None):
    window = routed(torch.ones(2), crop_share=crop_share).window
    assert (window.side if window else None) == side


def test_windows_lie_anywhere_within_the_cells():
    corners = set()
    for step in range(300):
        window = routed(torch.ones(2), Moment(0, "train", 64 * step), crop_share=0.5).window
        assert window is not None
        corners.add((window.top, window.left))
    assert corners == {(top, left) for top in range(5) for left in range(5)}
