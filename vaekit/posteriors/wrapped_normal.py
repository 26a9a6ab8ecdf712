"""The posterior of a Poincare variational autoencoder.

E. Mathieu, C. Le Lan, C. J. Maddison, R. Tomioka, Y. W. Teh, "Continuous Hierarchical Representations with Poincare Variational
Auto-Encoders", NeurIPS 2019, arXiv:1901.06033.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit import poincare
from vaekit.checks import checked_number
from vaekit.latents import LatentKind
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.ops.precision import wide
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.family import GaussianFamily, registry


class WrappedNormalPosterior(Posterior):
    """A normal distribution wrapped around hyperbolic space at `mean`; densities are over the hyperbolic volume.

    Args:
        mean: float [B, D, *positions], inside the ball.
        logvar: the same shape, of the ways from the mean, in units of the distance.
        curvature: c, of a space of curvature -c.

    Raises:
        ValueError: shapes that do not fit each other, or without a latent dimension.

    Example:
        >>> q = WrappedNormalPosterior(torch.tensor([[0.5, 0.0]]), torch.zeros(1, 2), 1.0)
        >>> z, log_q = q.rsample_log_prob(num_samples=4)
        >>> torch.allclose(q.log_prob(z), log_q, atol=1e-3)
        True
    """

    def __init__(self, mean: Tensor, logvar: Tensor, curvature: float) -> None:
        if mean.shape != logvar.shape or mean.ndim < 2:
            raise ValueError(
                "mean and logvar have to have one shape [batch, latent dimensions...], "
                f"got {tuple(mean.shape)} and {tuple(logvar.shape)}"
            )
        self.mean, self.logvar, self.curvature = mean, logvar, curvature

    def _rsample(self, draw: Draw) -> Tensor:
        return self._reached(self._way(draw.noise(self.mean)))

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        if stop_parameters:
            return super()._rsample_log_prob(draw, stop_parameters)
        u = self._way(draw.noise(self.mean))
        return self._reached(u), self._log_density(u)

    def log_prob(self, z: Tensor) -> Tensor:
        """As `Posterior.log_prob`, over the hyperbolic volume; float64 for float64, otherwise float32."""
        dtype = wide(self.device)
        return self._log_density(poincare.led_to(self.mean.to(dtype), z.to(dtype), self.curvature, self._axis))

    @property
    def _axis(self) -> int:
        """Where D is, from the end."""
        return 1 - self.mean.ndim

    def _way(self, eps: Tensor) -> Tensor:
        dtype = wide(self.device)
        return torch.exp(0.5 * self.logvar.to(dtype)) * eps.to(dtype)

    def _reached(self, u: Tensor) -> Tensor:
        z = poincare.reached(self.mean.to(u.dtype), u, self.curvature, self._axis).to(self.mean.dtype)
        return poincare.inside(z, self.curvature, self._axis)

    def _log_density(self, u: Tensor) -> Tensor:
        logvar = self.logvar.to(u.dtype)
        flat = -0.5 * (u.square() * torch.exp(-logvar) + logvar + math.log(2.0 * math.pi)).flatten(self._axis).sum(-1)
        volume = poincare.log_volume(u, self.curvature, self._axis)
        volume = volume if self.mean.ndim == 2 else volume.flatten(2 - self.mean.ndim).sum(-1)
        return (flat - volume).to(reference.compute_dtype(self.mean.dtype))


@registry.register("wrapped_normal")
class WrappedNormalFamily(GaussianFamily):
    """A normal distribution wrapped around hyperbolic space, the Poincare ball: PVAE.

        z = the end of a way of length |u| from m in the direction of u,   u ~ N(0, diag(exp(logvar)))
        log q(z | x) = log N(u; 0, diag(exp(logvar))) - (D - 1) log(sinh(sqrt(c) |u|) / (sqrt(c) |u|))

    m is as far from the centre as the encoder's D numbers are long, and in their direction (section 3.1, appendix B.2 of the
    paper). Room in hyperbolic space grows exponentially with the distance, as the number of a tree's leaves with its depth, so
    that a hierarchy lies in few dimensions: what is general near the centre, what is special near the edge.

    Use it with the prior "wrapped_normal" of the same curvature, for two to some ten latents of data that is a tree. There is no
    closed form of the divergence: `kl` is log q(z | x) - log p(z) of the draw, an estimate that may be negative for an example.
    The decoder reads the coordinates in the ball as they are; the paper's layer of gyroplanes is not here, nor is its Riemannian
    normal, another distribution with the same aim. Objectives that need the divergence or the variance of each dimension refuse
    it, and so do priors over R^D. `mean`, which `reconstruct` decodes, is m. float32 holds points to a distance of some
    15 / sqrt(c) and no further.
    It costs what a diagonal Gaussian costs, and some twenty operations on vectors.

    Mathieu et al., "Continuous Hierarchical Representations with Poincare Variational Auto-Encoders", 2019, arXiv:1901.06033.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in. Each position is in a ball.
        curvature: c, above 0, of a space of curvature -c.
        logvar_bound, initial_logvar: of u, as for `diagonal_gaussian`.

    Raises:
        TypeError, ValueError: a curvature that is not a number above 0.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior="wrapped_normal", prior="wrapped_normal")
        >>> bool((vae.encode(torch.rand(5, 4)).rsample().norm(dim=1) < 1.0).all())
        True
    """

    latents = LatentKind.BALL
    any_positions = True

    def __init__(
        self,
        latent_shape: Sequence[int],
        curvature: float = 1.0,
        logvar_bound: float | None = None,
        initial_logvar: float | None = None,
    ) -> None:
        super().__init__(latent_shape, logvar_bound, initial_logvar)
        self.curvature = checked_number("curvature", curvature, above=0.0)

    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> WrappedNormalPosterior:
        wider = mu.to(reference.compute_dtype(mu.dtype))
        mean = poincare.reached(torch.zeros_like(wider), wider, self.curvature, 1).to(mu.dtype)
        return WrappedNormalPosterior(poincare.inside(mean, self.curvature, 1), logvar, self.curvature)
