"""Logarithms of gamma functions, deviances and normalisers without cancellation, for the densities of counts and proportions.

The nll of a count of a million is about eight nats, a difference of log-gamma functions of ten million: in float32 nothing of it
would be left. C. Loader, "Fast and Accurate Computation of Binomial Probabilities", 2000, splits such a density into a deviance,
which is 0 where the data is what the parameters expect, and Stirling's remainders; here both have derivatives as well.

Positive arguments come with their logarithms, which are the parameters: neither then limits the range of the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.ops import reference

_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)
# From here on Stirling's series, with its terms below, leaves out less than 2e-14.
_SERIES_FROM, _LOG_SERIES_FROM = 10.0, math.log(10.0)
# B_2n / (2n (2n - 1)): NIST Digital Library of Mathematical Functions, 5.11.1.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
# log(gamma(a + 1/2) / (gamma(a) sqrt(a))) in powers a^-1, a^-3, ...: DLMF 5.11.8, with Bernoulli polynomials at 1/2 and 0.
_HALF_STEP = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432)
# log(sinh(h) / h) in powers of (2 h)^2: B_2n / (2n (2n)!), DLMF 4.19.7 with an imaginary argument.
_LOG_SINH_RATIO = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000, 1 / 1046139494400)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); torch's own leaves the 1 out from x = 20 on, which float64 would notice."""
    return -F.logsigmoid(-x)


