"""A residual encoder for series, images and volumes: the shape of the autoencoders behind latent diffusion.

R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752, after P. Esser et al.,
"Taming Transformers for High-Resolution Image Synthesis", 2021, arXiv:2012.09841, table 7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vaekit.checks import checked_flag, checked_size, checked_sizes
from vaekit.dense import Linear
from vaekit.encoders.base import Encoder, registry
from vaekit.layers import CONVOLUTIONS, Layers, LayerStyle, checked_rank, glorot, halved_resolutions, precise_layer
from vaekit.posteriors import Family, Posterior
from vaekit.residual import ResidualBlock, middle_blocks


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

    Raises:
        ValueError: an input_shape of another rank; no channels; attention over a single position.

    Example:
        >>> import torch
        >>> encoder = ResNetEncoder((3, 33, 32), latent_dim=4, channels=(16, 32), blocks=1, attention=True, spatial=True)
        >>> encoder(torch.zeros(5, 3, 33, 32)).mean.shape
        torch.Size([5, 4, 17, 16])
        >>> with torch.device("meta"):  # with the decoder's 49,490,179 Stable Diffusion's, but for its 92 of two 1x1 convolutions
        ...     encoder = ResNetEncoder((3, 512, 512), 4, channels=(128, 256, 512, 512), attention=True, spatial=True)
        >>> sum(p.numel() for p in encoder.parameters())
        34163592
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
    ) -> None:
        super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        convolution = CONVOLUTIONS[checked_rank(self.input_shape, (1, 2, 3), "'resnet'")]
        if not checked_sizes("channels", channels):
            raise ValueError("channels has to name at least one level, (64, 128, 256) for example")
        style = LayerStyle(activation, normalization, dropout)
        resolutions = halved_resolutions(self.input_shape[1:], len(channels) - 1)
        layers: list[nn.Module] = [glorot(convolution(self.input_shape[0], channels[0], 3, padding=1))]
        size_in = channels[0]
        for level, (size, resolution) in enumerate(zip(channels, resolutions, strict=True)):
            if level:
                layers.append(glorot(convolution(size_in, size_in, 3, stride=2, padding=1)))
            for _ in range(checked_size("blocks", blocks)):
                layers.append(ResidualBlock(size_in, size, resolution, style, condition_dim))
                size_in = size
        layers += middle_blocks(channels[-1], resolutions[-1], style, attention, condition_dim)
        last_style = LayerStyle(activation, normalization)  # dropout is inside of the blocks
        self.body = Layers(*layers, *last_style.after(channels[-1], resolutions[-1]))
        self.spatial = checked_flag("spatial", spatial)
        if spatial:
            self.latent_shape = (latent_dim, *resolutions[-1])
            self.head: nn.Module = self.make_head(posterior, convolution, channels[-1], kernel_size=3, padding=1)
        else:
            self.head = self.make_head(posterior, Linear, channels[-1] * math.prod(resolutions[-1]))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        self.check_condition(x, condition)
        features = self.body(x, condition)
        return self.posterior(precise_layer(self.head, features if self.spatial else features.flatten(1)))
