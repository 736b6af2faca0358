"""The parts of a tree's loss: by hand, without bias, and none that was not asked for."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.unit.training.tiny_run import tiny_run, tiny_train_config
from vivero.config.schema import LossConfig
from vivero.diffusion.haar import haar_join, haar_pool, haar_pyramid, haar_split
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.schedules import KarrasSchedule
from vivero.diffusion.tree_denoiser import Bands, BranchPrediction
from vivero.models.tree import Window
from vivero.training.loss import build_objective, loss_terms
from vivero.training.randomness import Moment, NoiseDraw
from vivero.training.routing import OVERLAP, Router, Routing
from vivero.training.tree_loss import Losses, TreeObjective, tree_terms

KARRAS = KarrasSchedule(0.01, 80.0, log_sigma_mean=-0.6, log_sigma_std=1.2)
STD = 0.5  # of the details between the two levels
NOTHING = LossConfig(
    coarse_weight=0.0,
    consistency_weight=0.0,
    handover_weight=0.0,
    detail_weight=0.0,
    perceptual_weight=0.0,
    perceptual_max_sigma=0.3,
)
EVERYTHING = LossConfig(
    coarse_weight=0.25,
    consistency_weight=0.1,
    handover_weight=0.2,
    detail_weight=0.3,
    perceptual_weight=0.7,
    perceptual_max_sigma=0.3,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def edm(sigma: Tensor) -> Tensor:
    return 1 / sigma**2 + 1 / 0.8**2


Predict = Callable[[list[Tensor], Tensor], list[BranchPrediction | None]]


@dataclass
class Tree:
    """Two levels whose branches say what a function makes of the states."""

    make: Predict
    scheduler = NoiseScheduler(KARRAS, (STD,), threshold=2.0)
    bands = Bands((STD, 0.8), (1.0, 2.0))

    def predict(
        self, states: list[Tensor], sigma: Tensor, labels: Tensor, window: Window | None = None
    ) -> list[BranchPrediction | None]:
        self.num_rows = [len(state) for state in states]
        assert sum(self.num_rows) == len(sigma) == len(labels)
        return self.make(states, sigma)


def routing_of(levels: list[int], sigma: Tensor, near: list[bool] | None = None, window=None):
    is_near = torch.tensor(near if near is not None else [False] * len(levels))
    return Routing(torch.tensor(levels), is_near, sigma, window)


def losses_of(
    tree: Tree,
    config: LossConfig,
    clean: Tensor,
    noise: Tensor,
    routing: Routing,
    perceptual=None,
) -> Losses:
    draw = NoiseDraw(noise, routing.sigma, torch.zeros(len(clean), dtype=torch.bool))
    objective = TreeObjective(edm, config, perceptual)
    labels = torch.zeros(len(clean), dtype=torch.int64)
    return objective.losses(tree, clean, labels, draw, routing)


# --- the parts by hand


CLEAN, NOISE = normal(3, 1, 8, 8), normal(3, 1, 8, 8, seed=1)
LEVELS, SIGMA = [1, 0, 0], torch.tensor([1.3, 0.9, 0.1])  # the threshold is 1
NEAR = [False, False, True]  # image 2 could enter at level 1 as well
ROWS = [1, 2, 0, 2]  # of the pass: the finest first, then the coarser, then who learns alone
OFF = {"fine": 0.1, "coarse": 0.2, "own": 0.3, "alone": 0.4, "details": 0.05}
FORESEEN_STD = (0.4, 0.5, 0.7)


def off_by_constants(states: list[Tensor], sigma: Tensor) -> list[BranchPrediction | None]:
    """Every branch is off the truth by a constant of its own."""
    has_alone = len(sigma) == 4
    order = ROWS if has_alone else ROWS[:3]
    fine, coarse = haar_pyramid(CLEAN[order], 2)
    shift = torch.tensor([OFF["coarse"]] * 3 + [OFF["alone"]] * has_alone)
    coarse_clean = coarse + shift[:, None, None, None]
    own_coarse = coarse_clean[:2] + OFF["own"]
    _, details = haar_split(fine[2:])
    return [
        BranchPrediction(fine[:2] + OFF["fine"], own_coarse, None, None, None),
        BranchPrediction(
            coarse_clean,
            haar_pool(coarse_clean),
            None,
            details + OFF["details"],
            torch.tensor(FORESEEN_STD)[:, None, None],
        ),
    ]


def by_hand(config: LossConfig) -> dict[str, list[float]]:
    """What each image adds to each part."""
    fine = [edm(s).item() for s in SIGMA]
    coarse = [edm(s / 2).item() / 4 for s in SIGMA]  # in units of the mean pixel, scale 2
    surprise = [
        (ratio - math.log(ratio) - 1) / 2
        for ratio in (OFF["details"] ** 2 / std**2 for std in FORESEEN_STD)
    ]
    # the finer view is the truth + 0.1, pooled in orthonormal scale: + 0.2
    gap = OFF["alone"] - 2 * OFF["fine"]
    return {
        "denoising": [
            coarse[0] * OFF["coarse"] ** 2,
            fine[1] * OFF["fine"] ** 2,
            fine[2] * OFF["fine"] ** 2,
        ],
        "coarse": [
            0,
            *(config.coarse_weight * coarse[i] * OFF["coarse"] ** 2 for i in (1, 2)),
        ],
        "consistency": [
            0,
            *(config.consistency_weight * coarse[i] * OFF["own"] ** 2 for i in (1, 2)),
        ],
        "handover": [0, 0, config.handover_weight * coarse[2] * gap**2],
        "detail": [config.detail_weight * OFF["details"] ** 2 / STD**2, 0, 0],
        "residual": [config.detail_weight * sum(surprise) / 3, 0, 0],
        "perceptual": [0, 0, config.perceptual_weight * OFF["fine"]],
    }


def mean_distance(images: Tensor, others: Tensor) -> Tensor:
    return (images - others).mean(dim=(1, 2, 3))


def test_each_part_is_what_it_is_by_hand():
    routing = routing_of(LEVELS, SIGMA, NEAR)
    losses = losses_of(Tree(off_by_constants), EVERYTHING, CLEAN, NOISE, routing, mean_distance)
    parts = by_hand(EVERYTHING)
    assert losses.terms.keys() == parts.keys() == set(tree_terms(EVERYTHING))
    for name, of_images in parts.items():
        assert losses.terms[name].item() == pytest.approx(sum(of_images) / 3, rel=1e-5), name
    totals = [sum(values) for values in zip(*parts.values(), strict=True)]
    assert losses.per_image.tolist() == pytest.approx(totals, rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "names"),
    [
        ("coarse_weight", {"coarse"}),
        ("consistency_weight", {"consistency"}),
        ("handover_weight", {"handover"}),
        ("detail_weight", {"detail", "residual"}),
        ("perceptual_weight", {"perceptual"}),
    ],
)
def test_a_weight_of_zero_leaves_its_part_out(weight: str, names: set[str]):
    config = EVERYTHING.model_copy(update={weight: 0.0})
    perceptual = mean_distance if config.perceptual_weight else None
    tree = Tree(off_by_constants)
    losses = losses_of(tree, config, CLEAN, NOISE, routing_of(LEVELS, SIGMA, NEAR), perceptual)
    rest = {name: part for name, part in by_hand(EVERYTHING).items() if name not in names}
    assert losses.terms.keys() == rest.keys() == set(tree_terms(config))
    totals = [sum(values) for values in zip(*rest.values(), strict=True)]
    assert losses.per_image.tolist() == pytest.approx(totals, rel=1e-5)


def test_only_the_hand_over_costs_rows_of_their_own():
    tree, routing = Tree(off_by_constants), routing_of(LEVELS, SIGMA, NEAR)
    losses_of(tree, EVERYTHING, CLEAN, NOISE, routing, mean_distance)
    assert tree.num_rows == [2, 2]
    losses_of(tree, NOTHING, CLEAN, NOISE, routing)
    assert tree.num_rows == [2, 1]


def test_the_perceptual_distance_is_not_built_where_it_weighs_nothing():
    assert build_objective(tiny_train_config(network="tree"), 2, mean_distance).perceptual is None
    weighty = tiny_train_config(network="tree", loss={"perceptual_weight": 0.1})
    assert build_objective(weighty, 2, mean_distance).perceptual is mean_distance


def test_with_no_weights_only_the_error_of_the_level_of_entry_is_left():
    tree, routing = Tree(off_by_constants), routing_of(LEVELS, SIGMA, NEAR)
    losses = losses_of(tree, NOTHING, CLEAN, NOISE, routing)
    assert losses.per_image.tolist() == pytest.approx(by_hand(NOTHING)["denoising"], rel=1e-5)
    assert losses.terms.keys() == {"denoising"}
    assert tree_terms(NOTHING) == ("denoising",)


def test_a_u_net_has_no_parts():
    assert loss_terms(tiny_train_config()) == ()
    assert loss_terms(tiny_train_config(network="tree"))[0] == "denoising"


def test_branches_are_shown_one_noise_in_all_levels():
    seen: list[list[Tensor]] = []

    def look(states: list[Tensor], sigma: Tensor) -> list[BranchPrediction | None]:
        seen.append(states)
        return off_by_constants(states, sigma)

    losses_of(Tree(look), EVERYTHING, CLEAN, NOISE, routing_of(LEVELS, SIGMA, NEAR), mean_distance)
    fine, coarse = haar_pyramid(CLEAN + SIGMA[:, None, None, None] * NOISE, 2)
    torch.testing.assert_close(seen[0][0], fine[[1, 2]])
    torch.testing.assert_close(seen[0][1], coarse[[0, 2]])


# --- the perceptual part


@pytest.mark.parametrize("max_sigma", [0.05, 0.3, 0.95])
def test_the_perceptual_part_sees_clear_images_of_the_finest_branch_only(max_sigma: float):
    seen: list[int] = []

    def distance(images: Tensor, others: Tensor) -> Tensor:
        seen.append(len(images))
        torch.testing.assert_close(images, others + OFF["fine"])
        return mean_distance(images, others)

    config = NOTHING.model_copy(
        update={"perceptual_weight": 0.7, "perceptual_max_sigma": max_sigma}
    )
    sigma = torch.tensor([0.01, 0.9, 0.1])  # the first enters coarse
    losses = losses_of(
        Tree(off_by_constants), config, CLEAN, NOISE, routing_of(LEVELS, sigma), distance
    )
    clear = [sigma_of_image < max_sigma for sigma_of_image in (0.9, 0.1)]
    assert seen == ([sum(clear)] if any(clear) else [])
    without = losses_of(Tree(off_by_constants), NOTHING, CLEAN, NOISE, routing_of(LEVELS, sigma))
    added = losses.per_image - without.per_image
    assert added.tolist() == pytest.approx([0, *(0.7 * 0.1 * c for c in clear)], abs=1e-5)


# --- windows


def test_a_window_counts_only_what_it_shows():
    """Also of the hand-over, whose coarse branch sees the whole image."""
    window = Window(top=1, left=0, side=1)  # of 2 cells, each 4 pixels wide

    def cut(states: list[Tensor], sigma: Tensor) -> list[BranchPrediction | None]:
        fine, coarse = off_by_constants(states, sigma)
        assert fine is not None
        assert coarse is not None
        wrong = coarse.clean.clone()  # only outside the window
        wrong[3, :, :2] += 5
        return [
            replace(
                fine,
                clean=window.of(fine.clean, 4),
                own_coarse=window.of(fine.own_coarse, 2),
            ),
            replace(coarse, clean=wrong),
        ]

    routing = routing_of(LEVELS, SIGMA, NEAR, window)
    losses = losses_of(Tree(cut), EVERYTHING, CLEAN, NOISE, routing, mean_distance)
    totals = [sum(values) for values in zip(*by_hand(EVERYTHING).values(), strict=True)]
    assert losses.per_image.tolist() == pytest.approx(totals, rel=1e-5)


# --- without bias


class Gaussian:
    """Images of 4 x 4 pixels whose neighbours are alike, and all that can be known of them.

    The finest branch knows E[z_0 | y_0] and hands it on; the coarse branch alone E[z_1 | y_1].
    `scale` multiplies what is said, with one number for each image: at 1 it is the posterior mean.
    """

    def __init__(self, num_images: int, sigma: float) -> None:
        position = torch.arange(4, dtype=torch.float64) / 2
        row, column = (a.flatten() for a in torch.meshgrid(position, position, indexing="ij"))
        distance = torch.hypot(row[:, None] - row, column[:, None] - column)
        covariance = 0.5 * torch.exp(-distance)
        eye = torch.eye(16, dtype=torch.float64)
        pool = haar_pool(eye.reshape(16, 1, 4, 4)).flatten(1).T
        of_coarse = pool @ covariance @ pool.T
        self.fine = torch.linalg.solve(covariance + sigma**2 * eye, covariance).float()
        noisy_coarse = of_coarse + sigma**2 * eye[:4, :4]
        self.coarse = torch.linalg.solve(noisy_coarse, of_coarse).float()
        root = torch.linalg.cholesky(covariance).float()
        self.clean = (normal(num_images, 16) @ root.T).reshape(-1, 1, 4, 4)
        self.noise = normal(num_images, 1, 4, 4, seed=5)
        self.sigma = torch.full((num_images,), sigma)
        self.scale = {
            of: torch.ones(num_images, 1, 1, 1, requires_grad=True) for of in ("fine", "coarse")
        }

    def predict(self, states: list[Tensor], sigma: Tensor) -> list[BranchPrediction | None]:
        fine, alone = states
        clean = (fine.flatten(1) @ self.fine).reshape(fine.shape)
        own = (alone.flatten(1) @ self.coarse).reshape(alone.shape)
        handed, of_coarse = haar_pool(clean), self.scale["coarse"]
        coarse = torch.cat([of_coarse * handed, of_coarse[: len(own)] * own])
        of_fine, nothing = self.scale["fine"], torch.zeros(len(alone), 3, 2, 2)
        return [
            BranchPrediction(of_fine * clean, of_fine * handed, None, None, None),
            BranchPrediction(coarse, haar_pool(coarse), None, nothing, torch.ones(3, 1, 1)),
        ]


NUM_IMAGES, NOISE_STD = 4000, 0.7


def gradients(config: LossConfig, of: str, scale: float = 1.0) -> Tensor:
    """Of each image's loss, by the scale of a branch."""
    gaussian = Gaussian(NUM_IMAGES, NOISE_STD)
    with torch.no_grad():
        gaussian.scale[of].fill_(scale)
    routing = routing_of([0] * NUM_IMAGES, gaussian.sigma, near=[True] * NUM_IMAGES)
    losses = losses_of(Tree(gaussian.predict), config, gaussian.clean, gaussian.noise, routing)
    (gradient,) = torch.autograd.grad(losses.per_image.sum(), gaussian.scale[of])
    return gradient.flatten()


