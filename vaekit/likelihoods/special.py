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
from vaekit.ops.applied import all_applied, applied

_HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)
# From here on Stirling's series, with its terms below, leaves out less than 2e-14.
_SERIES_FROM, _LOG_SERIES_FROM = 10.0, math.log(10.0)
# B_2n / (2n (2n - 1)): NIST Digital Library of Mathematical Functions, 5.11.1.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)
# log(gamma(a + 1/2) / (gamma(a) sqrt(a))) in powers a^-1, a^-3, ...: DLMF 5.11.8, with Bernoulli polynomials at 1/2 and 0.
_HALF_STEP = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432)
# log(sinh(h) / h) in powers of (2 h)^2: B_2n / (2n (2n)!), DLMF 4.19.7 with an imaginary argument.
_LOG_SINH_RATIO = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000, 1 / 1046139494400)


def log_range(dtype: torch.dtype) -> float:
    """Up to what t exp(t) and exp(-t) are far from the ends of a dtype's range: 80 for float32, 700 for float64."""
    return 700.0 if dtype == torch.float64 else 80.0


def bounded_log(log: Tensor, bound: float | None = None) -> Tensor:
    """The logarithm, at most `log_range` or another bound, so that its exponential is finite; the derivative stays 1."""
    return log - (log.detach() - (log_range(log.dtype) if bound is None else bound)).clamp(min=0.0)


def times_exp(value: Tensor, log_factor: Tensor) -> Tensor:
    """value exp(log_factor), also where the factor alone is too large for its dtype: 0 where the value is.

    Example:
        >>> times_exp(torch.tensor([0.0, 1e-20]), torch.tensor([1e4, 100.0]))
        tensor([0.0000e+00, 2.6881e+23])
    """
    beyond = (log_factor.detach() - log_range(log_factor.dtype)).clamp(min=0.0)
    is_zero = (value == 0.0) & (beyond > 0.0)
    beyond = beyond.masked_fill(is_zero, 0.0)
    return value * torch.exp(log_factor.masked_fill(is_zero, 0.0) - beyond) * torch.exp(beyond)


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
    log_near_total = near_total.clamp(min=torch.finfo(near_total.dtype).tiny).log()  # two sizes of 0 are one of 0
    direct = factorial_excess(near, log_size.clamp(max=_LOG_SERIES_FROM)) - factorial_excess(near_total, log_near_total)
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
    return applied(_Excess, x)


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
        first, second, log_first, log_second, shift = inputs
        by_shift = _by_shift(first, second, log_first, log_second, log_ratio, log_rest_ratio, shift)
        by_log_first = gradient * _times_excess(first, log_first, log_ratio) if ctx.needs_input_grad[2] else None
        by_log_second = gradient * _times_excess(second, log_second, log_rest_ratio) if ctx.needs_input_grad[3] else None
        return None, None, by_log_first, by_log_second, gradient * by_shift


