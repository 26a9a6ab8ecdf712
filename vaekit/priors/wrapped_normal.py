"""The normal distribution wrapped around hyperbolic space: E. Mathieu et al., 2019, arXiv:1901.06033, section 3.1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit import poincare
from vaekit.checks import checked_number, checked_sizes
from vaekit.latents import LatentKind
from vaekit.ops import philox, reference
from vaekit.ops.precision import wide
from vaekit.priors.base import Prior, registry


@registry.register("wrapped_normal")
class WrappedNormal(Prior):
    """A normal distribution around the centre of a Poincare ball, wrapped onto hyperbolic space.

    z is the end of a way of length |u| from the centre in the direction of u, u from N(0, scale^2 I):

        log p(z) = log N(u; 0, scale^2 I) - (D - 1) log(sinh(sqrt(c) |u|) / (sqrt(c) |u|))

    a density over the volume of hyperbolic space, which grows exponentially with the distance: there is room for a tree.

    Use it with the posterior "wrapped_normal" of the same curvature. It costs nothing.

    Mathieu et al., "Continuous Hierarchical Representations with Poincare Variational Auto-Encoders", 2019, arXiv:1901.06033,
    section 3.1 and appendix B.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; `vaekit.create_vae` fills it in.
        curvature: c, above 0, of a space of curvature -c.
        scale: above 0, in units of the distance.

    Raises:
        TypeError, ValueError: what is no number above 0; when composed, a posterior over another ball.

    Example:
        >>> prior = WrappedNormal((2,))
        >>> z = prior.sample((5, 2), key=torch.tensor([0, 0]), dtype=torch.float32)
        >>> bool((z.norm(dim=1) < 1.0).all())
        True
    """

    latents = LatentKind.BALL
    any_positions = True

    def __init__(self, latent_shape: Sequence[int], curvature: float = 1.0, scale: float = 1.0) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        self.curvature = checked_number("curvature", curvature, above=0.0)
        self.scale = checked_number("scale", scale, above=0.0)

    def attach(self, encoder: nn.Module) -> None:
        curvature = getattr(getattr(encoder, "family", None), "curvature", None)
        if curvature is not None and curvature != self.curvature:
            raise ValueError(
                f"the prior is over a ball of curvature {self.curvature}, the posterior over one of {curvature}; give both the "
                f'same, prior={{"name": "wrapped_normal", "curvature": {curvature}}} for example'
            )

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats over the hyperbolic volume, z [B, D, *positions] -> [B]; float64 for float64, otherwise float32."""
        dtype = wide(z.device)
        u = poincare.led_to(torch.zeros_like(z, dtype=dtype), z.to(dtype), self.curvature, 1)
        flat = -0.5 * ((u / self.scale).square() + math.log(2.0 * math.pi * self.scale**2)).flatten(1).sum(1)
        volume = poincare.log_volume(u, self.curvature, 1).reshape(len(z), math.prod(z.shape[2:]))
        return (flat - volume.sum(1)).to(reference.compute_dtype(z.dtype))

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        noise = philox.normal(key, shape, reference.compute_dtype(dtype), row_start * math.prod(shape[1:]))
        return poincare.inside(self.from_noise(noise).to(dtype), self.curvature, 1)

    def from_noise(self, noise: Tensor) -> Tensor:
        return poincare.reached(torch.zeros_like(noise), self.scale * noise, self.curvature, 1)