def mean_in_errors(values: Tensor) -> float:
    """The mean of values over its standard error."""
    return (values.mean() / (values.std() / len(values) ** 0.5)).item()


def part(weight: str, of: str, scale: float = 1.0) -> Tensor:
    """Gradients of one part: with its weight, less those without."""
    config = NOTHING.model_copy(update={weight: 1.0})
    return gradients(config, of, scale) - gradients(NOTHING, of, scale)


def test_the_hand_over_asks_a_coarse_branch_alone_for_its_own_posterior_mean():
    """The tower rule: E[P E[z_0 | y_0] | y_1] = E[z_1 | y_1]."""
    at_optimum = part("handover_weight", "coarse")
    assert at_optimum.abs().mean() > 0.01, "there is a gradient, of either sign"
    assert abs(mean_in_errors(at_optimum)) < 4
    assert mean_in_errors(part("handover_weight", "coarse", scale=1.2)) > 10
    assert mean_in_errors(part("handover_weight", "coarse", scale=0.8)) < -10


def test_the_finer_view_is_a_target_with_less_noise_than_the_data():
    """It is the mean of what the data could be: the same minimum, found with fewer images."""
    gaussian = Gaussian(NUM_IMAGES, NOISE_STD)
    noisy = gaussian.clean + NOISE_STD * gaussian.noise
    said = haar_pool(noisy).flatten(1) @ gaussian.coarse
    view = haar_pool((noisy.flatten(1) @ gaussian.fine).reshape(noisy.shape)).flatten(1)
    by_data, by_view = (
        (2 * (said - target) * said).mean(dim=1)
        for target in (haar_pool(gaussian.clean).flatten(1), view)
    )
    assert by_view.std() < 0.6 * by_data.std()
    weight = edm(torch.tensor(NOISE_STD / 2)).item() / 4
    found = part("handover_weight", "coarse")
    torch.testing.assert_close(found, weight * by_view, rtol=1e-3, atol=1e-4)


