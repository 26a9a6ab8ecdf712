"""What every posterior offers: a differentiable draw, its density and its divergence from a prior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vaekit.priors.base import Prior


class Posterior(ABC):
    """q(z | x) for a batch of B inputs, with latents of any shape [*S]. An encoder returns one.

    A posterior of one's own gives `mean`, `log_prob` and `rsample_log_prob`, and `rsample_kl` as well where it knows an exact
    divergence.

    Attributes:
        mean: [B, *S], what `VAE.reconstruct` decodes.
    """

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """[B, *S]."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: z [..., B, *S] -> [..., B]."""

    @abstractmethod
    def rsample_log_prob(
        self,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
        stop_parameters: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and its own log density, at the precision of the noise.

        Args:
            key, generator, num_samples, row_start: as in `rsample_kl`.
            stop_parameters: take the parameters of the density for constants, so that its gradient is the one through z alone:
                the path derivative of G. Roeder, Y. Wu, D. Duvenaud, "Sticking the Landing", 2017, arXiv:1703.09194. The values
                are the same.

        Returns:
            z: [B, *S], or [K, B, *S].
            log q(z | x): [B], or [K, B], nats.
        """

    def rsample_log_ratio(
        self,
        prior: Prior,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and log q(z | x) - log p(z) of that draw, whose mean is the divergence from `prior`.

        Arguments as of `rsample_kl`.

        Returns:
            z: [B, *S], or [K, B, *S].
            log q(z | x) - log p(z): [B], or [K, B], nats.

        Example:
            >>> from vaekit import DiagonalGaussian, StandardNormal
            >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))  # the prior itself
            >>> z, log_ratio = q.rsample_log_ratio(StandardNormal(), num_samples=5)
            >>> z.shape, bool((log_ratio.abs() < 1e-5).all())
            (torch.Size([5, 4, 2]), True)
        """
        z, log_posterior = self.rsample_log_prob(key=key, generator=generator, num_samples=num_samples, row_start=row_start)
        return z, log_posterior - log_prior(prior, z, log_posterior.shape)

    def rsample_kl(
        self,
        prior: Prior,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and the divergence from `prior`, or log q(z) - log p(z) where that is not known.

        Args:
            prior: p(z).
            key: int64 [2], the noise; without one it is drawn from `generator` or torch's global generator.
            num_samples: K draws for each input.
            row_start: the first input's number in a larger batch, whose noise for its rows this call then draws.

        Returns:
            z: [B, *S], or [K, B, *S].
            kl: [B], nats (or [K, B] where it is an estimate from each of K draws).
        """
        return self.rsample_log_ratio(prior, key=key, generator=generator, num_samples=num_samples, row_start=row_start)


def log_prior(prior: Prior, z: Tensor, leading: torch.Size) -> Tensor:
    """log p(z) in nats of draws [*leading, *S] -> [*leading]: a prior sees one batch."""
    return prior.log_prob(z.reshape(math.prod(leading), *z.shape[len(leading) :])).reshape(leading)
