"""What every encoder offers: x -> Posterior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vaekit.posteriors.base import Posterior
from vaekit.registry import Registry
from vaekit.sizes import checked_size, checked_sizes


class Encoder(nn.Module, ABC):
    """q(z | x): a module from a batch [B, *input_shape] to a `Posterior` over latents [B, *latent_shape].

    Args:
        input_shape: the shape of one example, without the batch.
        latent_dim: the number D of latent dimensions; `latent_shape` is (D,).

    Raises:
        ValueError: an empty shape, or a size that is not a whole number of at least 1.
    """

    def __init__(self, input_shape: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.input_shape = checked_sizes("input_shape", input_shape)
        if not self.input_shape:
            raise ValueError("input_shape has to have at least one dimension; a table with 13 columns has (13,)")
        self.latent_shape: tuple[int, ...] = (checked_size("latent_dim", latent_dim),)

    @abstractmethod
    def forward(self, x: Tensor) -> Posterior:
        """[B, *input_shape] -> a posterior over [B, *latent_shape]."""


registry: Registry[Encoder] = Registry("encoder", "vaekit.encoders", Encoder)
