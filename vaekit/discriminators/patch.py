"""A discriminator of patches: PatchGAN.

P. Isola, J.-Y. Zhu, T. Zhou, A. A. Efros, "Image-to-Image Translation with Conditional Adversarial Networks", 2017,
arXiv:1611.07004, section 3.2.2 and appendix 6.1.2, as in the autoencoders of P. Esser et al., 2021, arXiv:2012.09841.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vaekit.checks import checked_size
from vaekit.discriminators.base import Discriminator, registry
from vaekit.discriminators.mlp import SLOPE
from vaekit.layers import CONVOLUTIONS, LayerStyle, checked_rank

_KERNEL = 4
_WIDEST = 8  # times channels
_INITIAL = 0.02  # the standard deviation of new weights


@registry.register("patch")
class PatchDiscriminator(Discriminator):
    """PatchGAN: convolutions that judge each patch of a series, an image or a volume by itself, of any size.

    It sees texture and edges and not whether the whole makes sense, which is what a likelihood of pixels leaves out. A logit is
    one of a patch of 70 positions a side with three layers, 34 with two and 16 with one.

    Use it for pictures; for small ones take fewer layers. With 64 channels it costs about as much as a small `conv` network.

    Isola et al., 2017, arXiv:1611.07004.

    Args:
        input_shape: (channels, *sizes), the shape of one example; other sizes are taken too.
        channels: of the first layer; each further one has twice as many, up to eight times.
        layers: how many halve the sizes.
        normalization: of all layers but the first and the last: none, batch (the paper's), layer or group; see
            `vaekit.layers.LayerStyle`. With "batch" it sees which pictures come together, with the others each by itself.

    Raises:
        ValueError: sizes that are too small for so many layers, data of another rank, another word.

    Example:
        >>> import torch
        >>> discriminator = PatchDiscriminator((3, 32, 32), channels=8, layers=2)
        >>> [tuple(layer.shape[1:]) for layer in discriminator(torch.rand(5, 3, 32, 32))]
        [(8, 16, 16), (16, 8, 8), (32, 7, 7), (6, 6)]
    """

    def __init__(self, input_shape: Sequence[int], channels: int = 64, layers: int = 3, normalization: str = "group") -> None:
        super().__init__(input_shape)
        rank = checked_rank(self.input_shape, (1, 2, 3), "'patch'")
        channels, layers = checked_size("channels", channels), checked_size("layers", layers)
        if min(self.input_shape[1:]) < (least := 3 * 2**layers):
            fit = max(1, (min(self.input_shape[1:]) // 3).bit_length() - 1)
            raise ValueError(
                f"a patch discriminator of layers={layers} needs at least {least} positions along each axis, got "
                f"{self.input_shape[1:]}; give it layers={fit}, or take the discriminator 'mlp'"
            )
        style, convolution = LayerStyle("leaky_relu", normalization), CONVOLUTIONS[rank]
        widths = [channels * min(2**n, _WIDEST) for n in range(layers + 1)]
        self.layers = nn.ModuleList()
        size_in, sizes = self.input_shape[0], self.input_shape[1:]
        for number, width in enumerate(widths):
            stride = 1 if number == layers else 2
            sizes = tuple((size + 2 - _KERNEL) // stride + 1 for size in sizes)
            normalized = style.normalized(width, sizes) if number else []
            bias = not normalized or style.has_bias
            layer = convolution(size_in, width, _KERNEL, stride, 1, bias=bias)
            self.layers.append(nn.Sequential(layer, *normalized, nn.LeakyReLU(SLOPE)))
            size_in = width
        self.head = convolution(size_in, 1, _KERNEL, 1, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                nn.init.normal_(module.weight, std=_INITIAL)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        given = [x]
        for layer in self.layers:
            given.append(layer(given[-1]))
        return [*given[1:], self.head(given[-1]).squeeze(1)]
