"""The diagonal Gaussian posterior.

D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendices B and C.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.divergences import exact
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.ops.reparameterize_kl import reparameterize_kl
from vaekit.posteriors.base import Posterior
from vaekit.priors.diagonal_gaussian import LearnedGaussian
from vaekit.priors.gaussians import log_normal
from vaekit.priors.standard_normal import StandardNormal


class DiagonalGaussian(Posterior):
    """N(mu, diag(exp(logvar))).

    Args:
        mu: float [B, *S], the means.
        logvar: float [B, *S], the log variances; not clamped. Its exponential overflows float32 above 88.

    Raises:
        ValueError: mu and logvar of different shapes, or without a latent dimension.

    Example:
        >>> from vaekit.priors import StandardNormal
        >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> z, kl = q.rsample_kl(StandardNormal())
        >>> z.shape, kl
        (torch.Size([4, 2]), tensor([0., 0., 0., 0.]))
    """

    def __init__(self, mu: Tensor, logvar: Tensor) -> None:
        if mu.shape != logvar.shape or mu.ndim < 2:
            raise ValueError(
                "mu and logvar have to have one shape [batch, latent dimensions...], "
                f"got {tuple(mu.shape)} and {tuple(logvar.shape)}"
            )
        self.mean = self.mu = mu
        self.logvar = logvar

    @property
    def variances(self) -> Tensor:
        """[B, *S]; float64 for float64, otherwise float32."""
        return torch.exp(self.logvar.to(reference.compute_dtype(self.logvar.dtype)))

    def _rsample(self, draw: Draw) -> Tensor:
        return _draw_and_kl(self.mu, self.logvar, draw, None, "event")[0]

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        eps, event_dims = draw.noise(self.mu), self.mu.ndim - 1
        z, _ = reparameterize_kl(self.mu, self.logvar, eps=eps, num_samples=draw.num_samples, event_dims=event_dims)
        # From the noise itself: (z - mu) / sigma has lost it where sigma is far below |mu|.
        standardized, logvar = eps, self.logvar.to(eps.dtype)
        if stop_parameters:
            logvar = logvar.detach()
            moved = (z - z.detach()).to(eps.dtype)  # value 0; carries the gradient through z
            largest = math.log(torch.finfo(eps.dtype).max) - 1.0  # 0 times infinity would be NaN
            standardized = eps + moved * torch.exp((-0.5 * logvar).clamp(max=largest))
        elements = -0.5 * (standardized * standardized + logvar + math.log(2.0 * math.pi))
        return z, reference.sum_event(elements, event_dims)

    def log_prob(self, z: Tensor) -> Tensor:
        """As `Posterior.log_prob`; float64 for float64, otherwise float32."""
        return log_normal(z, self.mu, self.logvar).flatten(1 - self.mu.ndim).sum(-1)


@exact(DiagonalGaussian, StandardNormal, by_dimension=True)
def _(posterior: DiagonalGaussian, prior: StandardNormal, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    return _draw_and_kl(posterior.mu, posterior.logvar, draw, None, reduce)


@exact(DiagonalGaussian, LearnedGaussian, by_dimension=True)
def _(posterior: DiagonalGaussian, prior: LearnedGaussian, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(posterior.mu.dtype, prior.mu.dtype)  # under autocast the prior is the wider one
    mu, logvar, *parameters = (t.to(dtype) for t in (posterior.mu, posterior.logvar, prior.mu, prior.logvar))
    z, kl = _draw_and_kl(mu, logvar, draw, (parameters[0], parameters[1]), reduce)
    return z.to(posterior.mu.dtype), kl


def _draw_and_kl(
    mu: Tensor, logvar: Tensor, draw: Draw, prior: tuple[Tensor, Tensor] | None, reduce: str
) -> tuple[Tensor, Tensor]:
    """z and the divergence, in one operator."""
    key, num_samples, row_start = draw
    return reparameterize_kl(
        mu,
        logvar,
        key=key,
        num_samples=num_samples,
        row_start=row_start,
        prior=prior,
        reduce=reduce,
        event_dims=mu.ndim - 1,
    )
