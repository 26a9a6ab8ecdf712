"""A decoder behind a top-down path: it reads what the path makes of all levels of latents.

A. Vahdat, J. Kautz, "NVAE: A Deep Hierarchical Variational Autoencoder", NeurIPS 2020, arXiv:2007.03898, figure 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.decoders.base import Decoder, registry
from vaekit.top_down import TopDown, path_of


@registry.register("top_down")
class TopDownDecoder(Decoder):
    """p(x | z) by another decoder, of the features at the end of the encoder's top-down path.

    With the posterior "ladder" those are the last level's latents, so that x depends on the others through it alone; with the
    encoder "top_down" the path's state beside the last level's latents. The path is a function of z, which is computed here
    again. Its weights are the encoder's.

    Args:
        latent_dim: the shape of the latents, all levels together.
        output_shape: the shape of one example.
        parameters_per_element: P, the likelihood's.
        features_shape: of what the path gives, its `features_shape`; `vaekit.create_vae` fills it in.
        decoder: what reads it: a name from `vaekit.decoders.names()`, {"name": ..., option: ...}, or an object.
        condition_dim: of a condition, which that decoder reads; 0 for none.

    Raises:
        ValueError: an encoder whose posteriors have no path, or features of another shape; a decoder that does not fit.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(
        ...     input_shape=(4,),
        ...     latent_dim=6,
        ...     posterior={"name": "ladder", "levels": (2, 4)},
        ...     prior="top_down",
        ...     decoder={"name": "top_down", "decoder": {"name": "mlp", "hidden": (16,)}},
        ... )
        >>> z = torch.rand(1, 6)
        >>> moved = z + torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])  # the upper level alone
        >>> torch.equal(vae.decode(z), vae.decode(moved))
        True
    """

    def __init__(
        self,
        latent_dim: int | Sequence[int],
        output_shape: Sequence[int],
        parameters_per_element: int = 1,
        features_shape: Sequence[int] | None = None,
        decoder: str | Mapping[str, Any] | Decoder = "mlp",
        condition_dim: int = 0,
    ) -> None:
        super().__init__(latent_dim, output_shape, parameters_per_element, condition_dim)
        if features_shape is None:
            raise ValueError(
                "a top_down decoder reads the features of a top-down path, which the encoder has not; make it with "
                "posterior='ladder', take the encoder 'top_down', or another decoder"
            )
        self.features_shape = checked_sizes("features_shape", features_shape)
        offers = {
            "latent_dim": self.features_shape if len(self.features_shape) > 1 else self.features_shape[0],
            "output_shape": self.output_shape,
            "parameters_per_element": parameters_per_element,
            **({"condition_dim": condition_dim} if condition_dim else {}),
        }
        self.decoder = registry.build(decoder, offers)
        self._check_decoder()
        self._paths: list[TopDown] = []  # in a list: its weights are the encoder's

    def _check_decoder(self) -> None:
        inner = self.decoder
        have = (inner.latent_shape, inner.output_shape, inner.parameters_per_element, inner.condition_dim)
        wanted = (self.features_shape, self.output_shape, self.parameters_per_element, self.condition_dim)
        if have != wanted:
            raise ValueError(
                "the decoder of a top_down one has to have the latent shape, output_shape, parameters_per_element and "
                f"condition_dim {wanted}, got {have}"
            )

    def attach(self, encoder: nn.Module) -> None:
        path = path_of(encoder)
        if path is None or path.features_shape != self.features_shape:
            has = "none" if path is None else path.features_shape
            raise ValueError(
                f"the top_down decoder reads features of the shape {self.features_shape} of a top-down path; those of the "
                f"encoder's have {has}; make it with features_shape=encoder.family.path.features_shape"
            )
        if self._paths and self._paths[0] is not path:
            raise ValueError("this top_down decoder belongs to another model; make a new one")
        self._paths = [path]

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        if not self._paths:
            raise RuntimeError("a top_down decoder reads an encoder's path: compose a vaekit.VAE with it first")
        features = self._paths[0].features(z)
        return self.decoder(features) if condition is None else self.decoder(features, condition)

    @property
    def output_weight(self) -> Tensor | None:
        return self.decoder.output_weight

    @property
    def output_bias(self) -> Tensor | None:
        return self.decoder.output_bias
