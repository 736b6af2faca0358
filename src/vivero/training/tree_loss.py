"""The losses of a tree: each branch's own error, and what branches can learn from each other.

All in one pass, for images that enter at different levels. Errors of a level image count per pixel
of it, so that a coarse image weighs as much as a fine one.
Letters: B images of the batch, n rows of a branch: B images and, where branches alone learn from
finer ones, some of them a second time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vivero.config.schema import LossConfig
from vivero.diffusion.haar import haar_pool, haar_pyramid, haar_split
from vivero.diffusion.tree_denoiser import BranchPrediction, TreeDenoiser
from vivero.training.randomness import NoiseDraw
from vivero.training.routing import OVERLAP, Routing

TINY = 1e-12
Perceptual = Callable[[Tensor, Tensor], Tensor]  # two lots of images (B, C, H, W) to (B,)


@dataclass(frozen=True)
class Losses:
    """The loss of a batch.

    Attributes:
        per_image: Shape (B,), float32; what is minimised is its mean.
        terms: Mean of each named part of it over all images of the batch, scalars without gradient;
            an image that a part does not concern adds 0. "residual" concerns those that enter above
            level 0 within a factor of OVERLAP of the threshold there.
    """

    per_image: Tensor
    terms: dict[str, Tensor]


def tree_terms(config: LossConfig) -> tuple[str, ...]:
    """The names of the parts of a tree's loss, as far as their weights are not zero."""
    weights = {
        "denoising": 1.0,
        "coarse": config.coarse_weight,
        "consistency": config.consistency_weight,
        "handover": config.handover_weight,
        "detail": config.detail_weight,
        "residual": config.detail_weight,
        "perceptual": config.perceptual_weight,
    }
    return tuple(name for name, weight in weights.items() if weight)


@dataclass(frozen=True)
class TreeObjective:
    """What the branches of a tree learn.

    Attributes:
        weight: Weight of a squared error at each noise level, (B,) to (B,), images in [-1, 1].
        config: The weights of the parts.
        perceptual: Distance of two lots of images as a network sees them; None where its weight
            is zero.
    """

    weight: Callable[[Tensor], Tensor]
    config: LossConfig
    perceptual: Perceptual | None = None

    def losses(
        self, tree: TreeDenoiser, clean: Tensor, labels: Tensor, draw: NoiseDraw, routing: Routing
    ) -> Losses:
        """The loss of a batch.

        Args:
            tree: The tree that is trained.
            clean: Real images, shape (B, C, H, W), range [-1, 1].
            labels: Class or null label of each image, shape (B,), int64.
            draw: Noise and noise levels of these images.
            routing: Where each image enters.
        """
        rows = _pass_rows(tree.scheduler.num_levels, routing, self.config.handover_weight > 0)
        order = rows.images.to(clean.device)
        sigma = draw.sigma[order]
        cleans = haar_pyramid(clean[order], rows.num_levels)
        noises = haar_pyramid(draw.noise[order], rows.num_levels)
        states = [
            (image + sigma[:, None, None, None] * noise)[rows.entering(level)]
            for level, (image, noise) in enumerate(zip(cleans, noises, strict=True))
        ]
        branches = tree.predict(states, sigma, labels[order], routing.window)
        sums = _Sums(order, rows.is_alone.to(clean.device), len(clean))
        for level, branch in enumerate(branches):
            if branch is not None:
                self._add_level(level, branch, branches, cleans, sigma, rows, routing, tree, sums)
        return sums.losses()

    def _add_level(  # noqa: PLR0913 - one pass has that many sides
        self,
        level: int,
        branch: BranchPrediction,
        branches: list[BranchPrediction | None],
        cleans: list[Tensor],
        sigma: Tensor,
        rows: "_PassRows",
        routing: Routing,
        tree: TreeDenoiser,
        sums: "_Sums",
    ) -> None:
        """Everything that the branch of one level learns."""
        config, window = self.config, routing.window if level == 0 else None
        num_rows, entering = len(branch.own_coarse), rows.entering(level)
        own_weight = self._weight(sigma[:num_rows], level)

        target = cleans[level][:num_rows]
        target = target if window is None else window.of(target, 4)
        error = own_weight * _mean_square(branch.clean - target)
        sums.add("denoising", error[entering], entering)
        if entering.start and config.coarse_weight:
            before = slice(0, entering.start)
            sums.add("coarse", config.coarse_weight * error[before], before)

        child = branches[level + 1] if level + 1 < len(branches) else None
        if child is not None and config.consistency_weight:
            below = child.clean[:num_rows]
            below = below if window is None else window.of(below, 2)
            weight = config.consistency_weight * self._weight(sigma[:num_rows], level + 1)
            gap = weight * _mean_square(branch.own_coarse - below)
            sums.add("consistency", gap, slice(0, num_rows))

        if config.detail_weight and num_rows > entering.start:
            finer_clean = cleans[level - 1][entering]
            self._add_details(branch, level, finer_clean, sigma[entering], entering, tree, sums)
        finer = branches[level - 1] if level else None
        if finer is not None and rows.num_alone[level]:
            alone = slice(num_rows - rows.num_alone[level], num_rows)
            gap = _gap_to_finer(branch.clean[alone], finer.clean, level, rows, routing)
            gap = config.handover_weight * own_weight[alone] * gap
            sums.add("handover", gap, alone, is_alone=True)
        if level == 0 and self.perceptual is not None:
            self._add_perceptual(self.perceptual, branch.clean, target, routing, sums)

    def _add_details(  # noqa: PLR0913 - as of _add_level
        self,
        branch: BranchPrediction,
        level: int,
        finer: Tensor,
        sigma: Tensor,
        entering: slice,
        tree: TreeDenoiser,
        sums: "_Sums",
    ) -> None:
        """What a branch foresees of the details above it, and how sure it is of that.

        It foresees at every noise, but how sure it is, one number a channel, is asked only where a
        sampler hands over; under more noise less is foreseen, which says nothing of that.
        """
        if branch.details is None or branch.details_std is None:
            return
        variance = tree.bands.detail_std[level - 1] ** 2
        _, details = haar_split(finer)
        gap = (branch.details - details).square()
        sums.add("detail", self.config.detail_weight * gap.mean(dim=(1, 2, 3)) / variance, entering)
        # The likelihood of the gap's variance, up to a constant that keeps it from falling below 0.
        ratio = gap.detach().mean(dim=(2, 3)).clamp(min=TINY) / branch.details_std[:, 0, 0] ** 2
        surprise = (ratio - ratio.log() - 1).mean(dim=1) / 2
        threshold = tree.scheduler.thresholds[level - 1]
        is_near = (sigma >= threshold / OVERLAP) & (sigma <= threshold * OVERLAP)
        sums.add("residual", self.config.detail_weight * surprise * is_near, entering)

    def _add_perceptual(
        self,
        perceptual: Perceptual,
        denoised: Tensor,
        target: Tensor,
        routing: Routing,
        sums: "_Sums",
    ) -> None:
        """The distance in features, where there is so little noise that it does not bias."""
        is_clear = routing.sigma[routing.rows(0)] < self.config.perceptual_max_sigma
        chosen = torch.nonzero(is_clear)[:, 0].to(target.device)
        if len(chosen):
            distance = perceptual(denoised[chosen], target[chosen])
            sums.add("perceptual", self.config.perceptual_weight * distance, chosen)

    def _weight(self, sigma: Tensor, level: int) -> Tensor:
        """The weight for images in units of the mean pixel, on errors in orthonormal scale."""
        weight: Tensor = self.weight(sigma / 2**level) / 4**level
        return weight