class _BetaDeviance(torch.autograd.Function):
    """As above; what is held when a derivative is taken is p instead of the shift."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_first: Tensor, log_second: Tensor, logit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second = bounded_log(log_first).exp(), bounded_log(log_second).exp()
        log_ratio, log_rest_ratio = _log_ratios(first, second, log_first, log_second, logit - (log_first - log_second))
        near = first * log_ratio + second * log_rest_ratio
        # Two terms beyond a dtype's range, of both signs: as one that is none of these.
        share, rest = torch.sigmoid(log_first - log_second), torch.sigmoid(log_second - log_first)
        log_total = torch.logaddexp(log_first, log_second)
        far = times_exp((share * log_ratio + rest * log_rest_ratio).clamp(min=0.0), log_total)
        return torch.where(log_total < log_range(near.dtype), near, far), log_ratio, log_rest_ratio

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        log_first, log_second, logit, log_ratio, log_rest_ratio = ctx.saved_tensors
        log_bounds = bounded_log(log_first), bounded_log(log_second)
        first, second = (log.exp() for log in log_bounds)
        shift = logit - (log_first - log_second)
        if torch.is_grad_enabled():
            log_ratio, log_rest_ratio = _log_ratios(first, second, log_first, log_second, shift)
        by_logit = None
        if ctx.needs_input_grad[2]:
            by_logit = gradient * _by_shift(first, second, *log_bounds, log_ratio, log_rest_ratio, shift)
        by_logs = times_exp(log_ratio, log_first), times_exp(log_rest_ratio, log_second)
        return *(gradient * by_log for by_log in by_logs), by_logit


def _times_excess(size: Tensor, log_size: Tensor, log_ratio: Tensor) -> Tensor:
    """size (exp(-log_ratio) - 1 + log_ratio), where the size may be too small for its dtype and the exponential too large."""
    far = log_ratio < -1.0
    near = size * excess(-log_ratio.masked_fill(far, 0.0))
    return torch.where(far, torch.exp((log_size - log_ratio).masked_fill(~far, 0.0)) - size * (1.0 - log_ratio), near)


def _by_shift(
    first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor, log_ratio: Tensor, log_rest_ratio: Tensor, shift: Tensor
) -> Tensor:
    """(first + second) (p - q), where p / q = exp(-log_ratio) and (1 - p) / (1 - q) = exp(-log_rest_ratio)."""
    small = shift.abs() <= 1.0
    share, rest = _shares(first, second, log_first, log_second)
    near = first * rest * torch.exp(-log_rest_ratio.masked_fill(~small, 0.0)) * torch.expm1(shift.clamp(-1.0, 1.0))
    far = rest * torch.exp(log_first - log_ratio) - share * torch.exp(log_second - log_rest_ratio)
    return torch.where(small, near, far)


def _shares(first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor) -> tuple[Tensor, Tensor]:
    """What first and second are of their sum, also where both have underflowed."""
    total = first + second
    is_lost = total == 0.0
    total = total.masked_fill(is_lost, 1.0)
    logit = log_first - log_second
    return torch.where(is_lost, torch.sigmoid(logit), first / total), torch.where(is_lost, torch.sigmoid(-logit), second / total)


def _log_ratios(first: Tensor, second: Tensor, log_first: Tensor, log_second: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """log(q / p) and log((1 - q) / (1 - p)), see `binomial_deviance`; they differ by the shift."""
    share, rest = _shares(first, second, log_first, log_second)
    small, near = shift.abs() <= 1.0, shift.clamp(-1.0, 1.0)
    log_q, log_rest = F.logsigmoid(log_first - log_second), F.logsigmoid(log_second - log_first)
    return (
        torch.where(small, torch.log1p(rest * torch.expm1(-near)), torch.logaddexp(log_q, log_rest - shift)),
        torch.where(small, torch.log1p(share * torch.expm1(near)), torch.logaddexp(log_q + shift, log_rest)),
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
    return all_applied(_BinomialDeviance, first, second, log_first, log_second, shift)[0]


def beta_deviance(log_first: Tensor, log_second: Tensor, logit: Tensor) -> Tensor:
    """`binomial_deviance` from the logit of p instead of its distance from that of q.

    Example:
        >>> log_ten, logit = torch.tensor(10.0).log(), torch.tensor(0.1)
        >>> beta_deviance(log_ten, log_ten, logit)
        tensor(0.0250)
    """
    return all_applied(_BetaDeviance, log_first, log_second, logit)[0]


class _SizeLog1p(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(log_size: Tensor, part: Tensor) -> Tensor:
        size, log_ratio = _size_log_ratio(log_size, part)
        # Where the ratio is nothing beside 1, it may be nothing at all, or too small for all of its digits.
        return torch.where(log_ratio < torch.finfo(part.dtype).eps, part, size * log_ratio)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        size, log_ratio = _size_log_ratio(*ctx.saved_tensors)
        return gradient * size * excess(-log_ratio), gradient * torch.exp(-log_ratio)


def _size_log_ratio(log_size: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """The size, at most `log_range`, and log(1 + part / size), also where that ratio is too large; 0 for an infinite part."""
    ratio = times_exp(part.masked_fill(part.isinf(), 0.0), -log_size)
    far = ratio.isinf()
    log_ratio = torch.where(far, torch.where(far, part, 1.0).log() - log_size, torch.log1p(ratio.masked_fill(far, 0.0)))
    return bounded_log(log_size).exp(), log_ratio


def size_log1p(log_size: Tensor, part: Tensor) -> Tensor:
    """size log(1 + part / size) for part >= 0, which tends to part as the size grows; of one shape.

    Example:
        >>> size_log1p(torch.tensor([0.0, 80.0]), torch.tensor([1.0, 1.0]))
        tensor([0.6931, 1.0000])
    """
    return applied(_SizeLog1p, log_size, part)


class _SizeSoftplus(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(log_size: Tensor, log_part: Tensor) -> Tensor:
        log_ratio = softplus(log_part - log_size)
        return torch.where(log_ratio < torch.finfo(log_ratio.dtype).eps, log_part.exp(), times_exp(log_ratio, log_size))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        log_size, log_part = ctx.saved_tensors
        log_ratio = softplus(log_part - log_size)
        return gradient * times_exp(excess(-log_ratio), log_size), gradient * torch.exp(log_part - log_ratio)


def size_softplus(log_size: Tensor, log_part: Tensor) -> Tensor:
    """`size_log1p` from the logarithm of a part that may be beyond its dtype's range; of one shape.

    Example:
        >>> size_softplus(torch.tensor([0.0, 80.0]), torch.tensor([0.0, 0.0]))
        tensor([0.6931, 1.0000])
    """
    return applied(_SizeSoftplus, log_size, log_part)


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