def test_the_hand_over_does_not_pull_at_the_finer_branch():
    assert part("handover_weight", "fine").abs().max() < 1e-5
    assert part("handover_weight", "fine", scale=1.5).abs().max() < 1e-5


@pytest.mark.parametrize("of", ["fine", "coarse"])
def test_branches_that_agree_on_the_posterior_mean_are_left_alone(of: str):
    assert part("consistency_weight", of).abs().max() < 1e-4
    assert mean_in_errors(part("consistency_weight", of, scale=1.2)) > 10


@pytest.mark.parametrize("of", ["fine", "coarse"])
def test_errors_are_least_at_the_posterior_mean(of: str):
    config = NOTHING.model_copy(update={"coarse_weight": 1.0})
    assert abs(mean_in_errors(gradients(config, of))) < 4
    assert mean_in_errors(gradients(config, of, scale=1.2)) > 10


def test_the_residual_learns_the_variance_of_what_is_not_foreseen():
    gaussian_gap, log_std = normal(200, 3, 4, 4) * 0.3, torch.zeros(3)
    clean = haar_join(torch.zeros(200, 1, 4, 4), gaussian_gap)
    sigma = torch.full((200,), 1.0)

    def gradient(std: float) -> float:
        level = (log_std + math.log(std)).requires_grad_()

        def foresee(states: list[Tensor], sigma: Tensor) -> list[BranchPrediction | None]:
            coarse = torch.zeros(200, 1, 4, 4)
            nothing = torch.zeros(200, 3, 4, 4)
            own = BranchPrediction(
                coarse, haar_pool(coarse), None, nothing, level.exp()[:, None, None]
            )
            return [None, own]

        config = NOTHING.model_copy(update={"detail_weight": 1.0})
        losses = losses_of(
            Tree(foresee), config, clean, torch.zeros_like(clean), routing_of([1] * 200, sigma)
        )
        losses.per_image.mean().backward()
        assert level.grad is not None
        return level.grad.sum().item()

    measured = gaussian_gap.square().mean().sqrt().item()
    assert gradient(measured) == pytest.approx(0, abs=0.01)
    assert gradient(1.3 * measured) > 0.3
    assert gradient(0.7 * measured) < -0.3


