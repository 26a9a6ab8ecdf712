"""The dense decoder of D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendix C.1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_size, checked_sizes
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
        from_condition: the numbers, from 0 on, of those of the P parameters that depend on the condition alone, linearly: (1,)
            with a negative binomial is a dispersion for each gene and batch. Such a decoder has no `output_bias`.

    Raises:
        ValueError: a number in from_condition that is none of the P parameters, or stands there twice, or leaves none for the
            latents; one without a condition.

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
        from_condition: Sequence[int] = (),
    ) -> None:
        super().__init__(latent_dim, output_shape, parameters_per_element, condition_dim)
        self._from_condition = _checked_numbers(from_condition, parameters_per_element, condition_dim)
        told, features = len(self._from_condition), math.prod(self.output_shape)
        sizes = (math.prod(self.latent_shape) + condition_dim, *checked_sizes("hidden", hidden))
        self.body = dense_layers(sizes, LayerStyle(activation, normalization, dropout))
        self.head = glorot(Linear(sizes[-1], (parameters_per_element - told) * features))
        self.told = glorot(Linear(condition_dim, told * features)) if told else None

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check_condition(z, condition)
        parameters = self.last_layer(self.head, with_precise_first(self.body, with_condition(z.flatten(1), condition)))
        if self.told is None or condition is None:
            return torch.unflatten(parameters, 1, (self.parameters_per_element, *self.output_shape))
        told = precise_layer(self.told, condition)
        own, by_condition = (iter(part.unflatten(1, (-1, *self.output_shape)).unbind(1)) for part in (parameters, told))
        each = (next(by_condition if number in self._from_condition else own) for number in range(self.parameters_per_element))
        return torch.stack(list(each), dim=1)

    @property
    def output_weight(self) -> Tensor:
        return self.head.weight

    @property
    def output_bias(self) -> Tensor | None:
        if self.told is not None:
            return None
        return self.head.bias.view(self.parameters_per_element, *self.output_shape)


def _checked_numbers(from_condition: Sequence[int], parameters: int, condition_dim: int) -> tuple[int, ...]:
    numbers = tuple(sorted(checked_size("from_condition", number, least=0) for number in from_condition))
    if numbers and not condition_dim:
        raise ValueError(f"from_condition={list(from_condition)}: there is no condition; leave it out, or give the model one")
    if numbers and (len(set(numbers)) < len(numbers) or len(numbers) >= parameters or numbers[-1] >= parameters):
        raise ValueError(
            f"from_condition has to hold different numbers from 0 to {parameters - 1}, fewer than the {parameters} parameter(s) "
            f"of an element, got {list(from_condition)}"
        )
    return numbers
