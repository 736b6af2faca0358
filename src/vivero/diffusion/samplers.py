"""Samplers: from pure noise to images, by repeated denoising.

All work in the variance-exploding notation (noisy = clean + sigma * noise), on any falling grid of
noise levels that ends in 0, and with any function denoise(noisy, sigma, labels). The first state is
sigmas[0] * noise; the last step, to sigma 0, is the denoised image itself.

Every estimate passes `checked`, so that a run that diverges stops where it does. The sampler that
descends a tree of scales is in `hierarchical`: it needs more of a model than denoise.

Letters: B images, C channels, H rows, W columns, S steps + 1. Randomness comes from the caller.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, Protocol

from jaxtyping import Float, Int64
from torch import Tensor

from vivero.config.schema import SamplerName
from vivero.diffusion.preconditioning import Denoise
from vivero.errors import SamplingError

DrawNoise = Callable[[], Tensor]  # standard normal numbers, (B, C, H, W)
MAX_RATIO = 100.0  # of a value to 1 + noise level; guidance of 20 and coarse steps stay below


class Sampler(Protocol):
    """What every sampler is: a function from noise to images."""

    def __call__(
        self,
        denoise: Denoise,
        noise: Tensor,
        sigmas: Tensor,
        labels: Tensor,
        draw_noise: DrawNoise,
    ) -> Tensor:
        """Make one image of each noise.

        Args:
            denoise: Takes noisy (B, C, H, W), sigma (B,), labels (B,); gives denoised.
            noise: Standard normal, shape (B, C, H, W).
            sigmas: Noise levels, shape (S,), strictly falling, ending in 0.
            labels: Class of each image, shape (B,), int64.
            draw_noise: Gives fresh noise; called only by samplers that add noise on the way.

        Returns:
            Images, shape (B, C, H, W), about [-1, 1].

        Raises:
            SamplingError: When the denoiser gives something that is not a finite number, or numbers
                beyond what an image and its noise can hold.
        """


def sample_ddpm(
    denoise: Denoise,
    noise: Float[Tensor, "B C H W"],
    sigmas: Float[Tensor, " S"],
    labels: Int64[Tensor, " B"],
    draw_noise: DrawNoise,
) -> Float[Tensor, "B C H W"]:
    """Ancestral sampling: each step draws from the posterior q(next | noisy, denoised).

    mean = denoised + (next / sigma)^2 * (noisy - denoised)
    variance = next^2 * (1 - (next / sigma)^2)                    (the smaller one of DDPM's two)

    Source:
        Ho et al. 2020, arXiv:2006.11239, equations 6 and 7, divided by sqrt(alpha_bar).
    """
    sigma_max = sigmas[0].item()
    noisy = sigma_max * noise
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(noisy, _batch(noisy, sigma), labels)
        checked(denoised, noisy, step, sigma, sigma_max)
        share = (next_sigma / sigma) ** 2
        noisy = denoised + share * (noisy - denoised)
        if next_sigma > 0:
            noisy = noisy + next_sigma * math.sqrt(1 - share) * draw_noise()
    return noisy


def sample_ddim(
    denoise: Denoise,
    noise: Float[Tensor, "B C H W"],
    sigmas: Float[Tensor, " S"],
    labels: Int64[Tensor, " B"],
    draw_noise: DrawNoise,
) -> Float[Tensor, "B C H W"]:
    """Deterministic DDIM (eta = 0): Euler steps along sigma; first order.

    next = denoised + next_sigma / sigma * (noisy - denoised)

    Source:
        Song et al. 2020, arXiv:2010.02502, equations 12 and 13.
    """
    sigma_max = sigmas[0].item()
    noisy = sigma_max * noise
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(noisy, _batch(noisy, sigma), labels)
        checked(denoised, noisy, step, sigma, sigma_max)
        noisy = denoised + next_sigma / sigma * (noisy - denoised)
    return noisy


def sample_heun(
    denoise: Denoise,
    noise: Float[Tensor, "B C H W"],
    sigmas: Float[Tensor, " S"],
    labels: Int64[Tensor, " B"],
    draw_noise: DrawNoise,
) -> Float[Tensor, "B C H W"]:
    """Heun's method along sigma, without churn; second order, 2 * steps - 1 passes.

    Source:
        Karras et al. 2022, arXiv:2206.00364, algorithm 1 (algorithm 2 with S_churn = 0).
    """
    sigma_max = sigmas[0].item()
    noisy = sigma_max * noise
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(noisy, _batch(noisy, sigma), labels)
        checked(denoised, noisy, step, sigma, sigma_max)
        slope = (noisy - denoised) / sigma
        predicted = noisy + (next_sigma - sigma) * slope
        if next_sigma > 0:
            corrected = denoise(predicted, _batch(noisy, next_sigma), labels)
            checked(corrected, predicted, step, next_sigma, sigma_max)
            slope = (slope + (predicted - corrected) / next_sigma) / 2
            predicted = noisy + (next_sigma - sigma) * slope
        noisy = predicted
    return noisy


def sample_dpm_solver_pp_2m(
    denoise: Denoise,
    noise: Float[Tensor, "B C H W"],
    sigmas: Float[Tensor, " S"],
    labels: Int64[Tensor, " B"],
    draw_noise: DrawNoise,
) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(2M): exact in the linear part, denoised extrapolated from two steps.

    Second order with one pass a step; the first step, which has no step before it, is of first
    order, and the last is the denoised image at the least noise.

    Source:
        Lu et al. 2022, arXiv:2211.01095, algorithm 2, with lambda = -ln(sigma).
    """
    sigma_max = sigmas[0].item()
    noisy = sigma_max * noise
    before: Tensor | None = None
    log_step_before = math.nan
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(noisy, _batch(noisy, sigma), labels)
        checked(denoised, noisy, step, sigma, sigma_max)
        if next_sigma == 0:
            return denoised
        log_step = math.log(sigma / next_sigma)
        target = denoised
        if before is not None:
            target = denoised + log_step / (2 * log_step_before) * (denoised - before)
        noisy = target + next_sigma / sigma * (noisy - target)
        before, log_step_before = denoised, log_step
    return noisy


def sample_sde_dpm_solver_pp_2m(
    denoise: Denoise,
    noise: Float[Tensor, "B C H W"],
    sigmas: Float[Tensor, " S"],
    labels: Int64[Tensor, " B"],
    draw_noise: DrawNoise,
) -> Float[Tensor, "B C H W"]:
    """SDE-DPM-Solver++(2M): the steps of DPM-Solver++(2M) along the reverse diffusion.

    keep = (next / sigma)^2
    next state = target + keep * (noisy - target) + next * sqrt(1 - keep) * fresh noise

    with target as there. With target = denoised it would be DDPM's step: fresh noise washes out
    what earlier steps erred, and the extrapolation makes few steps enough for it.

    Source:
        Lu et al. 2022, arXiv:2211.01095, section 5, SDE-DPM-Solver++(2M).
    """
    sigma_max = sigmas[0].item()
    noisy = sigma_max * noise
    before: Tensor | None = None
    log_step_before = math.nan
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(noisy, _batch(noisy, sigma), labels)
        checked(denoised, noisy, step, sigma, sigma_max)
        if next_sigma == 0:
            return denoised
        log_step = math.log(sigma / next_sigma)
        target = denoised
        if before is not None:
            target = denoised + log_step / (2 * log_step_before) * (denoised - before)
        keep = (next_sigma / sigma) ** 2
        noisy = target + keep * (noisy - target)
        noisy = noisy + next_sigma * math.sqrt(1 - keep) * draw_noise()
        before, log_step_before = denoised, log_step
    return noisy


def sample_uni_pc(
    denoise: Denoise,
    noise: Float[Tensor, "B C H W"],
    sigmas: Float[Tensor, " S"],
    labels: Int64[Tensor, " B"],
    draw_noise: DrawNoise,
) -> Float[Tensor, "B C H W"]:
    """UniPC of order 2: the steps of DPM-Solver++(2M), each corrected by the pass after it.

    The estimate at the end of a step is needed for the next step anyway; together with those
    before it, it gives the step once more with one order more, at no further pass. As there, the
    first step is of first order (second, once corrected) and the last is the denoised image.

    next = next_sigma / sigma * noisy + (1 - next_sigma / sigma) * target
    target = denoised + log_step / (2 log_step_before) * (denoised - before)      (predictor)
    target = denoised + weight_before * (before - denoised) / ratio
                      + weight_ahead * (ahead - denoised)                         (corrector)
    with ratio = -log_step_before / log_step; the weights solve the conditions of order.

    Source:
        Zhao et al. 2023, arXiv:2302.04867, UniP and UniC of section 3 in data prediction, with
        B(h) = exp(h) - 1 (their B_2) and lambda = -ln(sigma).
    """
    sigma_max = sigmas[0].item()
    noisy = sigma_max * noise
    last_step: _MultiStep | None = None
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = denoise(noisy, _batch(noisy, sigma), labels)
        checked(denoised, noisy, step, sigma, sigma_max)
        if next_sigma == 0:
            return denoised
        log_step = math.log(sigma / next_sigma)
        if last_step is None:
            last_step = _MultiStep(noisy, denoised, log_step, None, math.nan)
        else:
            corrected = last_step.corrected(denoised)
            last_step = _MultiStep(
                corrected, denoised, log_step, last_step.denoised, last_step.log_step
            )
        noisy = last_step.predicted()
    return noisy


@dataclass(frozen=True)
class _MultiStep:
    """A step of UniPC from one noise level to the next.

    Args:
        noisy: Where it starts, shape (B, C, H, W).
        denoised: The estimate there.
        log_step: ln(sigma / next_sigma); > 0.
        before: The estimate one step earlier; None for the first step.
        log_step_before: Length of the step before.
    """

    noisy: Tensor
    denoised: Tensor
    log_step: float
    before: Tensor | None
    log_step_before: float

    def predicted(self) -> Tensor:
        """The state after the step, from what is known at its start (UniP-2)."""
        if self.before is None:
            return self._towards(self.denoised)
        slope = self.denoised - self.before
        return self._towards(self.denoised + self.log_step / (2 * self.log_step_before) * slope)

    def corrected(self, ahead: Tensor) -> Tensor:
        """The same, with the estimate at its end, ahead, known as well (UniC)."""
        if self.before is None:
            return self._towards((self.denoised + ahead) / 2)
        # Exact for estimates that are constant and linear in lambda:
        # weight_before + weight_ahead = first, ratio * weight_before + weight_ahead = second.
        h = -self.log_step
        shrink = math.expm1(h)
        phi = shrink / h - 1
        first, second = phi / shrink, 2 * (phi / h - 0.5) / shrink
        ratio = self.log_step_before / h
        weight_before = (first - second) / (1 - ratio)
        weight_ahead = first - weight_before
        slope_before = (self.before - self.denoised) / ratio
        slope_ahead = ahead - self.denoised
        return self._towards(
            self.denoised + weight_before * slope_before + weight_ahead * slope_ahead
        )

    def _towards(self, target: Tensor) -> Tensor:
        """Exact in the linear part: what is left of the noise stays, the rest is the target."""
        return target + math.exp(-self.log_step) * (self.noisy - target)


def checked(denoised: Tensor, noisy: Tensor, step: int, sigma: float, sigma_max: float) -> Tensor:
    """The estimate itself, once it and the state behind it are seen to be possible.

    |denoised| <= MAX_RATIO * (1 + sigma)          (a model that predicts noise errs by sigma)
    |noisy|    <= MAX_RATIO * (1 + sigma_max)      (Heun's method in two steps comes to a quarter)

    Bounds that no honest run comes near: they tell a run that grows without end while its numbers
    are still finite, and cost one look at each value.

    Args:
        denoised: What the model gave, any shape.
        noisy: What it was given.
        step: Of the sampler, from 0.
        sigma: Noise level of noisy.
        sigma_max: Noise level that sampling began with.

    Returns:
        denoised, unchanged.

    Raises:
        SamplingError: With step, sigma, value and what to do.
    """
    values = (
        ("the denoised image", denoised, MAX_RATIO * (1 + sigma)),
        ("the noisy image", noisy, MAX_RATIO * (1 + sigma_max)),
    )
    for what, image, bound in values:
        largest = image.abs().max().item()  # NaN where there is one
        if largest <= bound:
            continue
        if not math.isfinite(largest):
            _refuse_not_finite(image, step, sigma)
        raise SamplingError(
            f"sampling diverged at step {step} (sigma {sigma:.4g}): {what} reached "
            f"{image.flatten()[image.abs().argmax()].item():.4g}, where at most {bound:.4g} can "
            f"be; take more steps, less guidance or another sampler. If all diverge, the weights "
            f"have: train again with a lower train.learning_rate, or sample from an earlier model"
        )
    return denoised


def _refuse_not_finite(image: Tensor, step: int, sigma: float) -> NoReturn:
    is_finite = image.isfinite()
    first = image[~is_finite][0].item()
    raise SamplingError(
        f"the model gave {first} at step {step} (sigma {sigma:.4g}), in "
        f"{int((~is_finite).sum())} of {image.numel()} values, where finite numbers were "
        f"expected; its weights have diverged or are damaged: train again with a lower "
        f"train.learning_rate, or sample from an earlier model"
    )


def _batch(noisy: Tensor, sigma: float) -> Tensor:
    return noisy.new_full((len(noisy),), sigma)


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "heun": sample_heun,
    "dpm_solver_pp_2m": sample_dpm_solver_pp_2m,
    "sde_dpm_solver_pp_2m": sample_sde_dpm_solver_pp_2m,
    "uni_pc": sample_uni_pc,
}
