"""Residual blocks and self-attention over the positions of series, images and volumes.

The blocks of the autoencoders of P. Esser et al., "Taming Transformers", 2021, arXiv:2012.09841, and R. Rombach et al.,
"High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752. The last convolution of a block starts
at 0, so that the block starts as its shortcut (P. Goyal et al., 2017, arXiv:1706.02677, section 5.1); theirs starts at random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vaekit.checks import checked_flag
from vaekit.layers import CONVOLUTIONS, ConditionalLayer, Layers, LayerStyle, glorot
from vaekit.ops import dispatch

M = TypeVar("M", bound=nn.Module)
_ALIGNMENT = 8  # 16 bytes of the smallest dtype


class ResidualBlock(ConditionalLayer):
    """x + f(x): normalisation, activation and a 3x3 convolution, twice, with dropout before the second one.

    Args:
        channels_in, channels_out: where they differ, a 1x1 convolution takes x there.
        sizes: the spatial sizes of x, one to three of them.
        style: normalisation, activation and dropout.
        condition_dim: of a condition, of which a linear map is added to the first convolution's output at every position, as that
            of the time in J. Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239; 0 for none.

    Example:
        >>> import torch
        >>> block = ResidualBlock(8, 8, (9, 7), LayerStyle("silu", "group"))
        >>> x = torch.rand(2, 8, 9, 7)
        >>> torch.equal(block(x), x)  # to begin with
        True
    """

    def __init__(
        self, channels_in: int, channels_out: int, sizes: Sequence[int], style: LayerStyle, condition_dim: int = 0
    ) -> None:
        super().__init__()
        convolution, bare = CONVOLUTIONS[len(sizes)], replace(style, dropout=0.0)
        self.residual = Layers(
            *bare.after(channels_in, sizes),
            glorot(convolution(channels_in, channels_out, 3, padding=1, bias=style.has_bias)),
            *style.conditioned(channels_out, condition_dim),
            *style.after(channels_out, sizes),
            _zeroed(convolution(channels_out, channels_out, 3, padding=1)),
        )
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else glorot(convolution(channels_in, channels_out, 1))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """[B, channels_in, *sizes], and [B, condition_dim] if it was made for a condition, -> [B, channels_out, *sizes]."""
        residual = self.residual(x, condition)
        shortcut: Tensor = self.shortcut(x)  # after it, so that only one of the two is there while it computes
        if torch.is_grad_enabled() or dispatch.is_recorded():
            return shortcut + residual
        return residual.add_(shortcut)


class SelfAttention(nn.Module):
    """x + f(x): every position looks at all others, through one head as wide as x (A. Vaswani et al., 2017, arXiv:1706.03762).

    It knows nothing of where a position is: permuted positions give permuted results. Time grows with the square of their number,
    memory in proportion to it: torch's fused kernels never hold all pairs at once (on a GPU there is none for float64). They have
    no second and no forward-mode derivatives; `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` around the model has them.

    Args:
        channels: of x.
        sizes: the spatial sizes of x.
        style: its normalisation comes first.

    Raises:
        ValueError: a single position, which would only look at itself.

    Example:
        >>> import torch
        >>> attention = SelfAttention(8, (4, 3), LayerStyle("silu", "group"))
        >>> attention(torch.rand(2, 8, 4, 3)).shape
        torch.Size([2, 8, 4, 3])
    """

    def __init__(self, channels: int, sizes: Sequence[int], style: LayerStyle) -> None:
        super().__init__()
        if math.prod(sizes) == 1:
            raise ValueError(
                f"attention at the lowest resolution, {tuple(sizes)}, has one position, which can only look at itself; "
                "name fewer channels, so that the resolution is halved less often, or leave attention out"
            )
        self.channels, convolution = channels, CONVOLUTIONS[len(sizes)]
        self.normalization = nn.Sequential(*style.normalized(channels, sizes))
        self.query_key_value = glorot(convolution(channels, 3 * channels, 1))
        self.out = _zeroed(convolution(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, *sizes] -> the same shape."""
        parts = self.query_key_value(self.normalization(x)).flatten(2).unflatten(1, (3, -1)).mT  # [B, 3, N, channels]
        # torch's fused kernels take channels that lie side by side, on CUDA a multiple of 8 of them.
        parts = F.pad(parts.contiguous(), (0, -self.channels % _ALIGNMENT))
        query, key, value = parts.unsqueeze(2).unbind(1)  # [B, one head, N, channels]
        attended = F.scaled_dot_product_attention(query, key, value, scale=self.channels**-0.5)
        attended = attended[..., : self.channels].squeeze(1).mT.reshape(x.shape)
        out: Tensor = self.out(attended)
        return x + out


