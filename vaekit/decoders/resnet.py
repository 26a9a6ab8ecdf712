"""A residual decoder for series, images and volumes: the shape of the autoencoders behind latent diffusion.

R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752, after P. Esser et al.,
"Taming Transformers for High-Resolution Image Synthesis", 2021, arXiv:2012.09841, table 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vaekit.checks import checked_flag, checked_size, checked_sizes
from vaekit.decoders.base import Decoder, registry
from vaekit.dense import Linear
from vaekit.layers import (
    CONVOLUTIONS,
    LayerStyle,
    checked_rank,
    glorot,
    precise_layer,
    stride_of,
    upsampling,
    with_condition,
)
from vaekit.residual import ResidualBlock, checked_layers, identity_convolution, in_faster_layout, middle_blocks
from vaekit.standardizing import Numbers, Standardized


@registry.register("resnet")
class ResNetDecoder(Decoder):
    """Levels of residual blocks with nearest-neighbour upsampling between them, for series, images and volumes of any size.

    How many spatial dimensions there are is read from output_shape. Between two levels every size is doubled, through the very
    sizes that `ResNetEncoder` halved.

    Args:
        latent_dim: D, or the shape (D, *sizes) of a spatial latent, at the lowest resolution.
        output_shape: (channels, length), (channels, height, width) or (channels, depth, height, width).
        parameters_per_element: P of the likelihood.
        channels: of each level, from the latents' side.
        blocks: how many there are in each level, after two at the lowest resolution; Rombach et al. have one more in each of the
            decoder's levels than in the encoder's.
        attention: self-attention at the lowest resolution, between those two.
        activation: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        normalization: before each activation: none, batch, layer or group; see `vaekit.layers.LayerStyle`.
        dropout: the share of features that are left out in training, in each block before its second convolution.
        condition_dim: of a condition, of which every block adds a linear map between its convolutions, see `ResidualBlock`; the
            dense layer that reads D numbers reads it too, so that it can say what is where. 0 for none.
        groups: how many groups normalization="group" makes of each layer's features; None for `vaekit.layers.group_count`.
        norm_eps: what is added to the variances of groups and layers; None for torch's 1e-5.
        post_quant_conv: a 1x1 convolution before the first layer, of spatial latents; it begins as the identity.
        latent_scale, latent_shift: the encoder's: the layers read z / scale + shift.
        checkpointing: keep each block's input alone for backward and compute the block again there: less memory, more time.

    Raises:
        ValueError: an output_shape of another rank; no channels; attention over a single position; a spatial latent of another
            resolution; groups that do not divide the channels; options of spatial latents without any.

    Example:
        >>> import torch
        >>> decoder = ResNetDecoder((4, 17, 16), (3, 33, 32), channels=(32, 16), blocks=1, attention=True)
        >>> decoder(torch.zeros(5, 4, 17, 16)).shape
        torch.Size([5, 1, 3, 33, 32])
        >>> with torch.device("meta"):  # with the encoder's 34,163,664 all of Stable Diffusion's
        ...     decoder = ResNetDecoder(
        ...         (4, 64, 64), (3, 512, 512), channels=(512, 512, 256, 128), blocks=3, attention=True, post_quant_conv=True
        ...     )
        >>> sum(p.numel() for p in decoder.parameters())
        49490199
    """

    def __init__(
        self,
        latent_dim: int | Sequence[int],
        output_shape: Sequence[int],
        parameters_per_element: int = 1,
        channels: Sequence[int] = (256, 128, 64),
        blocks: int = 2,
        attention: bool = False,
        activation: str = "silu",
        normalization: str = "group",
        dropout: float = 0.0,
        condition_dim: int = 0,
        groups: int | None = None,
        norm_eps: float | None = None,
        post_quant_conv: bool = False,
        latent_scale: Numbers = 1.0,
        latent_shift: Numbers = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(latent_dim, output_shape, parameters_per_element, condition_dim)
        self.rank = checked_rank(self.output_shape, (1, 2, 3), "'resnet'")
        if not checked_sizes("channels", channels):
            raise ValueError("channels has to name at least one level, (256, 128, 64) for example")
        convolution, style = CONVOLUTIONS[self.rank], LayerStyle(activation, normalization, dropout, groups, norm_eps)
        resolutions = self.doubled_resolutions(channels, len(channels) - 1)
        self.first_shape = (channels[0], *resolutions[0])
        self.first: nn.Module
        self.standardized = Standardized(self.latent_shape[0], latent_scale, latent_shift)
        is_there = checked_flag("post_quant_conv", post_quant_conv)
        if not self.is_spatial and (is_there or not self.standardized.is_identity):
            raise ValueError(
                "post_quant_conv, latent_scale and latent_shift are of latents that keep positions, not of D numbers"
            )
        self.post_quant_conv = identity_convolution(self.latent_shape[0], self.rank) if is_there else None
        if self.is_spatial:
            self.stride = stride_of(resolutions[-1], len(channels) - 1)
            self.first = glorot(convolution(self.latent_shape[0], channels[0], 3, padding=1))
        else:
            self.first = glorot(Linear(self.latent_shape[0] + condition_dim, math.prod(self.first_shape)))
        layers = middle_blocks(channels[0], resolutions[0], style, attention, condition_dim)
        size_in = channels[0]
        for level, (size, resolution) in enumerate(zip(channels, resolutions, strict=True)):
            if level:
                layers += [
                    upsampling(resolutions[level - 1], resolution, "nearest"),
                    glorot(convolution(size_in, size_in, 3, padding=1)),
                ]
            for _ in range(checked_size("blocks", blocks)):
                layers.append(ResidualBlock(size_in, size, resolution, style, condition_dim))
                size_in = size
        last_style = replace(style, dropout=0.0)  # which is inside of the blocks
        layers += last_style.after(channels[-1], resolutions[-1])
        self.body = checked_layers(layers, checkpointing, style)
        self.head = glorot(convolution(channels[-1], parameters_per_element * self.output_shape[0], 3, padding=1))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check_condition(z, condition)
        if self.is_spatial:
            z = self.standardized.backward(z)
            first = precise_layer(self.first, z if self.post_quant_conv is None else precise_layer(self.post_quant_conv, z))
        else:
            first = precise_layer(self.first, with_condition(z, condition)).unflatten(1, self.first_shape)
        data = self.last_layer(self.head, self.body(in_faster_layout(first), condition))
        return torch.unflatten(data, 1, (self.parameters_per_element, self.output_shape[0]))

    @property
    def output_weight(self) -> Tensor:
        return self.head.get_parameter("weight")

    @property
    def output_bias(self) -> Tensor:
        bias = self.head.get_parameter("bias")
        return bias.view(self.parameters_per_element, self.output_shape[0], *(1,) * self.rank)
