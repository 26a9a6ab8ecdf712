"""How far a random direction lies from a given one: the laws of one number from which distributions on spheres are made.

Of a unit vector z in R^D and the mean direction m, v = 1 - m z, between 0 and 2, has under both laws here the density

    exp(kappa s(v)) (v (2 - v))^((D - 3) / 2) / Z(kappa),

an exponential family in kappa: s(v) = -v is T. R. Davidson et al., "Hyperspherical Variational Auto-Encoders", UAI 2018,
arXiv:1804.00891, s(v) = log(1 - v / 2) N. De Cao, W. Aziz, "The Power Spherical distribution", 2020, arXiv:2006.04437. With
v = 1 - cos t the density of the angle t is log-concave and smooth, so that a double-exponential rule around its mode gives Z, the
mean of s and what follows from them, to rounding for every kappa and D, where Bessel functions over- and underflow.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.ops import philox, streams

_NODES = 192
_END = 3.1  # of t in the rule: beyond, an interval has 10^-15 of its length
_REACH = 10.0  # standard deviations of the angle: beyond, a normal has e^-50 of its height
_MANY = 32  # dimensions, in which the sphere's own measure has the density fall there
_ROUNDS = 8  # proposals that are drawn at once
_NUMBERS_AT_ONCE = 1 << 22
_SMALL = 0.02  # nats, below which a divergence is integrated, not subtracted


_GAUSS = (
    (0.03376524289842403, 0.08566224618958514),
    (0.16939530676686776, 0.18038078652406936),
    (0.38069040695840156, 0.23395696728634552),
    (0.6193095930415985, 0.23395696728634552),
    (0.8306046932331322, 0.18038078652406936),
    (0.9662347571015759, 0.08566224618958514),
)  # places and weights on [0, 1]: Gauss and Legendre, of degree 11


class Law(ABC):
    """A law of v: what s is, and where its density is high. All of it is elementwise in kappa."""

    @abstractmethod
    def statistic(self, v: Tensor) -> Tensor:
        """s(v), 0 at v = 0 and falling."""

    @abstractmethod
    def slope(self, v: Tensor) -> Tensor:
        """ds/dv."""

    @abstractmethod
    def of_angle(self, angle: Tensor) -> Tensor:
        """s(1 - cos angle)."""

    @abstractmethod
    def mode(self, kappa: Tensor, size: int) -> Tensor:
        """The angle of the highest density."""

    @abstractmethod
    def curvature(self, angle: Tensor) -> Tensor:
        """-d^2 s / d angle^2."""

    @abstractmethod
    def envelope(self, kappa: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Of the proposals in `heights` their b, and the v at which density and proposals touch."""


class VonMisesFisherLaw(Law):
    """s(v) = -v; the envelope of G. Ulrich, "Computer generation of distributions on the m-sphere", 1984, as the paper has it."""

    def statistic(self, v: Tensor) -> Tensor:
        return -v

    def slope(self, v: Tensor) -> Tensor:
        return torch.full_like(v, -1.0)

    def of_angle(self, angle: Tensor) -> Tensor:
        return -2.0 * torch.sin(0.5 * angle).square()

    def mode(self, kappa: Tensor, size: int) -> Tensor:
        between = 2.0 / (size - 2 + torch.sqrt((size - 2) ** 2 + 4.0 * kappa * kappa)).clamp(min=1e-30)
        return torch.atan2(torch.sqrt((size - 2) * between), kappa * between)

    def curvature(self, angle: Tensor) -> Tensor:
        return torch.cos(angle)

    def envelope(self, kappa: Tensor, size: int) -> tuple[Tensor, Tensor]:
        b = (size - 1) / (2.0 * kappa + torch.sqrt(4.0 * kappa * kappa + (size - 1) ** 2))
        return b, 2.0 * b / (1.0 + b)