def _odd_series(coefficients: tuple[float, ...], inverse: Tensor) -> Tensor:
    """c0 v + c1 v^3 + c2 v^5 + ..."""
    square = inverse * inverse
    total = torch.full_like(inverse, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * square + coefficient
    return total * inverse


def factorial_excess(z: Tensor, log_z: Tensor) -> Tensor:
    """log gamma(z + 1) - z log z + z, in nats, for z >= 0; half of log(2 pi z) where z is large.

    Args:
        z, log_z: of one shape.

    Example:
        >>> z = torch.tensor([1.0, 1e6])
        >>> factorial_excess(z, z.log())
        tensor([1.0000, 7.8267])
    """
    near = z.clamp(max=_SERIES_FROM)
    direct = torch.lgamma(near + 1.0) - near * log_z.clamp(max=_LOG_SERIES_FROM) + near
    series = _odd_series(_STIRLING, 1.0 / z.clamp(min=_SERIES_FROM))
    return torch.where(z < _SERIES_FROM, direct, _HALF_LOG_2_PI + 0.5 * log_z + series)


def log_choice(count: Tensor, log_count: Tensor, size: Tensor, log_size: Tensor) -> Tensor:
    """What a negative binomial's nll has beside its deviance, in nats; half of log(2 pi count) where the size is infinite.

    factorial_excess(count) + factorial_excess(size) - factorial_excess(count + size) + log((count + size) / size).
    """
    total = count + size
    log_ratio = softplus(log_count - log_size)  # log(total / size)
    near = size.clamp(max=_SERIES_FROM)
    near_total = near + count
    direct = factorial_excess(near, log_size.clamp(max=_LOG_SERIES_FROM)) - factorial_excess(near_total, near_total.log())
    series = _odd_series(_STIRLING, 1.0 / size.clamp(min=_SERIES_FROM))
    series = series - _odd_series(_STIRLING, 1.0 / total.clamp(min=_SERIES_FROM))
    rest = torch.where(size < _SERIES_FROM, direct + log_ratio, series + 0.5 * log_ratio)
    return factorial_excess(count, log_count) + rest


class _Excess(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return reference.excess(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradient * torch.expm1(x)


def excess(x: Tensor) -> Tensor:
    """exp(x) - 1 - x, and its derivative expm1(x), to a few ulp for every x.

    Example:
        >>> excess(torch.tensor([1e-4, 1.0]))
        tensor([5.0002e-09, 7.1828e-01])
    """
    return _Excess.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class _BinomialDeviance(torch.autograd.Function):
    """Its derivatives by the formula would be differences of numbers that may be a million times as large.

    The logarithms of the ratios are results as well, for backward, which makes them again only where it is differentiated itself.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_ratio, log_rest_ratio = _log_ratios(first, second, log_first, log_second, shift)
        return first * log_ratio + second * log_rest_ratio, log_ratio, log_rest_ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        *inputs, log_ratio, log_rest_ratio = ctx.saved_tensors
        if torch.is_grad_enabled():
            log_ratio, log_rest_ratio = _log_ratios(*inputs)
        first, second, _, _, shift = inputs
        by_shift = _by_shift(first, second, log_ratio, log_rest_ratio, shift)
        by_log_first = gradient * first * excess(-log_ratio) if ctx.needs_input_grad[2] else None
        by_log_second = gradient * second * excess(-log_rest_ratio) if ctx.needs_input_grad[3] else None
        return None, None, by_log_first, by_log_second, gradient * by_shift


class _BetaDeviance(torch.autograd.Function):
    """As above; what is held when a derivative is taken is p instead of the shift."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor, logit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_ratio, log_rest_ratio = _log_ratios(first, second, log_first, log_second, logit - (log_first - log_second))
        return first * log_ratio + second * log_rest_ratio, log_ratio, log_rest_ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        *inputs, log_ratio, log_rest_ratio = ctx.saved_tensors
        first, second, log_first, log_second, logit = inputs
        shift = logit - (log_first - log_second)
        if torch.is_grad_enabled():
            log_ratio, log_rest_ratio = _log_ratios(first, second, log_first, log_second, shift)
        by_logit = None
        if ctx.needs_input_grad[4]:
            by_logit = gradient * _by_shift(first, second, log_ratio, log_rest_ratio, shift)
        return None, None, gradient * first * log_ratio, gradient * second * log_rest_ratio, by_logit


def _by_shift(first: Tensor, second: Tensor, log_ratio: Tensor, log_rest_ratio: Tensor, shift: Tensor) -> Tensor:
    """(first + second) (p - q), where p / q = exp(-log_ratio) and (1 - p) / (1 - q) = exp(-log_rest_ratio)."""
    rest_ratio = torch.exp(-log_rest_ratio)
    near, far = rest_ratio * torch.expm1(shift.clamp(-1.0, 1.0)), torch.exp(-log_ratio) - rest_ratio
    return first * (second / (first + second)) * torch.where(shift.abs() <= 1.0, near, far)


def _log_ratios(first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """log(q / p) and log((1 - q) / (1 - p)), see `binomial_deviance`; they differ by the shift."""
    total = first + second
    small, near = shift.abs() <= 1.0, shift.clamp(-1.0, 1.0)
    log_q, log_rest = F.logsigmoid(log_first - log_second), F.logsigmoid(log_second - log_first)
    return (
        torch.where(small, torch.log1p(second / total * torch.expm1(-near)), torch.logaddexp(log_q, log_rest - shift)),
        torch.where(small, torch.log1p(first / total * torch.expm1(near)), torch.logaddexp(log_q + shift, log_rest)),
    )


def binomial_deviance(first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor, shift: Tensor) -> Tensor:
    """first log(q / p) + second log((1 - q) / (1 - p)), in nats, where q = first / (first + second), logit p = logit q + shift.

    It is (first + second) times the divergence of Bernoulli(p) from Bernoulli(q), whatever the sizes of its arguments, which have
    one shape. Its error is about what rounding the numbers changes, of which the shift is the difference. The derivatives by
    first and second go to their logarithms.

    Example:
        >>> ten, shift = torch.tensor(10.0), torch.tensor(0.1)
        >>> binomial_deviance(ten, ten, ten.log(), ten.log(), shift)  # 20 / 8 shift^2
        tensor(0.0250)
    """
    return _BinomialDeviance.apply(first, second, log_first, log_second, shift)[0]  # type: ignore[no-any-return, no-untyped-call]


def beta_deviance(first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor, logit: Tensor) -> Tensor:
    """`binomial_deviance` from the logit of p instead of its distance from that of q.

    Example:
        >>> ten, logit = torch.tensor(10.0), torch.tensor(0.1)
        >>> beta_deviance(ten, ten, ten.log(), ten.log(), logit)
        tensor(0.0250)
    """
    return _BetaDeviance.apply(first, second, log_first, log_second, logit)[0]  # type: ignore[no-any-return, no-untyped-call]


class _SizeLog1p(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(log_size: Tensor, part: Tensor) -> Tensor:
        return log_size.exp() * torch.log1p(part * torch.exp(-log_size))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        log_size, part = ctx.saved_tensors
        log_ratio = torch.log1p(part * torch.exp(-log_size))
        return gradient * log_size.exp() * excess(-log_ratio), gradient * torch.exp(-log_ratio)


def size_log1p(log_size: Tensor, part: Tensor) -> Tensor:
    """size log(1 + part / size) for part >= 0, which tends to part as the size grows; of one shape.

    Example:
        >>> size_log1p(torch.tensor([0.0, 80.0]), torch.tensor([1.0, 1.0]))
        tensor([0.6931, 1.0000])
    """
    return _SizeLog1p.apply(log_size, part)  # type: ignore[no-any-return, no-untyped-call]


def half_step(a: Tensor, log_a: Tensor) -> Tensor:
    """log(gamma(a + 1/2) / (gamma(a) sqrt(a))) for a > 0, which tends to 0 from below: what a Student t has beside a normal.

    Example:
        >>> a = torch.tensor([0.5, 1e6])
        >>> half_step(a, a.log())
        tensor([-2.2579e-01, -1.2500e-07])
    """
    near = a.clamp(max=_SERIES_FROM)
    # gamma(a) is gamma(a + 1) / a: near 0 its logarithm is then -log_a, whatever a has been rounded to.
    direct = torch.lgamma(near + 0.5) - torch.lgamma(near + 1.0) + 0.5 * log_a.clamp(max=_LOG_SERIES_FROM)
    return torch.where(a < _SERIES_FROM, direct, _odd_series(_HALF_STEP, 1.0 / a.clamp(min=_SERIES_FROM)))


def log_mean_exp(t: Tensor) -> tuple[Tensor, Tensor]:
    """log((exp(t) - 1) / t), the logarithm of the mean of exp(t u) over u in [0, 1], as two terms to be added.

    The first is t / 2 for |t| < 1/2 and max(t, 0) beyond; what is linear in t is subtracted from it before the second is added.

    Example:
        >>> sum(log_mean_exp(torch.tensor([-100.0, 0.0, 1.0])))
        tensor([-4.6052,  0.0000,  0.5413])
    """
    small = t.abs() < 0.5
    square = t.clamp(-0.5, 0.5).square()
    series = torch.full_like(t, _LOG_SINH_RATIO[-1])
    for coefficient in reversed(_LOG_SINH_RATIO[:-1]):
        series = series * square + coefficient
    size = t.abs().clamp(min=0.5)
    direct = (-torch.expm1(-size)).log() - size.log()
    return torch.where(small, 0.5 * t, t.clamp(min=0.0)), torch.where(small, series * square, direct)


def log_mean_exp_slope(t: Tensor) -> Tensor:
    """The derivative of `log_mean_exp`, in (0, 1): 1/2 + t / 12 near 0, 1 - 1/t and -1/t far from it.

    Example:
        >>> log_mean_exp_slope(torch.tensor([-100.0, 0.0, 1.0]))
        tensor([0.0100, 0.5000, 0.5820])
    """
    small = t.abs() < 0.5
    near = t.clamp(-0.5, 0.5)
    square = near.square()
    series = torch.full_like(t, 2 * len(_LOG_SINH_RATIO) * _LOG_SINH_RATIO[-1])
    for power in range(len(_LOG_SINH_RATIO) - 1, 0, -1):
        series = series * square + 2 * power * _LOG_SINH_RATIO[power - 1]
    size = t.abs().clamp(min=0.5)
    distance = 1.0 / size - torch.exp(-size) / -torch.expm1(-size)  # from the nearer end
    return torch.where(small, 0.5 + series * near, torch.where(t > 0.0, 1.0 - distance, distance))


def inverse(increasing: Callable[[Tensor], Tensor], value: Tensor, low: float, high: float) -> Tensor:
    """Where a function that increases has a value, between low and high, by bisection in float64 on the CPU: of value's shape.

    NaN where the value is.

    Args:
        increasing: float64 [*S] -> [*S], element by element.

    Example:
        >>> inverse(torch.sigmoid, torch.tensor([0.2, 0.9]), -10.0, 10.0)
        tensor([-1.3863,  2.1972])
    """
    wide = value.detach().cpu().double()
    below, above = torch.full_like(wide, low), torch.full_like(wide, high)
    for _ in range(64):
        middle = 0.5 * (below + above)
        is_below = increasing(middle) < wide
        below, above = torch.where(is_below, middle, below), torch.where(is_below, above, middle)
    return torch.where(wide.isnan(), wide, above).to(value)
