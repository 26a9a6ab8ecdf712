"""The diagonal Gaussian posterior.

D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendices B and C.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaekit.ops import philox, reference
from vaekit.ops.reparameterize_kl import noise, reparameterize_kl
from vaekit.posteriors.base import Posterior
from vaekit.priors.base import Prior
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
        self.mu, self.logvar = mu, logvar

    @property
    def mean(self) -> Tensor:
        return self.mu

    def rsample_kl(
        self,
        prior: Prior,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """As `Posterior.rsample_kl`; exact for a standard normal prior and a learned Gaussian one."""
        if not isinstance(prior, (StandardNormal, LearnedGaussian)):
            return super().rsample_kl(prior, key=key, generator=generator, num_samples=num_samples, row_start=row_start)
        return self._rsample_exact_kl(prior, "event", key=key, generator=generator, num_samples=num_samples, row_start=row_start)

    def rsample_kl_per_dimension(
        self,
        prior: Prior,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and the exact divergence of each latent dimension, whose sum is that of `rsample_kl`.

        Arguments as of `rsample_kl`.

        Returns:
            z: [B, *S], or [K, B, *S].
            kl: [B, *S], nats.

        Raises:
            TypeError: a prior other than a standard normal or a learned Gaussian one: the divergence from it has no closed form.

        Example:
            >>> from vaekit.priors import LearnedGaussian
            >>> q = DiagonalGaussian(torch.ones(1, 2), torch.zeros(1, 2))
            >>> q.rsample_kl_per_dimension(LearnedGaussian((2,)))[1].detach()
            tensor([[0.5000, 0.5000]])
        """
        if not isinstance(prior, (StandardNormal, LearnedGaussian)):
            raise TypeError(
                "the divergence of each latent dimension is known from the priors standard_normal and diagonal_gaussian; from a "
                f"{type(prior).__name__} it has no closed form"
            )
        return self._rsample_exact_kl(prior, "none", key=key, generator=generator, num_samples=num_samples, row_start=row_start)

    def _rsample_exact_kl(self, prior: StandardNormal | LearnedGaussian, reduce: str, **options: Any) -> tuple[Tensor, Tensor]:
        options |= {"reduce": reduce, "event_dims": self.mu.ndim - 1}
        if not isinstance(prior, LearnedGaussian):
            return reparameterize_kl(self.mu, self.logvar, **options)
        dtype = torch.promote_types(self.mu.dtype, prior.mu.dtype)  # under autocast the prior is the wider one
        mu, logvar, *parameters = (t.to(dtype) for t in (self.mu, self.logvar, prior.mu, prior.logvar))
        z, kl = reparameterize_kl(mu, logvar, prior=(parameters[0], parameters[1]), **options)
        return z.to(self.mu.dtype), kl

    def rsample_log_prob(
        self,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
        stop_parameters: bool = False,
    ) -> tuple[Tensor, Tensor]:
        key, event_dims = philox.resolve_key(key, generator, self.mu.device), self.mu.ndim - 1
        eps = noise(self.mu, key, None, num_samples, row_start, event_dims)
        z, _ = reparameterize_kl(self.mu, self.logvar, eps=eps, num_samples=num_samples, event_dims=event_dims)
        # From the noise itself: (z - mu) / sigma has lost it where sigma is far below |mu|.
        standardized, logvar = eps, self.logvar.to(eps.dtype)
        if stop_parameters:
            logvar = logvar.detach()
            moved = (z - z.detach()).to(eps.dtype)  # 0, with the gradient of z
            largest = math.log(torch.finfo(eps.dtype).max) - 1.0  # 0 times infinity would be NaN
            standardized = eps + moved * torch.exp((-0.5 * logvar).clamp(max=largest))
        elements = -0.5 * (standardized * standardized + logvar + math.log(2.0 * math.pi))
        return z, reference.sum_event(elements, event_dims)

    def log_prob(self, z: Tensor) -> Tensor:
        """As `Posterior.log_prob`; float64 for float64, otherwise float32."""
        return log_normal(z, self.mu, self.logvar).flatten(1 - self.mu.ndim).sum(-1)
