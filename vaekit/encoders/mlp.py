"""The dense encoder of D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendix C.2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vaekit.checks import checked_sizes
from vaekit.dense import Linear
from vaekit.encoders.base import Encoder, registry
from vaekit.layers import LayerStyle, dense_layers, precise_layer, with_condition
from vaekit.posteriors import Family, Posterior


@registry.register("mlp")
class MLPEncoder(Encoder):
    """Dense layers on the flattened input: images, series and tables alike.

    Args:
        input_shape: the shape of one example.
        latent_dim: D.
        hidden: the sizes of the hidden layers, from the input's side; () makes the encoder linear.
        activation: between the layers: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        normalization: before each activation: none, batch, layer or group; see `vaekit.layers.LayerStyle`.
        dropout: the share of each hidden layer's features that are left out in training.
        condition_dim: of a condition, which the first layer reads behind the input; 0 for none.
        posterior: the family of q(z | x), a name from `vaekit.posteriors.names()` or {"name": ..., option: ...}.

    Example:
        >>> import torch
        >>> encoder = MLPEncoder((1, 28, 28), latent_dim=2, hidden=(2000, 256))
        >>> sum(p.numel() for p in encoder.parameters())
        2083284
        >>> encoder(torch.zeros(5, 1, 28, 28)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        hidden: Sequence[int] = (512, 256),
        activation: str = "relu",
        normalization: str = "none",
        dropout: float = 0.0,
        condition_dim: int = 0,
        posterior: str | Mapping[str, Any] | Family = "diagonal_gaussian",
    ) -> None:
        super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        sizes = (math.prod(self.input_shape) + condition_dim, *checked_sizes("hidden", hidden))
        self.body = dense_layers(sizes, LayerStyle(activation, normalization, dropout))
        self.head = self.make_head(posterior, Linear, sizes[-1])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        self.check_condition(x, condition)
        return self.posterior(precise_layer(self.head, self.body(with_condition(x.flatten(1), condition))))
