"""Pictures of shapes, generated from known factors.

After L. Matthey, I. Higgins, D. Hassabis, A. Lerchner, "dSprites", 2017, github.com/deepmind/dsprites-dataset, with the same
five factors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.data.examples import Examples

_SHAPES = ("square", "ellipse", "triangle")
_AT_ONCE = 1 << 18  # pixels


class Shapes(Examples):
    """Examples with the factors they were generated from.

    Attributes:
        x: float32 [N, 1, size, size], in [0, 1].
        y: int64 [N], the number of the shape.
        factors: int64 [N, 5], the index of each factor's value.
        names: the factors' names.
    """

    names = ("shape", "scale", "orientation", "x", "y")

    def __init__(self, x: Tensor, factors: Tensor) -> None:
        super().__init__(x, factors[:, 0])
        self.factors = factors


def shapes(size: int = 32, *, scales: int = 3, orientations: int = 8, positions: int = 8) -> Shapes:
    """Every combination of three shapes, sizes, orientations and places; each picture is one white shape on black.

    Edges are anti-aliased, so that a shift by a fraction of a pixel shows. No shape is turned by a quarter turn or more, after
    which a square looks the same (an ellipse after a half, a triangle after a third), so no two orientations look alike.

    Args:
        size: of the pictures, in pixels.
        scales: the number of sizes that a shape has.
        orientations: the number of angles.
        positions: the number of places along each side.

    Returns:
        `Shapes`, 3 scales orientations positions^2 of them: 4,608 by default.

    Raises:
        ValueError: a number that is not a whole number of at least 1, or a size below 8.

    Example:
        >>> made = shapes(size=16, orientations=2, positions=3)
        >>> made.x.shape, made.factors[-1].tolist()
        (torch.Size([162, 1, 16, 16]), [2, 2, 1, 2, 2])
    """
    if checked_size("size", size) < 8:
        raise ValueError(f"size has to be at least 8 pixels, for shapes to be told apart, got {size}")
    counts = [len(_SHAPES)]
    counts += [checked_size(n, c) for n, c in (("scales", scales), ("orientations", orientations), ("positions", positions))]
    factors = torch.cartesian_prod(*map(torch.arange, (*counts, positions))).long()
    shape, scale, turn, column, row = factors.unbind(1)
    radius = size * _between(scale, scales, 0.13, 0.2)
    angle = turn * (math.pi / 2.0 / orientations)
    across, down = (size * _between(place, positions, 0.3, 0.7) for place in (column, row))
    cosine, sine = torch.cos(angle), torch.sin(angle)
    pixels = torch.arange(size) + 0.5
    pictures = torch.empty(len(factors), 1, size, size)
    for number, distance in enumerate((_square, _ellipse, _triangle)):
        of_shape = (shape == number).nonzero()[:, 0]
        for rows in of_shape.split(max(_AT_ONCE // size**2, 1)):
            x, y = pixels - across[rows, None, None], pixels[:, None] - down[rows, None, None]
            r, c, s = (values[rows, None, None] for values in (radius, cosine, sine))
            pictures[rows, 0] = (0.5 - distance((x * c + y * s) / r, (y * c - x * s) / r) * r).clamp(0.0, 1.0)
    return Shapes(pictures, factors)


def _between(value: Tensor, count: int, low: float, high: float) -> Tensor:
    return low + (high - low) * (value / (count - 1) if count > 1 else torch.full(value.shape, 0.5))


# Approximate signed distance of (u, v) from the shape's edge, in units of its radius; negative inside.


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - 0.85


def _ellipse(u: Tensor, v: Tensor) -> Tensor:
    return 0.6 * (torch.hypot(u / 1.1, v / 0.6) - 1.0)


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    sides = [math.pi / 2.0 + side * 2.0 * math.pi / 3.0 for side in range(3)]
    return torch.stack([u * math.cos(a) + v * math.sin(a) for a in sides]).amax(0) - 0.6
