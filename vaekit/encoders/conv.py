"""A convolutional encoder for images: strided 3x3 convolutions, then dense layers.

The shape of the Keras variational autoencoder example (F. Chollet, 2020, keras.io/examples/generative/vae).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from vaekit.encoders.base import Encoder, registry
from vaekit.layers import activation_layer, dense_layers, glorot, halved_resolutions
from vaekit.posteriors import DiagonalGaussian
from vaekit.sizes import checked_sizes


@registry.register("conv")
class ConvEncoder(Encoder):
    """Strided convolutions, then dense layers, for images of any size.

    Every convolution halves height and width, rounding up.

    Args:
        input_shape: (channels, height, width).
        latent_dim: D.
        channels: the output channels of the convolutions, from the input's side.
        hidden: the sizes of the dense layers that follow.
        activation: after every layer: elu, gelu, leaky_relu, relu, silu, softplus or tanh.

    Raises:
        ValueError: an input_shape of another rank; no channels.

    Example:
        >>> import torch
        >>> encoder = ConvEncoder((1, 28, 28), latent_dim=2, channels=(32, 64), hidden=(16,))
        >>> sum(p.numel() for p in encoder.parameters())  # Keras' example prints the same
        69076
        >>> encoder(torch.zeros(5, 1, 28, 28)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        channels: Sequence[int] = (32, 64),
        hidden: Sequence[int] = (256,),
        activation: str = "relu",
    ) -> None:
        super().__init__(input_shape, latent_dim)
        resolutions = halved_resolutions(self.input_shape, len(checked_sizes("channels", channels)))
        layers: list[nn.Module] = []
        for channels_in, channels_out in zip((self.input_shape[0], *channels), channels, strict=False):
            convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1)
            layers += [glorot(convolution), activation_layer(activation)]
        self.convolutions = nn.Sequential(*layers)
        sizes = (channels[-1] * math.prod(resolutions[-1]), *checked_sizes("hidden", hidden))
        self.body = dense_layers(sizes, activation)
        self.head = glorot(nn.Linear(sizes[-1], 2 * latent_dim))

    def forward(self, x: Tensor) -> DiagonalGaussian:
        features = self.body(self.convolutions(x).flatten(1))
        return DiagonalGaussian(*self.head(features).chunk(2, dim=-1))