@pytest.mark.parametrize(
    ("sigma", "is_asked"),
    [(1.0, True), (0.99 * OVERLAP, True), (1.01 * OVERLAP, False), (80.0, False)],
)
def test_only_images_near_the_hand_over_are_asked_how_sure_a_branch_is(sigma: float, is_asked):
    routing = routing_of(LEVELS, torch.tensor([sigma, 0.9, 0.1]))
    config = NOTHING.model_copy(update={"detail_weight": 0.3})
    terms = losses_of(Tree(off_by_constants), config, CLEAN, NOISE, routing).terms
    by_image = by_hand(config)
    assert terms["detail"].item() == pytest.approx(by_image["detail"][0] / 3, rel=1e-5)
    assert terms["residual"].item() == pytest.approx(is_asked * by_image["residual"][0] / 3)


def test_what_is_learned_of_the_residual_is_the_unforeseen_share_at_the_hand_over():
    """Of Gaussian details that are foreseen as well as can be, under noise up to 80."""
    threshold, coarse_std = Tree.scheduler.thresholds[0], 2.0
    of_coarse = torch.tensor([0.8, 0.4, 0.0])  # the share of each band that the coarse pixel makes

    def seen_share(sigma: Tensor) -> Tensor:
        return coarse_std**2 / (coarse_std**2 + sigma**2)

    sigma = torch.logspace(math.log10(threshold / 2), math.log10(80), 20_000)
    moment = Moment(seed=0, purpose="train", begin=0)
    router = Router(Tree.scheduler, num_cells=1, crop_share=1.0)
    sigma = sigma[router.at(moment, sigma, slice(None), len(sigma)).levels == 1]
    made = of_coarse.sqrt()[:, None, None] * STD / coarse_std
    coarse = coarse_std * normal(len(sigma), 1, 2, 2)
    rest = (1 - of_coarse).sqrt()[:, None, None] * STD * normal(len(sigma), 3, 2, 2, seed=1)
    clean, noise = haar_join(coarse, made * coarse + rest), normal(len(sigma), 1, 4, 4, seed=2)
    log_share = torch.zeros(3, requires_grad=True)

    def foresee(states: list[Tensor], sigma: Tensor) -> list[BranchPrediction | None]:
        own = seen_share(sigma)[:, None, None, None] * states[1]
        std = STD * torch.exp(log_share / 2)[:, None, None]
        return [None, BranchPrediction(own, haar_pool(own), None, made * own, std)]

    config = NOTHING.model_copy(update={"detail_weight": 1.0})
    routing = routing_of([1] * len(sigma), sigma)
    optimizer = torch.optim.LBFGS([log_share], max_iter=15, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean = losses_of(Tree(foresee), config, clean, noise, routing).per_image.mean()
        mean.backward()
        return mean

    optimizer.step(loss)
    unforeseen = 1 - of_coarse * seen_share(torch.tensor(threshold))  # 0.36, 0.68, 1
    # images near the threshold come to this level the more, the more noise they have
    torch.testing.assert_close(log_share.detach().exp(), unforeseen, rtol=0.12, atol=0)


def test_the_residual_does_not_pull_at_what_is_foreseen():
    clean = normal(20, 1, 8, 8)
    sigma = torch.full((20,), 1.0)
    shift = torch.full((20, 1, 1, 1), 0.3, requires_grad=True)
    coarse, details = haar_split(clean)

    def foresee(states: list[Tensor], sigma: Tensor) -> list[BranchPrediction | None]:
        std = torch.full((3, 1, 1), 0.2)
        return [None, BranchPrediction(coarse, haar_pool(coarse), None, details + shift, std)]

    config = NOTHING.model_copy(update={"detail_weight": 1.0})
    losses = losses_of(
        Tree(foresee), config, clean, torch.zeros_like(clean), routing_of([1] * 20, sigma)
    )
    losses.per_image.sum().backward()
    assert shift.grad is not None
    of_square = torch.full_like(shift, 2 * 0.3 / STD**2)
    torch.testing.assert_close(shift.grad, of_square, rtol=1e-4, atol=0)


# --- in training


def test_a_run_reports_every_part_by_name(tmp_path: Path):
    run = tiny_run(tmp_path, network="tree", total_images=32, validate_every_images=32).go()
    entries = [e for e in run.outlets.tracker.journal.entries() if e.kind == "metrics"]
    names = {name for entry in entries for name in entry.values if name.startswith("train/loss.")}
    parts = {"denoising", "coarse", "consistency", "handover", "detail", "residual"}
    assert names == {f"train/loss.{part}" for part in parts}
    rows = [entry.values for entry in entries if "train/loss" in entry.values]
    assert len(rows) == 2
    for values in rows:
        total = sum(values[name] for name in names)
        assert values["train/loss"] == pytest.approx(total, rel=1e-4)
        assert all(values[name] > 0 for name in names)


@pytest.mark.parametrize("num_parts", [1, 2])
def test_every_step_teaches_every_branch(tmp_path: Path, num_parts: int):
    run = tiny_run(
        tmp_path,
        network="tree",
        batch_images=16,
        num_micro_batches=num_parts,
        checkpoint_every_images=32,
    )
    for begin in range(0, 96, 16):
        batch = run.rig.batches.at(begin)
        assert batch.routing is not None
        assert set(batch.routing.levels.tolist()) == {0, 1}
        in_parts = [part.routing.levels for part in batch.parts(num_parts)]
        assert torch.equal(torch.cat(in_parts), batch.routing.levels)
