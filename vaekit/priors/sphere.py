"""The uniform prior over directions: T. R. Davidson et al., 2018, arXiv:1804.00891, section 3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_sizes
from vaekit.directions import log_area
from vaekit.latents import LatentKind
from vaekit.ops import philox, reference
from vaekit.priors.base import Prior, registry


@registry.register("uniform_sphere")
class UniformSphere(Prior):
    """The uniform distribution on the unit sphere of R^D, at each position.

    log p(z) = -log of the sphere's surface, 2 pi^(D/2) / Gamma(D/2), for each position: a density over the surface, not over R^D.
    Unlike N(0, I) it draws nothing to a centre, so that every direction is as good as another.

    Use it with the posteriors over directions, "von_mises_fisher" and "power_spherical", whose divergence from it is exact. It
    costs nothing: a draw is a normal one divided by its length.

    T. R. Davidson, L. Falorsi, N. De Cao, T. Kipf, J. M. Tomczak, "Hyperspherical Variational Auto-Encoders", UAI 2018,
    arXiv:1804.00891, section 3.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents, D at least 2; `vaekit.create_vae` fills it in.

    Raises:
        ValueError: D = 1, where there is no sphere but two points.

    Example:
        >>> prior = UniformSphere((3,))
        >>> z = prior.sample((5, 3), key=torch.tensor([0, 0]), dtype=torch.float32)
        >>> z.norm(dim=1), round(float(prior.log_prob(z)[0]), 4)  # -log(4 pi)
        (tensor([1., 1., 1., 1., 1.]), -2.531)
    """

    latents = LatentKind.DIRECTIONS
    any_positions = True

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        if self.latent_shape[0] < 2:
            raise ValueError(f"directions are unit vectors of at least 2 dimensions, got latent_shape={self.latent_shape}")

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats over the surface, z [B, D, *positions] -> [B]; -inf off the sphere, NaN for NaN.

        float64 for float64, otherwise float32. Lengths may be off 1 by the square root of a rounding of z.
        """
        dtype, most = reference.compute_dtype(z.dtype), math.sqrt(torch.finfo(z.dtype).eps)
        away = (torch.linalg.vector_norm(z.to(dtype), dim=1) - 1.0).abs().reshape(len(z), math.prod(z.shape[2:]))
        each = torch.where(away > most, -math.inf, away * 0.0 - log_area(z.shape[1]))  # away * 0.0 is NaN for NaN
        return each.sum(1)

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        noise = philox.normal(key, shape, reference.compute_dtype(dtype), row_start * math.prod(shape[1:]))
        return self.from_noise(noise).to(dtype)

    def from_noise(self, noise: Tensor) -> Tensor:
        directions: Tensor = noise / torch.linalg.vector_norm(noise, dim=1, keepdim=True)
        return directions
