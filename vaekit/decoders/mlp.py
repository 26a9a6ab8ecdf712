"""The dense decoder of D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendix C.1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_sizes
from vaekit.decoders.base import Decoder, registry
from vaekit.dense import Linear
from vaekit.layers import LayerStyle, dense_layers, glorot, precise_layer, with_condition, with_precise_first


@registry.register("mlp")
class MLPDecoder(Decoder):
    """Dense layers, reshaped to the data: images, series and tables alike.

    Args:
        latent_dim: D, or a shape (D, *sizes), whose numbers are all read.
        output_shape: the shape of one example.
        parameters_per_element: P of the likelihood.
        hidden: the sizes of the hidden layers, from the latents' side; () makes the decoder linear.
        activation: between the layers: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        normalization: before each activation: none, batch, layer or group; see `vaekit.layers.LayerStyle`.
        dropout: the share of each hidden layer's features that are left out in training.
        condition_dim: of a condition, which the first layer reads behind the latents; 0 for none.

    Example:
        >>> import torch
        >>> decoder = MLPDecoder(2, (1, 28, 28), hidden=(256, 2000))
        >>> sum(p.numel() for p in decoder.parameters())
        2083552
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int | Sequence[int],
        output_shape: Sequence[int],
        parameters_per_element: int = 1,
        hidden: Sequence[int] = (256, 512),
        activation: str = "relu",
        normalization: str = "none",
        dropout: float = 0.0,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(latent_dim, output_shape, parameters_per_element, condition_dim)
        sizes = (math.prod(self.latent_shape) + condition_dim, *checked_sizes("hidden", hidden))
        self.body = dense_layers(sizes, LayerStyle(activation, normalization, dropout))
        self.head = glorot(Linear(sizes[-1], parameters_per_element * math.prod(self.output_shape)))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check_condition(z, condition)
        parameters = precise_layer(self.head, with_precise_first(self.body, with_condition(z.flatten(1), condition)))
        return torch.unflatten(parameters, 1, (self.parameters_per_element, *self.output_shape))

    @property
    def output_bias(self) -> Tensor:
        return self.head.bias.view(self.parameters_per_element, *self.output_shape)