class PowerSphericalLaw(Law):
    """s(v) = log(1 - v / 2); of Ulrich's kind of envelope the one with the most accepted proposals for it."""

    def statistic(self, v: Tensor) -> Tensor:
        return torch.log1p(-0.5 * v)

    def slope(self, v: Tensor) -> Tensor:
        return -1.0 / (2.0 - v)

    def of_angle(self, angle: Tensor) -> Tensor:
        return 2.0 * torch.log(torch.cos(0.5 * angle))

    def mode(self, kappa: Tensor, size: int) -> Tensor:
        return 2.0 * torch.atan(torch.sqrt((size - 2) / (size - 2 + 2.0 * kappa).clamp(min=1e-30)))

    def curvature(self, angle: Tensor) -> Tensor:
        return 0.5 / torch.cos(0.5 * angle).square()

    def envelope(self, kappa: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return (size - 1) / (2.0 * kappa + (size - 1)), (size - 1) / (kappa + (size - 1))


class Moments(NamedTuple):
    """Of a law with some kappas, all in nats and differentiable in kappa.

    Attributes:
        log_normalizer: log Z.
        statistic: the mean of s.
        divergence: from the uniform law, kappa = 0.
    """

    log_normalizer: Tensor
    statistic: Tensor
    divergence: Tensor


def log_area(size: int) -> float:
    """The logarithm of the surface of the unit sphere in R^size.

    Example:
        >>> round(math.exp(log_area(3)) / math.pi, 6)
        4.0
    """
    return math.log(2.0) + 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size)


def moments(law: Law, kappa: Tensor, size: int) -> Moments:
    """Z and the mean of s at each kappa of at least 0, for directions in R^size."""
    fixed = kappa.detach()
    mode = law.mode(fixed, size)
    width = _REACH / torch.sqrt(_curvature(law, mode, fixed, size).clamp(min=1e-30))
    angles, log_weights = _rule((mode - width).clamp(min=0.0), _far_end(mode + width, size))
    statistic = law.of_angle(angles)
    log_measure = log_weights + (size - 2) * torch.log(torch.sin(angles))
    tilted = log_measure + kappa.unsqueeze(-1) * statistic
    log_normalizer, mean = tilted.logsumexp(-1), (tilted.softmax(-1) * statistic).sum(-1)
    log_uniform = math.lgamma(0.5 * (size - 1)) + 0.5 * math.log(math.pi) - math.lgamma(0.5 * size)
    subtracted = kappa * mean - log_normalizer + log_uniform
    # kappa^2 times the integral of u Var(s) at u kappa over u from 0 to 1: nothing cancels where the divergence is small.
    integrated = torch.zeros_like(subtracted)
    small = torch.where(subtracted.detach() < _SMALL, kappa, 0.0)
    for u, weight in _GAUSS:
        share = (log_measure + (u * small).unsqueeze(-1) * statistic).softmax(-1)
        centred = statistic - (share * statistic).sum(-1, keepdim=True)
        integrated = integrated + weight * u * (share * centred.square()).sum(-1)
    divergence = torch.where(subtracted.detach() < _SMALL, small.square() * integrated, subtracted)
    return Moments(log_normalizer, mean, divergence)


