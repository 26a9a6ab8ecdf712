"""Convolutional encoders for series, images and volumes: strided convolutions, then dense layers or a spatial latent.

For images the shape of the Keras variational autoencoder example (F. Chollet, 2020, keras.io/examples/generative/vae).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from vaekit.checks import checked_flag, checked_sizes
from vaekit.dense import Linear
from vaekit.encoders.base import Encoder, registry
from vaekit.layers import (
    CONVOLUTIONS,
    Layers,
    LayerStyle,
    checked_rank,
    dense_layers,
    glorot,
    halved_resolutions,
    precise_layer,
    stride_of,
)
from vaekit.posteriors import Family, Posterior


class ConvolutionalEncoder(Encoder):
    """What the convolutional encoders share: everything but the number of spatial dimensions, `rank`."""

    rank: ClassVar[int]

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        channels: Sequence[int] = (32, 64),
        hidden: Sequence[int] | None = None,
        activation: str = "relu",
        spatial: bool = False,
        normalization: str = "none",
        dropout: float = 0.0,
        condition_dim: int = 0,
        posterior: str | Mapping[str, Any] | Family = "diagonal_gaussian",
    ) -> None:
        super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        checked_rank(self.input_shape, (self.rank,), "convolutions")
        if not checked_sizes("channels", channels):
            raise ValueError("channels has to name at least one convolution, (32, 64) for example")
        if checked_flag("spatial", spatial) and hidden:
            raise ValueError(
                f"hidden={tuple(hidden)} are dense layers, which spatial=True has no place for: its latents keep their positions"
            )
        style = LayerStyle(activation, normalization, dropout)
        resolutions = halved_resolutions(self.input_shape[1:], len(channels))
        convolution = CONVOLUTIONS[self.rank]
        layers: list[nn.Module] = []
        for channels_in, channels_out, sizes in zip((self.input_shape[0], *channels), channels, resolutions[1:], strict=False):
            halving = convolution(channels_in, channels_out, kernel_size=3, stride=2, padding=1, bias=style.has_bias)
            added = [] if layers else style.conditioned(channels_out, condition_dim)
            layers += [glorot(halving), *added, *style.after(channels_out, sizes)]
        self.convolutions = Layers(*layers)
        self.spatial = spatial
        if spatial:
            self.latent_shape = (latent_dim, *resolutions[-1])
            self.stride = stride_of(resolutions[0], len(channels))
            self.head: nn.Module = self.make_head(posterior, convolution, channels[-1], kernel_size=1)
            return
        hidden = (256,) if hidden is None else checked_sizes("hidden", hidden)
        features = (channels[-1] * math.prod(resolutions[-1]), *hidden)
        self.body = dense_layers(features, style)
        self.head = self.make_head(posterior, Linear, features[-1])

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        return self.posterior(self.numbers(x, condition))

    def numbers(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check_condition(x, condition)
        features = self.convolutions(x, condition)
        if not self.spatial:
            features = self.body(features.flatten(1))
        return precise_layer(self.head, features)


@registry.register("conv")
class ConvEncoder(ConvolutionalEncoder):
    """Strided convolutions, then dense layers or a spatial latent, for images of any size.

    Every convolution halves height and width, rounding up.

    Args:
        input_shape: (channels, height, width).
        latent_dim: D.
        channels: the output channels of the convolutions, from the input's side.
        hidden: the sizes of the dense layers that follow, (256,) by default.
        activation: after every layer: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        spatial: latents of the shape (D, height, width), at the last convolution's resolution, instead of D numbers: there are
            no dense layers then, and the divergence is summed over all of it.
        normalization: before each activation: none, batch, layer or group; see `vaekit.layers.LayerStyle`.
        dropout: the share of each layer's features that are left out in training.
        condition_dim: of a condition, of which a linear map is added to the first convolution's output at every position; 0 for
            none.
        posterior: the family of q(z | x), a name from `vaekit.posteriors.names()` or {"name": ..., option: ...}.

    Raises:
        ValueError: an input_shape of another rank; no channels; dense layers and a spatial latent.

    Example:
        >>> import torch
        >>> encoder = ConvEncoder((1, 28, 28), latent_dim=2, channels=(32, 64), hidden=(16,))
        >>> sum(p.numel() for p in encoder.parameters())  # Keras' example prints the same
        69076
        >>> encoder(torch.zeros(5, 1, 28, 28)).mean.shape
        torch.Size([5, 2])
        >>> ConvEncoder((1, 28, 28), latent_dim=4, spatial=True).latent_shape
        (4, 7, 7)
    """

    rank = 2


@registry.register("conv1d")
class Conv1dEncoder(ConvolutionalEncoder):
    """Strided convolutions, then dense layers or a spatial latent, for series of any length.

    Args:
        input_shape: (channels, length).
        latent_dim: D.
        channels, hidden, activation, normalization, dropout, condition_dim, posterior: as for `conv`.
        spatial: latents of the shape (D, length), at the last convolution's resolution, instead of D numbers.

    Raises:
        ValueError: as for `conv`.

    Example:
        >>> import torch
        >>> encoder = Conv1dEncoder((3, 100), latent_dim=2)
        >>> sum(p.numel() for p in encoder.parameters())
        417412
        >>> encoder(torch.zeros(5, 3, 100)).mean.shape
        torch.Size([5, 2])
    """

    rank = 1


@registry.register("conv3d")
class Conv3dEncoder(ConvolutionalEncoder):
    """Strided convolutions, then dense layers or a spatial latent, for volumes and videos of any size.

    Args:
        input_shape: (channels, depth, height, width), or (channels, time, height, width).
        latent_dim: D.
        channels, hidden, activation, normalization, dropout, condition_dim, posterior: as for `conv`.
        spatial: latents of the shape (D, depth, height, width), at the last convolution's resolution, instead of D numbers.

    Raises:
        ValueError: as for `conv`.

    Example:
        >>> import torch
        >>> encoder = Conv3dEncoder((1, 16, 32, 32), latent_dim=4, spatial=True)
        >>> sum(p.numel() for p in encoder.parameters())
        56776
        >>> encoder(torch.zeros(1, 1, 16, 32, 32)).mean.shape
        torch.Size([1, 4, 4, 8, 8])
    """

    rank = 3
