"""The decoder of several modalities: one decoder for each, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.decoders.base import Decoder, registry


@registry.register("modalities")
class MultimodalDecoder(Decoder):
    """From z to what the likelihood "modalities" needs of each. `vaekit.create_vae(modalities={...})` makes one.

    Args:
        latent_dim: D.
        output_shape: (N,), how many numbers all decoders give together.
        decoders: {modality: decoder}, each {"name": ..., "output_shape": ..., "parameters_per_element": ..., option: ...} or an
            object.
        parameters_per_element: 1.
        condition_dim: of a condition, which every decoder is told; 0 for none.

    Raises:
        TypeError, ValueError: decoders of other shapes than latent_dim or output_shape.

    Example:
        >>> specs = {name: {"name": "mlp", "output_shape": (3,), "parameters_per_element": 2} for name in ("a", "b")}
        >>> MultimodalDecoder(2, (12,), specs)(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 12])
    """

    def __init__(
        self,
        latent_dim: int | Sequence[int],
        output_shape: Sequence[int],
        decoders: Mapping[str, Mapping[str, Any] | Decoder],
        parameters_per_element: int = 1,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(latent_dim, output_shape, parameters_per_element, condition_dim)
        offers = {"latent_dim": latent_dim, "condition_dim": condition_dim}
        built = {name: registry.build(decoders[name], offers=offers) for name in sorted(decoders)}
        self.decoders = nn.ModuleDict(built)
        size = sum(decoder.parameters_per_element * math.prod(decoder.output_shape) for decoder in built.values())
        if self.output_shape != (size,) or self.parameters_per_element != 1:
            raise ValueError(
                f"the decoders of {', '.join(built)} give {size} numbers: output_shape has to be ({size},) and "
                f"parameters_per_element 1, got {self.output_shape} and {self.parameters_per_element}"
            )
        for name, decoder in built.items():
            if decoder.latent_shape != self.latent_shape:
                raise ValueError(f"the decoder of {name!r} takes latents {decoder.latent_shape}, the model's {self.latent_shape}")

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check_condition(z, condition)
        told = () if condition is None else (condition,)
        parts = [decoder(z, *(told if decoder.condition_dim else ())).flatten(1) for decoder in self.decoders.values()]
        return torch.cat(parts, 1).unsqueeze(1)
