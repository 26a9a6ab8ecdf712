"""A dense discriminator."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from vaekit.checks import checked_sizes
from vaekit.dense import Linear
from vaekit.discriminators.base import Discriminator, registry
from vaekit.layers import glorot

SLOPE = 0.2  # of leaky ReLUs: A. Radford, L. Metz, S. Chintala, "DCGAN", 2015, arXiv:1511.06434, section 3


@registry.register("mlp")
class MLPDiscriminator(Discriminator):
    """Dense layers, each followed by a leaky ReLU of slope 0.2, and one logit: for latents, tables and small pictures.

    Use it for latents: beside the networks it costs little there. The default is the size of A. Makhzani et al., "Adversarial
    Autoencoders", 2015, arXiv:1511.05644, appendix A.1.

    Args:
        input_shape: the shape of what it is shown, which it sees as one vector.
        hidden: the sizes of the hidden layers.

    Raises:
        ValueError: sizes that are not whole numbers of at least 1, or no hidden layer.

    Example:
        >>> import torch
        >>> [tuple(layer.shape) for layer in MLPDiscriminator((2, 3), hidden=(16, 8))(torch.rand(5, 2, 3))]
        [(5, 16), (5, 8), (5, 1)]
    """

    def __init__(self, input_shape: Sequence[int], hidden: Sequence[int] = (1000, 1000)) -> None:
        super().__init__(input_shape)
        sizes = (math.prod(self.input_shape), *checked_sizes("hidden", hidden))
        if len(sizes) == 1:
            raise ValueError("hidden has to name at least one layer, (1000, 1000) for example")
        self.hidden = nn.ModuleList(glorot(Linear(*pair)) for pair in itertools.pairwise(sizes))
        self.head = glorot(Linear(sizes[-1], 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        given = [x.flatten(1)]
        for layer in self.hidden:
            given.append(leaky_relu(layer(given[-1]), SLOPE))
        return [*given[1:], self.head(given[-1])]
