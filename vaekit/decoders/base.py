"""What every decoder offers: z -> the likelihood's natural parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from vaekit.registry import Registry
from vaekit.sizes import checked_size, checked_sizes


class Decoder(nn.Module, ABC):
    """The network of p(x | z): from latents [B, *latent_shape] to natural parameters [B, P, *output_shape].

    Args:
        latent_dim: the number D of latent dimensions; `latent_shape` is (D,).
        output_shape: the shape of one example, the encoder's input_shape.
        parameters_per_element: P, the likelihood's; the axis is there even when it is 1.

    Raises:
        ValueError: an empty shape, or a size that is not a whole number of at least 1.
    """

    def __init__(self, latent_dim: int, output_shape: Sequence[int], parameters_per_element: int = 1) -> None:
        super().__init__()
        self.latent_shape: tuple[int, ...] = (checked_size("latent_dim", latent_dim),)
        self.output_shape = checked_sizes("output_shape", output_shape)
        if not self.output_shape:
            raise ValueError("output_shape has to have at least one dimension; a table with 13 columns has (13,)")
        self.parameters_per_element = checked_size("parameters_per_element", parameters_per_element)

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """[B, *latent_shape] -> [B, P, *output_shape], unconstrained."""


registry: Registry[Decoder] = Registry("decoder", "vaekit.decoders", Decoder)
