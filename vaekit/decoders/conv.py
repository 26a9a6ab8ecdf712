"""Convolutional decoders for series, images and volumes: dense layers or a spatial latent, then upsampling convolutions.

For images the shape of the Keras variational autoencoder example (F. Chollet, 2020, keras.io/examples/generative/vae); resizing
before a convolution instead of a transposed one avoids checkerboards (A. Odena et al., 2016, doi:10.23915/distill.00003).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaekit.checks import checked_sizes, checked_word
from vaekit.decoders.base import Decoder, registry
from vaekit.layers import (
    CONVOLUTIONS,
    TRANSPOSED,
    Layers,
    LayerStyle,
    checked_rank,
    dense_layers,
    glorot,
    stride_of,
    upsampling,
    with_condition,
    with_precise_first,
)

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}  # torch's names of the one method


class ConvolutionalDecoder(Decoder):
    """What the convolutional decoders share: everything but the number of spatial dimensions, `rank`."""

    rank: ClassVar[int]

    def __init__(
        self,
        latent_dim: int | Sequence[int],
        output_shape: Sequence[int],
        parameters_per_element: int = 1,
        channels: Sequence[int] = (64, 32),
        hidden: Sequence[int] = (),
        activation: str = "relu",
        upsample: str = "transpose",
        normalization: str = "none",
        dropout: float = 0.0,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(latent_dim, output_shape, parameters_per_element, condition_dim)
        checked_rank(self.output_shape, (self.rank,), "convolutions")
        checked_word("upsample", upsample, ("transpose", "nearest", _INTERPOLATION[self.rank]))
        if not checked_sizes("channels", channels):
            raise ValueError("channels has to name at least one convolution, (64, 32) for example")
        if self.is_spatial and hidden:
            raise ValueError(
                f"hidden={tuple(hidden)} are dense layers, which spatial latents {self.latent_shape} have no place for"
            )
        style = LayerStyle(activation, normalization, dropout)
        convolution, transposed = CONVOLUTIONS[self.rank], TRANSPOSED[self.rank]
        resolutions = self.doubled_resolutions(channels, len(channels))
        self.first_shape = (channels[0], *resolutions[0])
        if self.is_spatial:
            self.stride = stride_of(resolutions[-1], len(channels))
            first = glorot(convolution(self.latent_shape[0], channels[0], kernel_size=1, bias=style.has_bias))
            added = style.conditioned(channels[0], condition_dim)
            self.body: nn.Sequential = Layers(first, *added, *style.after(channels[0], resolutions[0]))
        else:
            size_in = self.latent_shape[0] + condition_dim
            self.body = dense_layers((size_in, *checked_sizes("hidden", hidden), math.prod(self.first_shape)), style)
        layers: list[nn.Module] = []
        for channels_in, channels_out, small, large in zip(
            (channels[0], *channels), channels, resolutions, resolutions[1:], strict=False
        ):
            if upsample == "transpose":
                # A transposed convolution makes 2 s - 1 from s; where the encoder halved an even size, one more is needed.
                padding = tuple(after - 2 * before + 1 for before, after in zip(small, large, strict=True))
                doubling = transposed(
                    channels_in,
                    channels_out,
                    3,
                    stride=2,
                    padding=1,
                    output_padding=padding,  # type: ignore[arg-type]
                    bias=style.has_bias,
                )
                layers.append(glorot(doubling))
            else:
                resized = convolution(channels_in, channels_out, 3, padding=1, bias=style.has_bias)
                layers += [upsampling(small, large, upsample), glorot(resized)]
            layers += style.after(channels_out, large)
        last = convolution(channels[-1], parameters_per_element * self.output_shape[0], 3, padding=1)
        self.convolutions = nn.Sequential(*layers, glorot(last))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check_condition(z, condition)
        if self.is_spatial:
            features = with_precise_first(self.body, z, condition)
        else:
            features = with_precise_first(self.body, with_condition(z, condition)).unflatten(1, self.first_shape)
        *convolutions, last = self.convolutions
        for layer in convolutions:
            features = layer(features)
        data = self.last_layer(last, features)
        return torch.unflatten(data, 1, (self.parameters_per_element, self.output_shape[0]))

    @property
    def output_weight(self) -> Tensor:
        return self.convolutions[-1].get_parameter("weight")

    @property
    def output_bias(self) -> Tensor:
        bias = self.convolutions[-1].get_parameter("bias")
        return bias.view(self.parameters_per_element, self.output_shape[0], *(1,) * self.rank)


@registry.register("conv")
class ConvDecoder(ConvolutionalDecoder):
    """Dense layers or a spatial latent, then upsampling convolutions, for images of any size.

    Every entry of `channels` doubles height and width, through the very sizes that `ConvEncoder` halved.

    Args:
        latent_dim: D, or the shape (D, height, width) of a spatial latent, at the resolution of the first convolution.
        output_shape: (channels, height, width), any sizes.
        parameters_per_element: P of the likelihood.
        channels: the output channels of the upsampling convolutions, from the latents' side.
        hidden: the sizes of dense layers before them; none with a spatial latent, which a 1x1 convolution reads instead.
        activation: after every layer but the last: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        upsample: "transpose", a transposed convolution, or "nearest" or "bilinear", resizing and then a convolution.
        normalization: before each activation: none, batch, layer or group; see `vaekit.layers.LayerStyle`.
        dropout: the share of each layer's features that are left out in training.
        condition_dim: of a condition, which the first dense layer reads behind the latents; with a spatial latent a linear map of
            it is added to the first convolution's output at every position. 0 for none.

    Raises:
        ValueError: an output_shape of another rank; no channels; another word for `upsample`; a spatial latent of another
            resolution.

    Example:
        >>> import torch
        >>> decoder = ConvDecoder(2, (1, 28, 28), channels=(64, 32))
        >>> sum(p.numel() for p in decoder.parameters())  # Keras' example prints the same
        65089
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 1, 28, 28])
    """

    rank = 2


@registry.register("conv1d")
class Conv1dDecoder(ConvolutionalDecoder):
    """Dense layers or a spatial latent, then upsampling convolutions, for series of any length.

    Args:
        latent_dim: D, or the shape (D, length) of a spatial latent.
        output_shape: (channels, length), any length.
        parameters_per_element, channels, hidden, activation, normalization, dropout, condition_dim: as for `conv`.
        upsample: "transpose", "nearest" or "linear".

    Raises:
        ValueError: as for `conv`.

    Example:
        >>> import torch
        >>> decoder = Conv1dDecoder(2, (3, 100))
        >>> sum(p.numel() for p in decoder.parameters())
        23619
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 1, 3, 100])
    """

    rank = 1


@registry.register("conv3d")
class Conv3dDecoder(ConvolutionalDecoder):
    """Dense layers or a spatial latent, then upsampling convolutions, for volumes and videos of any size.

    Args:
        latent_dim: D, or the shape (D, depth, height, width) of a spatial latent.
        output_shape: (channels, depth, height, width), or (channels, time, height, width), any sizes.
        parameters_per_element, channels, hidden, activation, normalization, dropout, condition_dim: as for `conv`.
        upsample: "transpose", "nearest" or "trilinear".

    Raises:
        ValueError: as for `conv`.

    Example:
        >>> import torch
        >>> decoder = Conv3dDecoder((4, 4, 8, 8), (1, 16, 32, 32))
        >>> sum(p.numel() for p in decoder.parameters())
        167169
        >>> decoder(torch.zeros(1, 4, 4, 8, 8)).shape
        torch.Size([1, 1, 1, 16, 32, 32])
    """

    rank = 3
