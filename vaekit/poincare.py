"""The Poincare ball: hyperbolic space of curvature -c as the inside of a ball of radius 1 / sqrt(c).

E. Mathieu, C. Le Lan, C. J. Maddison, R. Tomioka, Y. W. Teh, "Continuous Hierarchical Representations with Poincare Variational
Auto-Encoders", NeurIPS 2019, arXiv:1901.06033, section 2. Vectors lie along `axis`; a tangent vector is given by its length in
hyperbolic space, so that u at m leads to the point at distance |u| in its direction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SMALL = 1e-3


def added(x: Tensor, y: Tensor, c: float, axis: int) -> Tensor:
    """The Moebius sum: where the translation by x takes y."""
    product = (x * y).sum(axis, keepdim=True)
    of_x, of_y = (t.square().sum(axis, keepdim=True) for t in (x, y))
    above = (1.0 + 2.0 * c * product + c * of_y) * x + (1.0 - c * of_x) * y
    return above / (1.0 + 2.0 * c * product + c * c * of_x * of_y)


def reached(mean: Tensor, u: Tensor, c: float, axis: int) -> Tensor:
    """Where a way of length |u| from `mean` in the direction of u ends: exp of u over the conformal factor.

    Example:
        >>> z = reached(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), 1.0, 1)
        >>> distance(torch.zeros(1, 2), z, 1.0, 1)
        tensor([[5.0000]])
    """
    s = math.sqrt(c) * _length(u, axis)
    near = s < _SMALL
    safe = torch.where(near, 1.0, s)
    share = torch.where(near, 0.5 - s * s / 24.0, torch.tanh(0.5 * safe) / safe)
    return inside(added(mean, share * u, c, axis), c, axis)


def led_to(mean: Tensor, z: Tensor, c: float, axis: int) -> Tensor:
    """The u by which `reached` comes from `mean` to z."""
    y = added(-mean, z, c, axis)
    s = (math.sqrt(c) * _length(y, axis)).clamp(max=_most(z.dtype))
    near = s < _SMALL
    safe = torch.where(near, 0.5, s)
    return torch.where(near, 2.0 + 2.0 * s * s / 3.0, 2.0 * torch.atanh(safe) / safe) * y


def distance(x: Tensor, y: Tensor, c: float, axis: int) -> Tensor:
    """The hyperbolic distance, with `axis` kept."""
    return _length(led_to(x, y, c, axis), axis)


def log_volume(u: Tensor, c: float, axis: int) -> Tensor:
    """log of (sinh(s) / s)^(D - 1), s = sqrt(c) |u|: how much more room there is at that distance than in flat space."""
    s = math.sqrt(c) * _length(u, axis)
    near = s < 0.1
    safe = torch.where(near, 1.0, s)
    square = s * s
    series = square * (1.0 / 6.0 - square * (1.0 / 180.0 - square * (1.0 / 2835.0 - square / 37800.0)))
    whole = safe + torch.log1p(-torch.exp(-2.0 * safe)) - torch.log(2.0 * safe)
    return (u.shape[axis] - 1) * torch.where(near, series, whole).squeeze(axis)


def inside(z: Tensor, c: float, axis: int) -> Tensor:
    """z, held inside the ball by some roundings of its dtype: beyond a distance of some 15 / sqrt(c) in float32."""
    length = math.sqrt(c) * _length(z, axis)
    return torch.where(length > _most(z.dtype), z / length.clamp(min=0.5) * _most(z.dtype), z)


def _most(dtype: torch.dtype) -> float:
    return 1.0 - 4.0 * torch.finfo(dtype).eps


def _length(u: Tensor, axis: int) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(u, dim=axis, keepdim=True)
    return length
