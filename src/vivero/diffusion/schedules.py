"""Noise schedules: which noise levels a model learns from, and which ones sampling visits.

All three speak one language, the variance-exploding one of EDM: noisy = clean + sigma * noise. A
variance-preserving process (DDPM) is the same process seen through x_vp = noisy / sqrt(1 + sigma^2)
with sigma = sqrt((1 - alpha_bar) / alpha_bar). Letters: B images, T timesteps, S steps + 1.
Pure functions: no files, no randomness; who wants random levels brings uniform numbers.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from vivero.config.schema import DiffusionConfig

MAX_BETA = 0.999  # the last ratio is 0, which would make the final step singular
MIN_UNIFORM = 2.0**-26  # half of the smallest step of torch.rand, whose 0 has no normal quantile


def linear_alpha_bar(
    num_timesteps: int = 1000, first_beta: float = 1e-4, last_beta: float = 0.02
) -> Float[Tensor, " T"]:
    """Signal level when the noise added per step grows linearly.

    alpha_bar[t] is the product of (1 - beta[s]) for s <= t.

    Args:
        num_timesteps: Length T of the forward process; at least 1.
        first_beta: Variance added by the first step; in (0, 1).
        last_beta: Variance added by the last step; in [first_beta, 1).

    Returns:
        alpha_bar, shape (T,), float64, strictly decreasing, inside (0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Source:
        Ho et al. 2020, arXiv:2006.11239, section 4.
    """
    if num_timesteps < 1 or not 0 < first_beta <= last_beta < 1:
        raise ValueError(
            f"need num_timesteps >= 1 and 0 < first_beta <= last_beta < 1; "
            f"got {num_timesteps}, {first_beta}, {last_beta}"
        )
    beta = torch.linspace(first_beta, last_beta, num_timesteps, dtype=torch.float64)
    return torch.cumprod(1 - beta, dim=0)


def cosine_alpha_bar(num_timesteps: int = 1000, offset: float = 0.008) -> Float[Tensor, " T"]:
    """Signal level that follows a squared cosine, so noise enters and ends slowly.

    alpha_bar[t] is the product of (1 - beta[s]) for s <= t, each beta capped at MAX_BETA.

    Args:
        num_timesteps: Length T of the forward process; at least 1.
        offset: Shift of the cosine, as a share of the whole process; at least 0.

    Returns:
        alpha_bar, shape (T,), float64, strictly decreasing, inside (0, 1).

    Raises:
        ValueError: If num_timesteps or offset is out of range.

    Source:
        Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17.
    """
    if num_timesteps < 1 or offset < 0:
        raise ValueError(f"need num_timesteps >= 1, offset >= 0; got {num_timesteps}, {offset}")
    time = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
    level = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    beta = (1 - level[1:] / level[:-1]).clamp(max=MAX_BETA)
    return torch.cumprod(1 - beta, dim=0)


class NoiseSchedule(ABC):
    """The noise levels of a diffusion process, for training and for sampling."""

    @abstractmethod
    def sigma(self, time: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Noise level at a share of the process.

        Args:
            time: Shape (B,), in [0, 1]; 0 is the least noise.

        Returns:
            sigma, shape (B,), the dtype of time, > 0, strictly increasing in time.
        """

    @abstractmethod
    def draw_sigma(self, uniform: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Noise levels as training meets them, from uniform numbers (inverse distribution).

        Args:
            uniform: Shape (B,), in [0, 1); drawn by the caller, who may stratify them.

        Returns:
            sigma, shape (B,), the dtype of uniform, > 0, never falling in uniform.
        """

    def sampling_sigmas(self, num_steps: int) -> Float[Tensor, " S"]:
        """The noise levels that a sampler visits: sigma at equal steps of time, then 0.

        For karras these are the levels of EDM's equation 5; for the others the spacing that
        diffusers calls "linspace", with a single step starting at the most noise.

        Args:
            num_steps: At least 1.

        Returns:
            sigmas, shape (num_steps + 1,), float64, strictly falling, ending in 0.

        Raises:
            ValueError: If num_steps is below 1.
        """
        if num_steps < 1:
            raise ValueError(f"need num_steps >= 1; got {num_steps}")
        sigmas = self.sigma(torch.linspace(1, 0, num_steps, dtype=torch.float64))
        return torch.cat([sigmas, sigmas.new_zeros(1)])


class TableSchedule(NoiseSchedule):
    """A process of T discrete timesteps, as DDPM defines it."""

    @abstractmethod
    def alpha_bar(self) -> Float[Tensor, " T"]:
        """Signal level at each timestep, shape (T,), float64, strictly falling, inside (0, 1)."""

    @cached_property
    def sigma_table(self) -> Float[Tensor, " T"]:
        """sqrt((1 - alpha_bar) / alpha_bar), shape (T,), float64, strictly increasing."""
        alpha_bar = self.alpha_bar()
        return torch.sqrt((1 - alpha_bar) / alpha_bar)

    def sigma(self, time: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Noise level at a share of the process, linear between two timesteps of the table."""
        table = self.sigma_table.to(time.device)
        position = time.double().clamp(0, 1) * (len(table) - 1)
        below = position.floor().long()
        above = (below + 1).clamp(max=len(table) - 1)
        return torch.lerp(table[below], table[above], position - below).to(time.dtype)

    def draw_sigma(self, uniform: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Noise level of a timestep drawn evenly from the table."""
        table = self.sigma_table.to(uniform.device)
        timestep = (uniform.double() * len(table)).long().clamp(0, len(table) - 1)
        return table[timestep].to(uniform.dtype)


@dataclass(frozen=True)
class LinearSchedule(TableSchedule):
    """DDPM's schedule: betas from 1e-4 to 0.02 in T steps; sigma from 0.01 to 157."""

    num_timesteps: int = 1000

    def alpha_bar(self) -> Float[Tensor, " T"]:
        """Signal level at each timestep; see linear_alpha_bar."""
        return linear_alpha_bar(self.num_timesteps)


@dataclass(frozen=True)
class CosineSchedule(TableSchedule):
    """Improved DDPM's schedule: alpha_bar falls as a squared cosine; sigma from 0.006 to 2e4."""

    num_timesteps: int = 1000

    def alpha_bar(self) -> Float[Tensor, " T"]:
        """Signal level at each timestep; see cosine_alpha_bar."""
        return cosine_alpha_bar(self.num_timesteps)


@dataclass(frozen=True)
class KarrasSchedule(NoiseSchedule):
    """EDM's schedule: trains on log-normal levels, samples where a power of sigma is even.

    Args:
        sigma_min: Least noise that sampling visits before 0; > 0.
        sigma_max: Noise that sampling starts from; > sigma_min.
        log_sigma_mean: Mean of ln(sigma) in training.
        log_sigma_std: Standard deviation of ln(sigma) in training; > 0.
        rho: How much sampling dwells at low noise; 1 would be even steps of sigma.

    Source:
        Karras et al. 2022, arXiv:2206.00364, equation 5 and table 1.
    """

    sigma_min: float
    sigma_max: float
    log_sigma_mean: float
    log_sigma_std: float
    rho: float = 7.0

    def sigma(self, time: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """(low + time * (high - low))^rho, where low and high are the ends to the power 1/rho."""
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return torch.pow(low + time * (high - low), self.rho)

    def draw_sigma(self, uniform: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """exp(log_sigma_mean + log_sigma_std * the normal quantile of uniform)."""
        normal = torch.special.ndtri(uniform.double().clamp(MIN_UNIFORM, 1 - MIN_UNIFORM))
        sigma: Tensor = torch.exp(self.log_sigma_mean + self.log_sigma_std * normal)
        return sigma.to(uniform.dtype)


def build_schedule(config: DiffusionConfig) -> NoiseSchedule:
    """The schedule that config names; sigma_min and sigma_max are karras's, tables have their own.

    Args:
        config: The block train.diffusion of params.yaml.
    """
    match config.schedule:
        case "linear":
            return LinearSchedule()
        case "cosine":
            return CosineSchedule()
        case "karras":
            return KarrasSchedule(
                sigma_min=config.sigma_min,
                sigma_max=config.sigma_max,
                log_sigma_mean=config.train_log_sigma_mean,
                log_sigma_std=config.train_log_sigma_std,
            )
