"""What every prior offers: a density and draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.registry import Registry
from vaekit.sizes import checked_sizes


class Prior(nn.Module, ABC):
    """p(z) over latents of shape [*S].

    Args:
        latent_shape: S, for a prior whose parameters have a shape; `vaekit.create_vae` fills it in.

    Attributes:
        latent_shape: S; None where any shape will do.
    """

    def __init__(self, latent_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.latent_shape = None if latent_shape is None else checked_sizes("latent_shape", latent_shape)

    def attach(self, encoder: nn.Module) -> None:
        """Called by the `vaekit.VAE` that the prior becomes part of, with its encoder, for a prior that is made of posteriors."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats: z [B, *S] -> [B]."""

    @abstractmethod
    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype) -> Tensor:
        """Draws of shape `shape` = [n, *S], made from `key` on its device."""


registry: Registry[Prior] = Registry("prior", "vaekit.priors", Prior)
