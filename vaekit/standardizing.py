"""The units of latents: a fixed shift and scale between what networks compute and the latents of the model.

R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752, appendix G, divide the
latents of a trained autoencoder by their standard deviation, so that a model of them sees a unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_number

Numbers = float | Sequence[float]  # one for all channels, or one for each


class Standardized:
    """z = (z' - shift) scale, of latents z' [B, D, *positions] as networks compute them.

    Args:
        channels: D.
        scale: one positive number, or one for each channel.
        shift: one number, or one for each channel.

    Raises:
        TypeError, ValueError: something else.

    Example:
        >>> units = Standardized(2, scale=2.0, shift=(1.0, 0.0))
        >>> units.backward(units.of_gaussian(torch.tensor([[3.0, 1.0, 0.0, 0.0]]))[:, :2])
        tensor([[3., 1.]])
    """

    def __init__(self, channels: int, scale: Numbers = 1.0, shift: Numbers = 0.0) -> None:
        self.channels = channels
        self.scale = _checked("latent_scale", scale, channels, above=0.0)
        self.shift = _checked("latent_shift", shift, channels)

    @property
    def is_identity(self) -> bool:
        """Whether z is z'."""
        return self.scale == 1.0 and self.shift == 0.0

    def of_gaussian(self, numbers: Tensor) -> Tensor:
        """Means and log variances of z, of those of z', [B, 2 D, *positions]."""
        if self.is_identity:
            return numbers
        mu, logvar = numbers.chunk(2, dim=1)
        scale, shift = self._like(mu, self.scale), self._like(mu, self.shift)
        log_scale = 2.0 * (math.log(scale) if isinstance(scale, float) else scale.log())
        return torch.cat(((mu - shift) * scale, logvar + log_scale), dim=1)

    def backward(self, z: Tensor) -> Tensor:
        """z' of z, both [B, D, *positions]."""
        if self.is_identity:
            return z
        return z / self._like(z, self.scale) + self._like(z, self.shift)

    def _like(self, z: Tensor, numbers: float | tuple[float, ...]) -> float | Tensor:
        return numbers if isinstance(numbers, float) else z.new_tensor(numbers).view(-1, *(1,) * (z.ndim - 2))


def _checked(name: str, numbers: Numbers, channels: int, above: float | None = None) -> float | tuple[float, ...]:
    if not isinstance(numbers, (list, tuple)):
        return checked_number(name, numbers, above=above)
    if len(numbers) != channels:
        raise ValueError(f"{name} has to be one number or one for each of the {channels} latent channels, got {len(numbers)}")
    return tuple(checked_number(f"every entry of {name}", number, above=above) for number in numbers)