@dataclass(frozen=True)
class _PassRows:
    """The rows of one pass, ordered by the level they enter at.

    Attributes:
        images: Which image each row is, shape (rows,), int64.
        is_alone: Whether a row is an image's second one, shape (rows,), bool.
        starts: First row that enters at each level, and the number of rows.
        num_alone: Rows of each level, its last, that are images of the finer level.
        twins: Rows within the finer branch of the same images, for each level.
    """

    images: Tensor
    is_alone: Tensor
    starts: list[int]
    num_alone: list[int]
    twins: list[Tensor]

    @property
    def num_levels(self) -> int:
        return len(self.num_alone)

    def entering(self, level: int) -> slice:
        """The rows that enter at a level."""
        return slice(self.starts[level], self.starts[level + 1])


def _pass_rows(num_levels: int, routing: Routing, has_alone: bool) -> _PassRows:
    none = torch.zeros(0, dtype=torch.int64)
    images, is_alone, starts, num_alone, twins = [], [], [0], [], []
    for level in range(num_levels):
        own = routing.rows(level)
        alone = routing.rows_alone(level) if has_alone and level else none
        images += [own, alone]
        is_alone += [torch.zeros(len(own), dtype=torch.bool), torch.ones(len(alone)).bool()]
        starts.append(starts[-1] + len(own) + len(alone))
        num_alone.append(len(alone))
        # the finer level's own rows come in the order of the batch
        before = routing.rows(level - 1) if level else none
        twins.append(torch.searchsorted(before, alone) + (starts[level - 1] if level else 0))
    return _PassRows(torch.cat(images), torch.cat(is_alone), starts, num_alone, twins)


class _Sums:
    """Gathers what each row adds to the loss of its image."""

    def __init__(self, images: Tensor, is_alone: Tensor, num_images: int) -> None:
        self._images, self._is_alone = images, is_alone
        self._per_image = torch.zeros(num_images, device=images.device)
        self._terms: dict[str, Tensor] = {}

    def add(
        self, name: str, values: Tensor, rows: slice | Tensor, *, is_alone: bool = False
    ) -> None:
        """Add values of some rows; those of an image's second row count for the hand-over only."""
        if not is_alone:
            values = values * ~self._is_alone[rows]
        self._per_image = self._per_image.index_add(0, self._images[rows], values)
        sofar = self._terms.get(name, 0.0)
        self._terms[name] = sofar + values.detach().sum() / len(self._per_image)

    def losses(self) -> Losses:
        return Losses(self._per_image, self._terms)


def _gap_to_finer(
    seen: Tensor, finer: Tensor, level: int, rows: "_PassRows", routing: Routing
) -> Tensor:
    """Mean squared distance of what a branch sees alone from the view of the finer one, (m,).

    The finer branch is the teacher: it gets no gradient.
    """
    taught = haar_pool(finer.detach())[rows.twins[level].to(seen.device)]
    if level == 1 and routing.window is not None:
        seen = routing.window.of(seen, 2)
    return _mean_square(seen - taught)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().mean(dim=(1, 2, 3))
