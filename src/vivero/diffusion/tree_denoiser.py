"""What a tree of branches means: from their raw predictions to denoised level images.

Every band of every level has its own scale, the deviation that it has over the data, and is
preconditioned by it as EDM does the whole image. Coarse estimates of neighbouring branches are
mixed by a weight that the finer one predicts.

Letters: B images, C channels, H rows, W columns of the images; n images of a branch, h rows and w
columns of its level image; L levels. Level images are in orthonormal scale (vivero.diffusion.haar).
Pure: no files, no randomness, no losses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vivero.config.schema import ParameterisationName
from vivero.diffusion.haar import haar_join, haar_pyramid, haar_split
from vivero.diffusion.hierarchical import LevelEstimate
from vivero.diffusion.noise_scheduler import NoiseScheduler
from vivero.diffusion.preconditioning import Coefficients, band_coefficients


class BranchOutput(NamedTuple):
    """What a branch of the network gives.

    Attributes:
        raw: For the own bands 4C channels; one logit of the fusion unless it is the root; above
            level 0 12C channels for the details of the next finer level, themselves split. Shape
            (n, outputs, h/2, w/2).
        log_residual: ln of the share of the foreseen details' variance that stays unforeseen, shape
            (3C,); None at level 0.
    """

    raw: Tensor
    log_residual: Tensor | None


# split images of each level, noise condition, labels, levels of entry, window
TreeCall = Callable[..., list[BranchOutput]]
FUSION_START = 2.0  # a new branch trusts itself to sigmoid(2) = 0.88, the coarser one for the rest


@dataclass(frozen=True)
class Bands:
    """The scales of the data, which the network keeps with its weights.

    Attributes:
        detail_std: Standard deviation of each level's details, finest first; length L.
        coarse_rms: Root mean square of each level's coarse half; length L.
    """

    detail_std: tuple[float, ...]
    coarse_rms: tuple[float, ...]


def bands_of(band_std: Sequence[float], image_rms: float) -> Bands:
    """The scales of all bands from those of the details and of the images.

    An orthonormal split keeps the energy, so a coarse half has what the details leave of it:
    mean square of coarse = 4 * mean square of the image - 3 * mean square of the details.

    Args:
        band_std: Standard deviation of each level's details, finest first.
        image_rms: Root mean square of the images.
    """
    coarse_rms, energy = [], image_rms**2
    for std in band_std:
        energy = max(4 * energy - 3 * std**2, std**2)
        coarse_rms.append(math.sqrt(energy))
    return Bands(tuple(band_std), tuple(coarse_rms))


@dataclass(frozen=True)
class BranchPrediction:
    """What one branch says, for the images that pass through it.

    Attributes:
        clean: Its level image, fused with what the coarser branches say, shape (n, C, h, w).
        own_coarse: The coarse half as this branch alone sees it, shape (n, C, h/2, w/2).
        fusion_weight: Share of own_coarse in the fused coarse half, shape (n, 1, h/2, w/2); None
            at the root and where branches are not fused.
        details: Expected details of the next finer level, for the images that enter here (the
            last rows), shape (m, 3C, h, w); None at level 0.
        details_std: How far they are off, shape (3C, 1, 1); None at level 0.
    """

    clean: Tensor
    own_coarse: Tensor
    fusion_weight: Tensor | None
    details: Tensor | None
    details_std: Tensor | None


@dataclass(frozen=True)
class TreeDenoiser:
    """A tree of branches, read as a denoiser: called like one, or level by level.

    Args:
        network: Takes what models.tree.TreeNetwork takes, and gives what it gives.
        scheduler: Noise levels and the thresholds between the tree's levels.
        bands: Scales of the data.
        parameterisation: What the network predicts of each band.
        is_fused: Whether coarse estimates are mixed; otherwise each branch speaks for itself.
        null_label: The label that stands for "no class"; the number of classes.
        is_naive: Whether the hand-over to a finer level forgets what is foreseen of its details,
            for comparison.
    """

    network: TreeCall
    scheduler: NoiseScheduler
    bands: Bands
    parameterisation: ParameterisationName
    is_fused: bool
    null_label: int
    is_naive: bool = False

    def __call__(
        self,
        noisy: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """The expected clean image behind each noisy one, each seen from the level its noise names.

        What that level does not show is the mean of a Gaussian posterior: of the details it
        foresees, with the deviation it has learned, and of those finer still, around zero.

        Args:
            noisy: clean + sigma * noise, shape (B, C, H, W).
            sigma: Noise level of each image, shape (B,), > 0.
            labels: Class of each image, shape (B,); null_label where none is given.

        Returns:
            denoised, shape (B, C, H, W).
        """
        levels = self.scheduler.levels_of(sigma)
        order = levels.argsort(stable=True)
        counts = levels.bincount(minlength=self.scheduler.num_levels).tolist()
        noisy, sigma, labels = noisy[order], sigma[order], labels[order]
        parts = enumerate(torch.split(noisy, counts))
        pyramids = [haar_pyramid(part, level + 1) for level, part in parts]
        branches = self.predict([pyramid[-1] for pyramid in pyramids], sigma, labels)
        denoised = []
        for level, (pyramid, count, part_sigma) in enumerate(
            zip(pyramids, counts, torch.split(sigma, counts), strict=True)
        ):
            branch = branches[level]
            if count and branch is not None:
                denoised.append(self._to_full_size(branch, count, pyramid, part_sigma, level))
        return torch.cat(denoised)[order.argsort()]

    def at_level(
        self,
        noisy: Float[Tensor, "B C h w"],
        sigma: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"],
        level: int,
    ) -> LevelEstimate:
        """What the branches from a level on know of the clean image.

        Args:
            noisy: Level image with noise of deviation sigma, shape (B, C, h, w).
            sigma: Shape (B,), > 0.
            labels: Shape (B,).
            level: Where the images enter; finer branches are not touched.
        """
        states = [noisy[:0]] * level + [noisy]
        states += [noisy[:0]] * (self.scheduler.num_levels - len(states))
        branch = self.predict(states, sigma, labels)[level]
        if branch is None:
            raise ValueError("at_level needs at least one image")
        details_std = branch.details_std if branch.details is not None else None
        return LevelEstimate(branch.clean, branch.details, details_std)

    def predict(
        self,
        states: Sequence[Tensor],
        sigma: Float[Tensor, " B"],
        labels: Tensor,
        window: Any = None,
    ) -> list[BranchPrediction | None]:
        """One pass for images that enter at different levels.

        Args:
            states: For each level the noisy level images that enter there, (m, C, h, w).
            sigma: Of all of them in that order, shape (B,), > 0.
            labels: Likewise.
            window: Part of the finest branch to compute, as models.tree.Window; None for all.

        Returns:
            For each level what its branch says of all images that entered there or before; None
            where there are none.
        """
        halves: list[tuple[Tensor, Tensor] | None] = []
        inputs: list[Tensor | None] = []
        coarse: Tensor | None = None
        for level, entering in enumerate(states):
            parts = [part for part in (coarse, entering) if part is not None and len(part)]
            if not parts:
                halves.append(None)
                inputs.append(None)
                continue
            noisy = torch.cat(parts) if len(parts) > 1 else parts[0]
            coarse, details = haar_split(noisy)
            of_coarse, of_details = self._coefficients(level, sigma[: len(noisy)])
            scaled = [_per_image(of_coarse.into) * coarse, _per_image(of_details.into) * details]
            halves.append((coarse, details))
            inputs.append(torch.cat(scaled, dim=1))
        counts = [len(entering) for entering in states]
        levels = torch.arange(len(states), device=sigma.device).repeat_interleave(
            torch.tensor(counts, device=sigma.device), output_size=sum(counts)
        )
        outputs = self.network(inputs, sigma.log() / 4, labels, levels, window)
        return self._read(halves, outputs, sigma, window)

    def _read(
        self,
        halves: Sequence[tuple[Tensor, Tensor] | None],
        outputs: Sequence[BranchOutput],
        sigma: Tensor,
        window: Any,
    ) -> list[BranchPrediction | None]:
        """From raw outputs to predictions, the root first."""
        branches: list[BranchPrediction | None] = [None] * len(halves)
        first = len(halves) - len(outputs)
        for level in reversed(range(first, len(halves))):
            half, (raw, log_residual) = halves[level], outputs[level - first]
            if half is None:
                continue
            output = raw.to(sigma.dtype)
            coarse, details = half
            if window is not None and level == 0:
                coarse, details = window.of(coarse, 2), window.of(details, 2)
            num_channels = coarse.shape[1]
            of_coarse, of_details = self._coefficients(level, sigma[: len(coarse)])
            own_coarse = _denoised(of_coarse, coarse, output[:, :num_channels])
            own_details = _denoised(of_details, details, output[:, num_channels : 4 * num_channels])
            weight = None
            fused = own_coarse
            child = branches[level + 1] if level + 1 < len(halves) else None
            if child is not None and self.is_fused:
                weight = torch.sigmoid(output[:, 4 * num_channels, None] + FUSION_START)
                below = child.clean[: len(coarse)]
                if window is not None and level == 0:
                    below = window.of(below, 2)
                fused = torch.lerp(below, own_coarse, weight)
            branches[level] = BranchPrediction(
                haar_join(fused, own_details),
                own_coarse,
                weight,
                *self._foreseen(level, output, log_residual, halves),
            )
        return branches

    def _foreseen(
        self,
        level: int,
        output: Tensor,
        log_residual: Tensor | None,
        halves: Sequence[tuple[Tensor, Tensor] | None],
    ) -> tuple[Tensor | None, Tensor | None]:
        """Details of the finer level, of the images that enter here, and how far they are off."""
        if log_residual is None:
            return None, None
        finer_half = halves[level - 1]
        num_finer = 0 if finer_half is None else len(finer_half[0])
        std, num_bands = self.bands.detail_std[level - 1], 4 * len(log_residual)
        split = output[num_finer:, -num_bands:]
        details = std * haar_join(split[:, : num_bands // 4], split[:, num_bands // 4 :])
        residual = torch.exp(log_residual / 2)[:, None, None]
        if self.is_naive:
            return torch.zeros_like(details), std * torch.ones_like(residual)
        return details, std * residual

    def _to_full_size(
        self,
        branch: BranchPrediction,
        count: int,
        pyramid: Sequence[Tensor],
        sigma: Tensor,
        level: int,
    ) -> Tensor:
        """The level image of the last `count` rows with the posterior mean of all finer details."""
        clean = branch.clean[-count:]
        expected, std = branch.details, branch.details_std
        for finer in reversed(range(level)):
            _, noisy_details = haar_split(pyramid[finer])
            if expected is None or std is None:
                expected = torch.zeros_like(noisy_details)
                std = expected.new_tensor(self.bands.detail_std[finer])
            gain = std**2 / (std**2 + _per_image(sigma) ** 2)
            clean = haar_join(clean, torch.lerp(expected, noisy_details, gain.expand_as(expected)))
            expected = std = None
        return clean

    def _coefficients(self, level: int, sigma: Tensor) -> tuple[Coefficients, Coefficients]:
        """Scales of a level's coarse half and of its details."""
        return (
            band_coefficients(self.parameterisation, sigma, self.bands.coarse_rms[level]),
            band_coefficients(self.parameterisation, sigma, self.bands.detail_std[level]),
        )


def _denoised(scale: Coefficients, noisy: Tensor, predicted: Tensor) -> Tensor:
    return _per_image(scale.skip) * noisy + _per_image(scale.out) * predicted


def _per_image(values: Float[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
    return values[:, None, None, None]
