"""Samplers: from pure noise to images, by repeated denoising.

All work in the variance-exploding notation (noisy = clean + sigma * noise), on any falling grid of
noise levels that ends in 0, and with any function denoise(noisy, sigma, labels). The first state is
sigmas[0] * noise; the last step, to sigma 0, is the denoised image itself.

Letters: B images, C channels, H rows, W columns, S steps + 1. Randomness comes from the caller.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

from jaxtyping import Float, Int64
from torch import Tensor

from vivero.config.schema import SamplerName
from vivero.diffusion.preconditioning import Denoise
from vivero.errors import SamplingError

DrawNoise = Callable[[], Tensor]  # standard normal numbers, (B, C, H, W)


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
            SamplingError: When the denoiser gives something that is not a finite number.
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
    noisy = sigmas[0].item() * noise
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = _finite(denoise(noisy, _batch(noisy, sigma), labels), step, sigma)
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
    noisy = sigmas[0].item() * noise
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = _finite(denoise(noisy, _batch(noisy, sigma), labels), step, sigma)
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
    noisy = sigmas[0].item() * noise
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = _finite(denoise(noisy, _batch(noisy, sigma), labels), step, sigma)
        slope = (noisy - denoised) / sigma
        predicted = noisy + (next_sigma - sigma) * slope
        if next_sigma > 0:
            corrected = _finite(
                denoise(predicted, _batch(noisy, next_sigma), labels), step, next_sigma
            )
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
    noisy = sigmas[0].item() * noise
    before: Tensor | None = None
    log_step_before = math.nan
    for step, (sigma, next_sigma) in enumerate(pairwise(sigmas.tolist())):
        denoised = _finite(denoise(noisy, _batch(noisy, sigma), labels), step, sigma)
        if next_sigma == 0:
            return denoised
        log_step = math.log(sigma / next_sigma)
        target = denoised
        if before is not None:
            target = denoised + log_step / (2 * log_step_before) * (denoised - before)
        noisy = target + next_sigma / sigma * (noisy - target)
        before, log_step_before = denoised, log_step
    return noisy


def _batch(noisy: Tensor, sigma: float) -> Tensor:
    return noisy.new_full((len(noisy),), sigma)


def _finite(denoised: Tensor, step: int, sigma: float) -> Tensor:
    is_finite = denoised.isfinite()
    if not bool(is_finite.all()):
        first = denoised[~is_finite][0].item()
        raise SamplingError(
            f"the model gave {first} at step {step} (sigma {sigma:.4g}), in "
            f"{int((~is_finite).sum())} of {denoised.numel()} values, where finite numbers were "
            f"expected; its weights have diverged or are damaged: train again with a lower "
            f"train.learning_rate, or sample from an earlier model"
        )
    return denoised


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddpm": sample_ddpm,
    "ddim": sample_ddim,
    "heun": sample_heun,
    "dpm_solver_pp_2m": sample_dpm_solver_pp_2m,
}
