"""What every posterior offers: a differentiable draw and its divergence from a prior."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vaekit.priors.base import Prior


class Posterior(ABC):
    """q(z | x) for a batch of B inputs, with latents of any shape [*S]. An encoder returns one.

    Attributes:
        mean: [B, *S], what `VAE.reconstruct` decodes.
    """

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """[B, *S]."""

    @abstractmethod
    def rsample_kl(
        self,
        prior: Prior,
        *,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and the divergence from `prior`.

        Args:
            prior: p(z).
            key: int64 [2], the noise; without one it is drawn from `generator` or torch's global generator.
            num_samples: K draws for each input.
            row_start: the first input's number in a larger batch, whose noise for its rows this call then draws.

        Returns:
            z: [B, *S], or [K, B, *S].
            kl: [B], nats (or [K, B] where it is an estimate from each of K draws).
        """

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: z [..., B, *S] -> [..., B]."""
