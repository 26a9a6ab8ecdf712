"""Large data in tiles that overlap, one after the other, with their seams blended: memory for one tile instead of the whole.

What a network makes of a tile is not what it makes of the whole there: group normalisation and attention see the tile alone, and
at its borders convolutions see zeros. In the overlaps, a quarter of a tile, the weights of two tiles go linearly from one to the
other, as diffusers blends them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.decoders.base import Decoder
from vaekit.encoders.base import Encoder

_LEAST = 4  # positions of latents along a tile, of which one overlaps


def checked_tile(tile: int, stride: int | None) -> int:
    """How many positions of latents a tile of so many positions of data has along each axis.

    Raises:
        ValueError: a model that takes data of one size; a tile that the stride does not divide, or that is too small to blend.
    """
    if stride is None:
        raise ValueError("tile= is for fully convolutional models, which take data of any size; this one takes one")
    size = checked_size("tile", tile, least=_LEAST * stride)
    if size % stride:
        raise ValueError(f"tile has to be a multiple of the stride {stride}, got {tile}")
    return size // stride


def encoded(encoder: Encoder, x: Tensor, told: tuple[Tensor, ...], tile: int, stride: int | None) -> Tensor:
    """The numbers of the posteriors of x [B, channels, *sizes], from tiles of so many positions of it, and the conditions."""
    size = checked_tile(tile, stride)
    if not len(x):
        return encoder.numbers(x, *told)

    def numbers(part: Tensor, row: int) -> Tensor:
        return encoder.numbers(part, *(rows[row : row + 1] for rows in told))

    return blended(numbers, x, size, tile // size, 1)


def decoded(decoder: Decoder, z: Tensor, told: tuple[Tensor, ...], tile: int, stride: int | None) -> Tensor:
    """The natural parameters for z [B, D, *positions], from tiles of so many positions of the data, and the conditions."""
    size = checked_tile(tile, stride)
    if not len(z):
        return decoder(z, *told)

    def parameters(part: Tensor, row: int) -> Tensor:
        return decoder(part, *(rows[row : row + 1] for rows in told))

    return blended(parameters, z, size, 1, tile // size)


def blended(function: Callable[[Tensor, int], Tensor], x: Tensor, tile: int, read: int, written: int) -> Tensor:
    """function(x[i : i + 1], i) for each row i of x, computed in tiles.

    Args:
        function: of a tile [1, channels, *sizes] and its row, -> [1, ..., *sizes].
        x: [B, channels, *sizes], B of at least 1.
        tile: positions of latents along a tile.
        read, written: how many positions of x, and of what the function gives, are one of latents.

    Returns:
        [B, ..., *sizes].

    Example:
        >>> x = torch.rand(2, 3, 40, 8)
        >>> doubled = blended(lambda part, row: 2.0 * part, x, tile=16, read=1, written=1)
        >>> torch.allclose(doubled, 2.0 * x)
        True
    """
    axes = [_spans(size // read, tile) for size in x.shape[2:]]
    weights = [_weights(size // read, spans, tile, written) for size, spans in zip(x.shape[2:], axes, strict=True)]
    full = [size // read * written for size in x.shape[2:]]
    whole: Tensor | None = None
    for row in range(len(x)):
        for numbers in itertools.product(*(range(len(spans)) for spans in axes)):
            spans = [axis[number] for axis, number in zip(axes, numbers, strict=True)]
            value = function(_part(x[row : row + 1], spans, read), row)
            if whole is None:
                whole = value.new_zeros((len(x), *value.shape[1 : -len(axes)], *full))
            for axis, number in enumerate(numbers):
                weight = weights[axis][number].to(value)
                value = value * weight.view(-1, *(1,) * (len(axes) - 1 - axis))
            _part(whole[row : row + 1], spans, written).add_(value)
    assert whole is not None
    return whole


def _part(x: Tensor, spans: Sequence[tuple[int, int]], scale: int) -> Tensor:
    """The last axes of x between the ends of each span, a view."""
    for axis, (start, end) in enumerate(spans, start=x.ndim - len(spans)):
        x = x.narrow(axis, scale * start, scale * (end - start))
    return x


def _spans(size: int, tile: int) -> list[tuple[int, int]]:
    """Where tiles along an axis begin and end: evenly, overlapping by a quarter at least.

    Example:
        >>> _spans(40, 16)
        [(0, 16), (12, 28), (24, 40)]
    """
    if size <= tile:
        return [(0, size)]
    step = tile - tile // 4
    count = -(-(size - tile) // step) + 1
    starts = [number * (size - tile) // (count - 1) for number in range(count)]
    return [(start, start + tile) for start in starts]


def _weights(size: int, spans: Sequence[tuple[int, int]], tile: int, written: int) -> list[Tensor]:
    """For each tile along an axis its weights, float64 [written tile], which rise linearly from its edges and add up to 1."""
    ramp = (torch.arange(written * (tile // 4), dtype=torch.float64) + 0.5) / (written * (tile // 4))
    total = torch.zeros(written * size, dtype=torch.float64)
    rising = []
    for start, end in spans:
        weight = torch.ones(written * (end - start), dtype=torch.float64)
        if start > 0:
            weight[: len(ramp)] = ramp
        if end < size:
            weight[-len(ramp) :] = ramp.flip(0)
        total[written * start : written * end] += weight
        rising.append(weight)
    return [weight / total[written * start : written * end] for weight, (start, end) in zip(rising, spans, strict=True)]