@torch.no_grad()
def heights(law: Law, kappa: Tensor, size: int, keys: Tensor, dtype: torch.dtype, row_start: int) -> Tensor:
    """Draws of v by rejection: kappa [B, P], keys int64 [K, 2] -> [K, B, P].

    Proposals are v = 2 b e / (1 - (1 - b) e) with e from Beta((D - 1) / 2, (D - 1) / 2), that is (1 + c) / 2 of a coordinate c of
    a uniform direction. A row takes the first proposal that is accepted in rounds of its own noise, whatever the other rows do.

    Args:
        law: of v.
        kappa: where NaN, so is v.
        size: D.
        keys: of each draw; round n has fold_in(key, n).
        dtype: of the noise.
        row_start: the first row's number in a larger batch.
    """
    rows, positions = kappa.shape
    found, is_left = kappa.new_zeros(len(keys), rows, positions), torch.ones((), dtype=torch.bool, device=kappa.device)
    if not found.numel():
        return found
    b, peak = law.envelope(kappa, size)

    def log_ratio(v: Tensor) -> Tensor:
        return kappa * law.statistic(v) + (size - 1) * torch.log(2.0 * b + (1.0 - b) * v)

    at_once, first = max(1, min(_ROUNDS, _NUMBERS_AT_ONCE // (found.numel() * size))), 0
    while bool(is_left.any()):
        numbers = torch.arange(first, first + at_once, device=keys.device).unsqueeze(1)
        of_rounds = philox.fold_in(keys, numbers)  # [rounds, K, 2]
        normals, uniforms = (philox.fold_in(of_rounds, s) for s in (streams.HeightRound.PROPOSAL, streams.HeightRound.ACCEPTANCE))
        direction = philox.normal(normals, (rows, positions, size), dtype, row_start * positions * size).to(kappa.dtype)
        share = 0.5 + 0.5 * direction[..., 0] / torch.linalg.vector_norm(direction, dim=-1)
        v = 2.0 * b * share / (1.0 - (1.0 - b) * share)
        uniform = philox.uniform(uniforms, (rows, positions), dtype, row_start * positions).to(kappa.dtype)
        is_accepted = ~(torch.log(uniform) > log_ratio(v) - log_ratio(peak))  # where nothing compares, NaN is taken
        chosen = v.gather(0, is_accepted.int().argmax(0, keepdim=True)).squeeze(0)
        is_new = is_left & is_accepted.any(0)
        found, is_left, first = torch.where(is_new, chosen, found), is_left & ~is_new, first + at_once
    return found


@torch.no_grad()
def height_slopes(law: Law, kappa: Tensor, size: int, v: Tensor, mean: Tensor) -> Tensor:
    """dv/dkappa of draws at a fixed place of their distribution function F, -(dF/dkappa) / (dF/dv): [..., B, P].

    Reparameterization by the implicit function, M. Figurnov, S. Mohamed, A. Mnih, 2018, arXiv:1805.08498: unlike the derivative
    through the accepted proposal alone it needs no correction. dF/dkappa is an integral of (s - E s) times the density, taken on
    the side of v on which that has one sign.
    """
    angle = 2.0 * torch.atan2(v.sqrt(), (2.0 - v).sqrt())
    reach = _REACH / torch.sqrt(_curvature(law, angle, kappa, size).clamp(min=1e-30))
    is_near = law.of_angle(angle) >= mean
    low, high = (
        torch.where(is_near, (angle - reach).clamp(min=0.0), angle),
        torch.where(is_near, angle, _far_end(angle + reach, size)),
    )
    angles, log_weights = _rule(low, high)
    here, at = law.of_angle(angle).unsqueeze(-1), law.of_angle(angles)
    tilted = kappa.unsqueeze(-1) * (at - here)
    log_ratio = (size - 2) * (torch.log(torch.sin(angles)) - torch.log(torch.sin(angle)).unsqueeze(-1)) + tilted
    return -torch.sin(angle) * (torch.exp(log_weights + log_ratio) * (at - mean.unsqueeze(-1)).abs()).sum(-1)


def _curvature(law: Law, angle: Tensor, kappa: Tensor, size: int) -> Tensor:
    """-d^2 log density / d angle^2."""
    of_measure = (size - 2) / torch.sin(angle).square() if size > 2 else 0.0
    return of_measure + kappa * law.curvature(angle)


def _far_end(angle: Tensor, size: int) -> Tensor:
    """pi for what is beyond pi / 2 in few dimensions, where the density of von Mises and Fisher falls less fast than a normal."""
    return torch.where(angle > 0.5 * math.pi, math.pi, angle) if size < _MANY else angle.clamp(max=math.pi)


def _rule(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the rule of H. Takahasi, M. Mori, 1974, in each interval, and the logarithms of their weights, along a last
    dimension: a logarithm's pole at an end does not disturb it.
    """
    places, weights = _double_exponential(low)
    length = (high - low).unsqueeze(-1)
    return low.unsqueeze(-1) + length * places, torch.log(length * weights)


def _double_exponential(like: Tensor) -> tuple[Tensor, Tensor]:
    """Places and weights for [0, 1]: the trapezoidal rule in t, where a place is 1 / (1 + exp(-pi sinh t))."""
    t = torch.linspace(-_END, _END, _NODES, dtype=like.dtype, device=like.device)
    places = torch.sigmoid(math.pi * torch.sinh(t))
    rest = torch.sigmoid(-math.pi * torch.sinh(t))
    return places, places * rest * math.pi * torch.cosh(t) * (2.0 * _END / (_NODES - 1))