def in_faster_layout(x: Tensor) -> Tensor:
    """Float32 images on the CPU with their channels side by side, where no gradient is recorded; everything else as it is.

    Convolutions and group norms are faster so, which `benchmarks/images.py` shows beside diffusers. A training step is not,
    since its backward takes longer than what its forward gains.
    """
    wins = x.ndim == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled()
    return x.contiguous(memory_format=torch.channels_last) if wins and not dispatch.is_recorded() else x


class RecomputedLayers(Layers):
    """Layers whose blocks keep their inputs alone for backward, and compute the rest again when it is asked for.

    T. Chen, B. Xu, C. Zhang, C. Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016, arXiv:1604.06174: the same
    gradients for one more forward pass. Dropout draws again what it drew.
    """

    def applied(self, module: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled() or not isinstance(module, (ResidualBlock, SelfAttention)):
            return super().applied(module, x, condition)
        outputs: Tensor = checkpoint(super().applied, module, x, condition, use_reentrant=False)
        return outputs


def checked_layers(layers: list[nn.Module], checkpointing: bool, style: LayerStyle) -> Layers:
    """The layers, recomputed in backward if that is asked for.

    Raises:
        TypeError: no flag.
        ValueError: batch normalisation, whose averages would see every batch twice.
    """
    if not checked_flag("checkpointing", checkpointing):
        return Layers(*layers)
    if style.normalization == "batch":
        raise ValueError(
            'checkpointing computes blocks twice, and the averages of normalization="batch" would see every batch twice; take '
            '"group" or "layer"'
        )
    return RecomputedLayers(*layers)


class PaddedAtEnd(nn.Module):
    """Zeros behind the last position of every axis, as many as a 3x3 convolution of stride 2 needs to halve it, rounding up.

    One for an even size, as in Stable Diffusion's encoder, and two for an odd one. Centred padding has one on each side.

    Example:
        >>> import torch
        >>> PaddedAtEnd()(torch.ones(1, 1, 4, 3)).shape
        torch.Size([1, 1, 5, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, *sizes] -> [B, channels, *odd sizes]."""
        return F.pad(x, [zeros for size in reversed(x.shape[2:]) for zeros in (0, 1 + size % 2)])


def halving(channels: int, rank: int, padding: str) -> list[nn.Module]:
    """A 3x3 convolution that halves every size, rounding up, with zeros on both sides or at the end alone."""
    at_end = padding == "end"
    layer = glorot(CONVOLUTIONS[rank](channels, channels, 3, stride=2, padding=0 if at_end else 1))
    return [PaddedAtEnd(), layer] if at_end else [layer]


def identity_convolution(channels: int, rank: int) -> nn.Module:
    """A 1x1 convolution that begins as the identity, so that what comes before it begins as it would without."""
    layer = CONVOLUTIONS[rank](channels, channels, 1)
    nn.init.dirac_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def middle_blocks(
    channels: int, sizes: Sequence[int], style: LayerStyle, attention: bool, condition_dim: int = 0
) -> list[nn.Module]:
    """Two blocks at the lowest resolution, with attention between them if it is asked for."""
    between = [SelfAttention(channels, sizes, style)] if checked_flag("attention", attention) else []
    first, second = (ResidualBlock(channels, channels, sizes, style, condition_dim) for _ in range(2))
    return [first, *between, second]


def _zeroed(layer: M) -> M:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
