"""What a network's output means: from a raw network to the denoised image D(x; sigma).

denoised = c_skip * noisy + c_out * network(c_in * noisy, ln(sigma) / 4, labels)

Letters: B images, C channels, H rows, W columns. Pure: no files, no randomness, no losses.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vivero.config.schema import ParameterisationName

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # scaled input, noise condition, labels
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy, sigma, labels


@dataclass(frozen=True)
class Coefficients:
    """How input, network and output are scaled at each image's noise level; each shape (B,)."""

    skip: Float[Tensor, " B"]
    out: Float[Tensor, " B"]
    into: Float[Tensor, " B"]


def noise_coefficients(sigma: Float[Tensor, " B"]) -> Coefficients:
    """The network predicts the noise: denoised = noisy - sigma * predicted_noise.

    Source:
        Ho et al. 2020, arXiv:2006.11239, equation 15, in the notation of Karras et al. 2022,
        arXiv:2206.00364, table 1 (column VP).
    """
    return Coefficients(torch.ones_like(sigma), -sigma, torch.rsqrt(sigma**2 + 1))


def velocity_coefficients(sigma: Float[Tensor, " B"]) -> Coefficients:
    """The network predicts v = sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * clean.

    Source:
        Salimans and Ho 2022, arXiv:2202.00512, appendix D, with alpha_bar = 1 / (1 + sigma^2).
    """
    into = torch.rsqrt(sigma**2 + 1)
    return Coefficients(into**2, -sigma * into, into)


def clean_coefficients(sigma: Float[Tensor, " B"], sigma_data: float) -> Coefficients:
    """The network predicts clean at high noise and noise at low noise, always at unit variance.

    Args:
        sigma: Noise level, shape (B,), > 0.
        sigma_data: Standard deviation of clean; > 0.

    Source:
        Karras et al. 2022, arXiv:2206.00364, table 1 (column EDM).
    """
    total = torch.sqrt(sigma**2 + sigma_data**2)
    return Coefficients(sigma_data**2 / total**2, sigma * sigma_data / total, 1 / total)


def coefficients_of(
    name: ParameterisationName, sigma: Float[Tensor, " B"], sigma_data: float
) -> Coefficients:
    """The scales of a parameterisation by its name in params.yaml.

    Args:
        name: What the network predicts.
        sigma: Noise level, shape (B,), > 0.
        sigma_data: Standard deviation of clean; > 0; used by "clean" only.
    """
    match name:
        case "noise":
            return noise_coefficients(sigma)
        case "velocity":
            return velocity_coefficients(sigma)
        case "clean":
            return clean_coefficients(sigma, sigma_data)


def band_coefficients(
    name: ParameterisationName, sigma: Float[Tensor, " B"], std: float
) -> Coefficients:
    """The scales of a parameterisation for a band of images, in units of the band.

    Noise and velocity take their data to be of unit deviation; a band is, once it and its noise are
    divided by std: with the coefficients at sigma / std,

    denoised / std = skip * noisy / std + out * network(into * noisy / std, ...)

    So whatever the network predicts, both what it is shown of the band and what it is asked for
    have unit variance; the velocity of a band is what "clean" predicts, with the other sign.

    Args:
        name: What the network predicts.
        sigma: Noise level, shape (B,), > 0.
        std: Standard deviation of the clean band; at least 0.
    """
    clean = clean_coefficients(sigma, std)
    match name:
        case "noise":
            return Coefficients(torch.ones_like(sigma), -sigma, clean.into)
        case "velocity":
            return Coefficients(clean.skip, -clean.out, clean.into)
        case "clean":
            return clean


@dataclass(frozen=True)
class Denoiser:
    """A network and what its output means; called, it gives the denoised images.

    Args:
        network: Takes the scaled input (B, C, H, W), the noise condition (B,) and labels (B,);
            gives (B, C, H, W).
        parameterisation: What the network predicts.
        sigma_data: Standard deviation of clean images in [-1, 1]; used by "clean" only.
        null_label: The label that stands for "no class"; the number of classes.
    """

    network: Network
    parameterisation: ParameterisationName
    sigma_data: float
    null_label: int

    def coefficients(self, sigma: Float[Tensor, " B"]) -> Coefficients:
        """The scales of this parameterisation at noise levels sigma, shape (B,), > 0."""
        return coefficients_of(self.parameterisation, sigma, self.sigma_data)

    def __call__(
        self,
        noisy: Float[Tensor, "B C H W"],
        sigma: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B C H W"]:
        """The expected clean image behind each noisy one.

        Args:
            noisy: clean + sigma * noise, shape (B, C, H, W).
            sigma: Noise level of each image, shape (B,), > 0.
            labels: Class of each image, shape (B,); null_label where none is given.

        Returns:
            denoised, shape (B, C, H, W), the dtype of noisy also under autocast.
        """
        scale = self.coefficients(sigma)
        predicted = self.network(_per_image(scale.into) * noisy, sigma.log() / 4, labels)
        return _per_image(scale.skip) * noisy + _per_image(scale.out) * predicted.to(noisy.dtype)


def _per_image(values: Float[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
    return values[:, None, None, None]
