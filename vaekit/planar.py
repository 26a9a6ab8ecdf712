"""Planar and radial maps with known Jacobians, for posteriors.

D. J. Rezende, S. Mohamed, "Variational Inference with Normalizing Flows", ICML 2015, arXiv:1505.05770, equations 10 to 14 and
appendix A.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from vaekit.flows import Invertible

_AT_ONE = math.log(math.e - 1.0)  # softplus of it is 1
_SLOPE = 1.0 - 1.0 / math.e  # of m at 0
_HALVINGS = 60  # of an interval, down to float64's rounding


class Elementary(Invertible):
    """Some maps of vectors of `size` numbers, one after the other, each of which changes them along one direction or one radius.

    A row [size * positions], channels before positions, is that many vectors, each mapped by itself.

    Args:
        size: of a vector.
        transforms: how many maps.
        is_told: whether the context has the numbers of each vector's maps, a row [transforms * per_map * positions] laid out as x
            is; otherwise they are weights, the same for all vectors.

    Attributes:
        per_map: how many numbers make a map.
        moving: those of them that leave every map the identity while they are 0.
    """

    def __init__(self, size: int, transforms: int, is_told: bool) -> None:
        super().__init__()
        self.size, self.transforms, self.per_map, self.moving = size, transforms, *self.layout(size)
        self.numbers: nn.Parameter | None = None
        if not is_told:
            self.numbers = nn.Parameter(torch.randn(transforms, self.per_map) / math.sqrt(size))
            self.numbers.data[:, self.moving] = 0.0

    @staticmethod
    @abstractmethod
    def layout(size: int) -> tuple[int, slice]:
        """`per_map` and `moving` of maps of vectors of that size."""

    @abstractmethod
    def mapped(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """y [N, size] and log |det dy/dx| [N] of one map, whose numbers are [N or 1, per_map]."""

    @abstractmethod
    def unmapped(self, y: Tensor, numbers: Tensor) -> Tensor:
        """x [N, size] of one map."""

    @abstractmethod
    def through_transpose(self, x: Tensor, numbers: Tensor, gradient: Tensor) -> Tensor:
        """J^-T gradient [N, size], with J = dy/dx of one map."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx| [N] of rows x [N, size * positions]."""
        with torch.autocast(x.device.type, enabled=False):
            vectors = self._vectors(x, self.size)
            total = vectors.new_zeros(len(vectors))
            for numbers in self._maps(context, x.dtype):
                vectors, log_slope = self.mapped(vectors, numbers)
                total = total + log_slope
            return self._rows(vectors, x), total.reshape(len(x), x.shape[1] // self.size).sum(1)

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            vectors = self._vectors(y, self.size)
            for numbers in reversed(self._maps(context, y.dtype)):
                vectors = self.unmapped(vectors, numbers)
            return self._rows(vectors, y)

    @torch.no_grad()
    def gradient_at_image(self, x: Tensor, context: Tensor | None, gradient: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            vectors, gradients = self._vectors(x, self.size), self._vectors(gradient, self.size)
            for numbers in self._maps(context, x.dtype):
                with torch.enable_grad():
                    at = vectors.detach().requires_grad_()
                    mapped, log_slope = self.mapped(at, numbers.detach())
                    (of_slope,) = torch.autograd.grad(log_slope.sum(), at)
                gradients = self.through_transpose(vectors, numbers, gradients - of_slope)
                vectors = mapped.detach()
            return self._rows(gradients, x)

    def _maps(self, context: Tensor | None, dtype: torch.dtype) -> Sequence[Tensor]:
        """The numbers of each map, [N or 1, per_map]."""
        if self.numbers is not None:
            return self.numbers.to(dtype).unsqueeze(1).unbind()
        assert context is not None
        numbers = self._vectors(context, self.transforms * self.per_map).to(dtype)
        return torch.unbind(numbers.view(len(numbers), self.transforms, self.per_map), 1)

    @staticmethod
    def _vectors(rows: Tensor, size: int) -> Tensor:
        """[B, size * positions] -> [B * positions, size]."""
        positions = rows.shape[1] // size
        return rows.reshape(len(rows), size, positions).transpose(1, 2).reshape(len(rows) * positions, size)

    def _rows(self, vectors: Tensor, like: Tensor) -> Tensor:
        """[B * positions, size] -> [B, size * positions], as `like` is."""
        positions = like.shape[1] // self.size
        return vectors.reshape(len(like), positions, self.size).transpose(1, 2).reshape(like.shape)


class Planar(Elementary):
    """y = x + v tanh(w x + b): a shift along v, by how far x is from a plane.

    It can be inverted where w v > -1. v is made of a free u by v = u m(w u) / (w u), m(a) = log(1 + (e - 1) e^a) - 1, which is
    above -1 and 0 at 0: every v that is allowed has one u. The paper's own, appendix A.1, moves u along w alone, which has no
    value at w = 0 and is not the identity at u = 0.

    Example:
        >>> y, log_slope = Planar(size=3, transforms=2, is_told=False)(torch.ones(5, 3))
        >>> torch.equal(y, torch.ones(5, 3)), log_slope  # a new one
        (True, tensor([0., 0., 0., 0., 0.], grad_fn=<SumBackward1>))
    """

    @staticmethod
    def layout(size: int) -> tuple[int, slice]:
        return 2 * size + 1, slice(0, size)  # u, w, b

    def _parts(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """v, w, b, and of w v itself and 1 more, each [N or 1, .]."""
        u, w, b = numbers.split((self.size, self.size, 1), dim=1)
        along = (u * w).sum(1, keepdim=True)
        return u * _share_above(along), w, b, _above_minus_one(along), softplus(along + _AT_ONE)

    def mapped(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        v, w, b, along, more = self._parts(numbers)
        shift = torch.tanh((x * w).sum(1, keepdim=True) + b)
        square = shift * shift
        return x + v * shift, _log_between(1.0 - square, square, along, more).squeeze(1)

    def unmapped(self, y: Tensor, numbers: Tensor) -> Tensor:
        v, w, b, along, _ = self._parts(numbers)
        wanted = (y * w).sum(1, keepdim=True) + b  # of s + along tanh(s), which rises with s
        with torch.no_grad():
            low, high = wanted - along.abs(), wanted + along.abs()
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                is_below = middle + along * torch.tanh(middle) < wanted
                low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
            found = 0.5 * (low + high)
        shift = torch.tanh(found)
        # A step of Newton's, whose gradient is that of the root.
        s = found - (found + along * shift - wanted) / (1.0 + along * (1.0 - shift * shift))
        return y - v * torch.tanh(s)

    def through_transpose(self, x: Tensor, numbers: Tensor, gradient: Tensor) -> Tensor:
        v, w, b, _, more = self._parts(numbers)
        square = torch.tanh((x * w).sum(1, keepdim=True) + b).square()
        slope = 1.0 - square
        return gradient - w * slope * (v * gradient).sum(1, keepdim=True) / (square + slope * more)


class Radial(Elementary):
    """y = x + beta (x - c) / (alpha + |x - c|): vectors are moved away from a centre, or towards it.

    It can be inverted where alpha > 0 and beta > -alpha (appendix A.2): alpha = log(1 + (e - 1) e^a) and beta = alpha m(b), with
    the m of `Planar`, of free a and b.

    Example:
        >>> y, log_slope = Radial(size=3, transforms=2, is_told=False)(torch.ones(5, 3))
        >>> torch.equal(y, torch.ones(5, 3))  # a new one
        True
    """

    @staticmethod
    def layout(size: int) -> tuple[int, slice]:
        return size + 2, slice(size + 1, size + 2)  # c, a, b

    def _parts(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c, alpha, beta / alpha and 1 more, each [N or 1, .]."""
        centre, a, b = numbers.split((self.size, 1, 1), dim=1)
        return centre, softplus(a + _AT_ONE), _above_minus_one(b), softplus(b + _AT_ONE)

    def mapped(self, x: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        centre, alpha, ratio, more = self._parts(numbers)
        away = x - centre
        radius = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        near, far = alpha / (alpha + radius), radius / (alpha + radius)  # whose sum is 1
        across = _log_between(near, far, ratio, more)
        along = _log_between(near * near, far * (1.0 + near), ratio, more)
        return x + ratio * near * away, ((self.size - 1) * across + along).squeeze(1)

    def unmapped(self, y: Tensor, numbers: Tensor) -> Tensor:
        centre, alpha, ratio, more = self._parts(numbers)
        away = y - centre
        image = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        # radius (1 + beta / (alpha + radius)) = image, a square equation with one root of at least 0
        half = image - alpha * more
        larger = half.abs() + (half * half + 4.0 * alpha * image).sqrt()
        radius = torch.where(half >= 0.0, 0.5 * larger, 2.0 * alpha * image / larger)
        near, far = alpha / (alpha + radius), radius / (alpha + radius)
        return centre + away / (far + near * more)

    def through_transpose(self, x: Tensor, numbers: Tensor, gradient: Tensor) -> Tensor:
        centre, alpha, _, more = self._parts(numbers)
        away = x - centre
        radius = torch.linalg.vector_norm(away, dim=1, keepdim=True)
        near, far = alpha / (alpha + radius), radius / (alpha + radius)
        across, along = far + near * more, far * (1.0 + near) + near * near * more
        unit = away / radius.clamp(min=torch.finfo(x.dtype).tiny)
        moved: Tensor = gradient / across + unit * (unit * gradient).sum(1, keepdim=True) * (1.0 / along - 1.0 / across)
        return moved


def _above_minus_one(a: Tensor) -> Tensor:
    """m(a) = log(1 + (e - 1) e^a) - 1, which is 0 at 0 and above -1."""
    near_zero = a.clamp(-1.0, 1.0)
    return torch.where(near_zero == a, torch.log1p(_SLOPE * torch.expm1(near_zero)), softplus(a + _AT_ONE) - 1.0)


def _share_above(a: Tensor) -> Tensor:
    """m(a) / a, by its series near 0."""
    is_small = a.abs() < torch.finfo(a.dtype).eps ** 0.25
    safe = torch.where(is_small, 1.0, a)
    p, r = _SLOPE, _SLOPE * (1.0 - _SLOPE)
    series = p + a * (r / 2.0 + a * (r * (1.0 - 2.0 * p) / 6.0 + a * (r * (1.0 - 6.0 * r) / 24.0)))
    return torch.where(is_small, series, _above_minus_one(safe) / safe)


def _log_between(share: Tensor, rest: Tensor, difference: Tensor, value: Tensor) -> Tensor:
    """log(rest + share value), with rest = 1 - share and value = 1 + difference: right near 1 and near 0."""
    product = share * difference
    return torch.where(product > -0.5, torch.log1p(product.clamp(min=-0.5)), torch.log(rest + share * value))
