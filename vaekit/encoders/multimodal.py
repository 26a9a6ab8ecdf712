"""The encoder of several modalities: one encoder for each, whose posteriors are put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size
from vaekit.encoders.base import Encoder, registry
from vaekit.encoders.fusion import Fusion
from vaekit.encoders.fusion import registry as fusions
from vaekit.posteriors import DiagonalGaussian, Posterior


@registry.register("modalities")
class MultimodalEncoder(Encoder):
    """q(z | x) of several modalities, whichever of them are there. `vaekit.create_vae(modalities={...})` makes one.

    It reads what the likelihood "modalities" shows: the modalities one after the other, in the order of their names, and last a
    0 or 1 for each that says whether it is there. An encoder reads each; a fusion makes one posterior of theirs.

    Args:
        input_shape: of what the likelihood shows, all of it.
        latent_dim: D.
        encoders: {modality: encoder}, each {"name": ..., "input_shape": ..., option: ...} or an object, with a diagonal Gaussian.
        fusion: "product_of_experts", "mixture_of_experts", "mixture_of_products", {"name": ..., option: ...}, or a
            `vaekit.encoders.Fusion`.
        condition_dim: of a condition, which every encoder is told; 0 for none.

    Raises:
        TypeError, ValueError: encoders of other shapes than input_shape or latent_dim; another posterior than a diagonal
            Gaussian, when it is called.

    Example:
        >>> import vaekit
        >>> parts = {"a": {"shape": (3,), "likelihood": "gaussian"}, "b": {"shape": (1, 8, 8)}}
        >>> vae = vaekit.create_vae(modalities=parts, latent_dim=2)
        >>> vae.encode({"b": torch.rand(5, 1, 8, 8)}).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        encoders: Mapping[str, Mapping[str, Any] | Encoder],
        fusion: str | Mapping[str, Any] | Fusion = "product_of_experts",
        condition_dim: int = 0,
    ) -> None:
        super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        offers = {"latent_dim": checked_size("latent_dim", latent_dim), "condition_dim": condition_dim}
        built: dict[str, Encoder] = {name: registry.build(encoders[name], offers=offers) for name in sorted(encoders)}
        self.encoders = nn.ModuleDict(built)
        self.fusion = fusions.build(fusion)
        self._sizes = [math.prod(encoder.input_shape) for encoder in built.values()]
        if self.input_shape != (sum(self._sizes) + len(built),):
            raise ValueError(
                f"the encoders of {', '.join(built)} read {sum(self._sizes)} numbers, and there are {len(built)} that say which "
                f"modalities are there; input_shape has to be ({sum(self._sizes) + len(built)},), got {self.input_shape}"
            )
        for name, encoder in built.items():
            if encoder.latent_shape != self.latent_shape:
                raise ValueError(
                    f"the latents of {name!r} have the shape {encoder.latent_shape}, the model's {self.latent_shape}"
                )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        self.check_condition(x, condition)
        *parts, present = x.split([*self._sizes, len(self._sizes)], dim=1)
        told = () if condition is None else (condition,)
        means, logvars = [], []
        each: Any = self.encoders.items()
        for (name, encoder), part in zip(each, parts, strict=True):
            posterior = encoder(part.unflatten(1, encoder.input_shape), *(told if encoder.condition_dim else ()))
            if not isinstance(posterior, DiagonalGaussian):
                raise TypeError(f"the encoder of {name!r} gives a {type(posterior).__name__}; experts are diagonal Gaussians")
            means.append(posterior.mu)
            logvars.append(posterior.logvar)
        return self.fusion(torch.stack(means, 1), torch.stack(logvars, 1), present > 0.5)
