"""A residual encoder for series, images and volumes: the shape of the autoencoders behind latent diffusion.

R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752, after P. Esser et al.,
"Taming Transformers for High-Resolution Image Synthesis", 2021, arXiv:2012.09841, table 7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vaekit.checks import checked_flag, checked_size, checked_sizes, checked_word
from vaekit.dense import Linear
from vaekit.encoders.base import Encoder, registry
from vaekit.layers import CONVOLUTIONS, LayerStyle, checked_rank, glorot, halved_resolutions, precise_layer, stride_of
from vaekit.posteriors import DiagonalGaussianFamily, Family, Posterior
from vaekit.residual import ResidualBlock, checked_layers, halving, identity_convolution, in_faster_layout, middle_blocks
from vaekit.standardizing import Numbers, Standardized


@registry.register("resnet")
class ResNetEncoder(Encoder):
    """Levels of residual blocks with strided convolutions between them, for series, images and volumes of any size.

    How many spatial dimensions there are is read from input_shape. Between two levels every size is halved, rounding up.

    Args:
        input_shape: (channels, length), (channels, height, width) or (channels, depth, height, width).
        latent_dim: D.
        channels: of each level, from the input's side.
        blocks: how many there are in each level; two more follow at the lowest resolution.
        attention: self-attention at the lowest resolution, between those two.
        spatial: latents of the shape (D, *sizes), at the lowest resolution, instead of D numbers made from all of it by a linear
            layer; the divergence is summed over all of it.
        activation: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        normalization: before each activation: none, batch, layer or group; see `vaekit.layers.LayerStyle`.
        dropout: the share of features that are left out in training, in each block before its second convolution.
        condition_dim: of a condition, of which every block adds a linear map between its convolutions, see `ResidualBlock`; a new
            encoder, whose blocks are still their shortcuts, does not see it before the first step. 0 for none.
        posterior: the family of q(z | x), a name from `vaekit.posteriors.names()` or {"name": ..., option: ...}.
        groups: how many groups normalization="group" makes of each layer's features; None for `vaekit.layers.group_count`.
        norm_eps: what is added to the variances of groups and layers; None for torch's 1e-5.
        downsample_padding: where the strided convolutions have their zeros: "both" sides, or the "end" of each axis alone, as
            Stable Diffusion has.
        quant_conv: a 1x1 convolution after the last layer, of spatial latents; it begins as the identity.
        latent_scale, latent_shift: z = (z' - shift) scale of the latents z' that the layers give, a number or one for each of D;
            of spatial latents and the posterior "diagonal_gaussian". The decoder's have to be the same.
        checkpointing: keep each block's input alone for backward and compute the block again there: less memory, more time.

    Raises:
        ValueError: an input_shape of another rank; no channels; attention over a single position; groups that do not divide the
            channels; options of spatial latents without any.

    Example:
        >>> import torch
        >>> encoder = ResNetEncoder((3, 33, 32), latent_dim=4, channels=(16, 32), blocks=1, attention=True, spatial=True)
        >>> encoder(torch.zeros(5, 3, 33, 32)).mean.shape
        torch.Size([5, 4, 17, 16])
        >>> with torch.device("meta"):  # with the decoder's 49,490,199 all of Stable Diffusion's
        ...     encoder = ResNetEncoder(
        ...         (3, 512, 512), 4, channels=(128, 256, 512, 512), attention=True, spatial=True, quant_conv=True
        ...     )
        >>> sum(p.numel() for p in encoder.parameters())
        34163664
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        channels: Sequence[int] = (64, 128, 256),
        blocks: int = 2,
        attention: bool = False,
        spatial: bool = False,
        activation: str = "silu",
        normalization: str = "group",
        dropout: float = 0.0,
        condition_dim: int = 0,
        posterior: str | Mapping[str, Any] | Family = "diagonal_gaussian",
        groups: int | None = None,
        norm_eps: float | None = None,
        downsample_padding: str = "both",
        quant_conv: bool = False,
        latent_scale: Numbers = 1.0,
        latent_shift: Numbers = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        rank = checked_rank(self.input_shape, (1, 2, 3), "'resnet'")
        checked_word("downsample_padding", downsample_padding, ("both", "end"))
        convolution = CONVOLUTIONS[rank]
        if not checked_sizes("channels", channels):
            raise ValueError("channels has to name at least one level, (64, 128, 256) for example")
        style = LayerStyle(activation, normalization, dropout, groups, norm_eps)
        resolutions = halved_resolutions(self.input_shape[1:], len(channels) - 1)
        layers: list[nn.Module] = [glorot(convolution(self.input_shape[0], channels[0], 3, padding=1))]
        size_in = channels[0]
        for level, (size, resolution) in enumerate(zip(channels, resolutions, strict=True)):
            if level:
                layers += halving(size_in, rank, downsample_padding)
            for _ in range(checked_size("blocks", blocks)):
                layers.append(ResidualBlock(size_in, size, resolution, style, condition_dim))
                size_in = size
        layers += middle_blocks(channels[-1], resolutions[-1], style, attention, condition_dim)
        last_style = replace(style, dropout=0.0)  # which is inside of the blocks
        self.body = checked_layers([*layers, *last_style.after(channels[-1], resolutions[-1])], checkpointing, style)
        self.spatial = checked_flag("spatial", spatial)
        self.standardized = Standardized(latent_dim, latent_scale, latent_shift)
        if spatial:
            self.latent_shape = (latent_dim, *resolutions[-1])
            self.stride = stride_of(resolutions[0], len(channels) - 1)
            self.head: nn.Module = self.make_head(posterior, convolution, channels[-1], kernel_size=3, padding=1)
        else:
            self.head = self.make_head(posterior, Linear, channels[-1] * math.prod(resolutions[-1]))
        self._check_latent_options(checked_flag("quant_conv", quant_conv))
        self.quant_conv = identity_convolution(self.family.outputs, rank) if quant_conv else None

    def _check_latent_options(self, quant_conv: bool) -> None:
        if not self.spatial and (quant_conv or not self.standardized.is_identity):
            raise ValueError(
                "quant_conv, latent_scale and latent_shift are of latents that keep positions: give spatial=True too"
            )
        if not self.standardized.is_identity and type(self.family) is not DiagonalGaussianFamily:
            raise ValueError(
                "latent_scale and latent_shift are of means and log variances, the posterior 'diagonal_gaussian', "
                f"not of a {type(self.family).__name__}; leave them out"
            )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        return self.posterior(self.numbers(x, condition))

    def numbers(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.check_condition(x, condition)
        features = self.body(in_faster_layout(x), condition)
        numbers = precise_layer(self.head, features if self.spatial else features.flatten(1))
        if self.quant_conv is not None:
            numbers = precise_layer(self.quant_conv, numbers)
        return self.standardized.of_gaussian(numbers)
