"""Finite scalar quantisation: each latent is rounded to one of a few levels, and no codebook is searched.

F. Mentzer, D. Minnen, E. Agustsson, M. Tschannen, "Finite Scalar Quantization: VQ-VAE Made Simple", ICLR 2024, arXiv:2309.15505.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.ops import reference
from vaekit.posteriors.codes import CertainCodes, CodeFamily
from vaekit.posteriors.family import registry

_MARGIN = 1e-3  # of the bound beyond the outermost level, as in the paper's appendix A.1


@registry.register("finite_scalar")
class FiniteScalarFamily(CodeFamily):
    """Each of the D latents at a position is bounded and rounded to one of L levels: together one of prod L codes.

    z = round(f(z_e)), f(z_e) = (L - 1) / 2 (1 + 0.001) tanh(z_e + shift) - offset with the two such that an even number of levels
    is in use evenly, scaled to [-1, 1]; the gradient passes the rounding as if it were not there (section 3.1). There is no
    codebook that could collapse, nothing to place or revive, no commitment, and a step costs next to nothing. Use it in place of
    "vector_quantized" where a search is too dear or codes stay unused, with the prior "codes" and the loss "vector_quantized".
    For as many codes take levels of at least 5 (section 4.1): (8, 6, 5) for 2^8, (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) for 2^12.

    Mentzer, Minnen, Agustsson, Tschannen, "Finite Scalar Quantization: VQ-VAE Made Simple", 2024, arXiv:2309.15505.

    Args:
        latent_shape: (D, *positions) of one example's latents; the encoder fills it in.
        levels: the numbers of levels of the D latents, or one number for all.

    Attributes:
        codes: K, their product; codes are numbered with the first latent as the lowest digit.

    Raises:
        ValueError: another number of them than D; fewer than 3 levels; more than 2^62 codes.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(1, 8, 8), latent_dim=3, encoder={"name": "conv", "spatial": True}, decoder="conv",
        ...     posterior={"name": "finite_scalar", "levels": (8, 6, 5)}, prior="codes", loss="vector_quantized",
        ... )
        >>> q = vae.encode(torch.rand(5, 1, 8, 8))
        >>> q.mean.shape, q.indices.shape, vae.encoder.family.codes
        (torch.Size([5, 3, 2, 2]), torch.Size([5, 2, 2]), 240)
    """

    def __init__(self, latent_shape: Sequence[int], levels: int | Sequence[int] = 5) -> None:
        super().__init__(latent_shape)
        size = self.latent_shape[0]
        numbers = tuple(levels) if isinstance(levels, Sequence) else (levels,) * size
        self.levels = tuple(checked_size("every entry of levels", number, least=3) for number in numbers)
        if len(self.levels) != size:
            raise ValueError(
                f"levels has to have a number for each of the {size} latents at a position, got {len(self.levels)}: "
                f"{self.levels}; take latent_dim={len(self.levels)}"
            )
        self.codes = math.prod(self.levels)
        if self.codes > 1 << 62:
            raise ValueError(f"levels={self.levels} make {self.codes} codes, which int64 cannot number; take fewer")
        places = [math.prod(self.levels[:digit]) for digit in range(size)]
        column = (-1, *(1 for _ in self.latent_shape[1:]))
        self.register_buffer("_scale", torch.tensor(self.levels).view(column), persistent=False)
        self.register_buffer("_place", torch.tensor(places).view(column), persistent=False)
        self.register_buffer("_one", torch.ones(()), persistent=False)  # in the model's dtype
        self._scale: Tensor
        self._place: Tensor
        self._one: Tensor

    def forward(self, numbers: Tensor) -> CertainCodes:
        bounded, half = self.bounded(numbers.to(reference.compute_dtype(numbers.dtype))), self._scale // 2
        digits = torch.where(bounded.isfinite(), bounded, 0.0).detach().round().long() + half
        return CertainCodes((bounded / half).to(numbers.dtype), (digits * self._place).sum(1), self)

    def bounded(self, numbers: Tensor) -> Tensor:
        """f(z_e), whose rounding is the level counted from the middle one: [B, D, *positions]."""
        half = (self._scale - 1).to(numbers.dtype) * ((1.0 + _MARGIN) / 2.0)
        offset = (1 - self._scale % 2).to(numbers.dtype) / 2.0
        return (numbers + (offset / half).atanh()).tanh() * half - offset

    def embedded(self, indices: Tensor) -> Tensor:
        digits = indices.unsqueeze(1) // self._place % self._scale
        return ((digits - self._scale // 2).to(self._one.dtype) / (self._scale // 2)).contiguous()

    def indices_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        half = self._scale // 2
        digits = (torch.where(z.isfinite(), z, 0.0).clamp(-2.0, 2.0) * half + half).round().long()
        inside = ((digits >= 0) & (digits < self._scale)).all(1)
        indices = (digits.clamp(min=0).minimum(self._scale - 1) * self._place).sum(1)
        return indices, inside & (self.embedded(indices) == z).all(1)
