"""Exact draws from a key: uniform numbers inside (0, 1), gamma and Poisson.

Gamma: G. Marsaglia, W. W. Tsang, "A Simple Method for Generating Gamma Variables", 2000. Poisson: W. Hörmann, "The transformed
rejection method for generating Poisson random variables", 1993, algorithm PTRS; below a mean of 10 by inversion.

Both reject: round n takes its noise from fold_in(key, n), and each element keeps the first that it accepts, so that a draw
depends on nothing but the key, the element's position and its parameters, on every device. Rows are along the first axis of a
shape; `Draw.row_start` is the number of the first. Everything is in float64, as a tail is only as fine as the uniform number
behind it. Whether all elements have accepted is asked of the device, which synchronises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.likelihoods.special import excess, factorial_excess
from vaekit.ops import philox, streams
from vaekit.ops.draw import Draw

_INVERSION_BELOW = 10.0  # PTRS is for larger means
_LARGEST_LOG = 100.0  # of a shape or a mean, beside whose exponential float64 does not see what is random
_LARGEST_SMALL_COUNT = 150  # with a mean below 10 it is exceeded with a probability of 1e-119


def normal(noise: Draw, shape: Sequence[int]) -> Tensor:
    """Standard normal noise, float64 [*shape]."""
    return philox.normal(noise.key, shape, torch.float64, noise.row_start * math.prod(shape[1:]))


def uniform(noise: Draw, shape: Sequence[int]) -> Tensor:
    """Uniform noise in (0, 1), float64 [*shape], without either end.

    Example:
        >>> uniform(Draw(philox.make_key(0)), (2,))
        tensor([0.3990, 0.7357], dtype=torch.float64)
    """
    # The largest of philox's values, 1 - 2^-54, has been rounded to 1.
    return philox.uniform(noise.key, shape, torch.float64, noise.row_start * math.prod(shape[1:])).clamp(max=1.0 - 2.0**-53)


def exponential(noise: Draw, shape: Sequence[int]) -> Tensor:
    """Draws from the exponential distribution with mean 1, float64 [*shape], above 0."""
    return -uniform(noise, shape).log()


def wide(parameters: Tensor, noise: Draw) -> tuple[Tensor, Draw]:
    """The parameters in float64 and the noise, both where that can be computed with: on the CPU for the one device without it."""
    if parameters.device.type == "mps":
        parameters, noise = parameters.cpu(), noise._replace(key=noise.key.cpu())
    return parameters.double(), noise


def narrow(drawn: Tensor, parameters: Tensor) -> Tensor:
    """What was drawn in float64, with the parameters' dtype and device."""
    return drawn.to(device=parameters.device, dtype=parameters.dtype)


def log_gamma(noise: Draw, log_shape: Tensor) -> Tensor:
    """Logarithms of draws from the gamma distribution with scale 1: a draw itself would underflow where its shape is small.

    Args:
        log_shape: float64 [*S], the logarithm of the shape parameter.

    Returns:
        float64 [*S]; NaN where log_shape is.
    """
    small = log_shape < 0.0
    log_shape, given = log_shape.clamp(max=_LARGEST_LOG), log_shape
    # A draw of shape a is one of shape a + 1 times u^(1/a).
    shape = torch.where(small, log_shape.exp() + 1.0, log_shape.exp())
    d = shape - 1.0 / 3.0
    c = (9.0 * d).rsqrt()
    accepted, drawn, number = log_shape.isnan(), log_shape.clone(), 0
    while not accepted.all():
        of_round = noise.folded(number)
        x = normal(of_round.folded(streams.GammaRound.NORMAL), shape.shape)
        log_u = uniform(of_round.folded(streams.GammaRound.UNIFORM), shape.shape).log()
        step = c * x
        log_cube = 3.0 * torch.log1p(step.clamp(min=-1.0))
        # x^2 / 2 + d (1 - v + log v) with v = (1 + step)^3, whose terms up to step^3 cancel; what is left out is below 1e-18 d.
        series = d * step**4 * (-3 / 4 + step * (3 / 5 + step * (-1 / 2 + step * (3 / 7 + step * (-3 / 8)))))
        direct = 0.5 * x * x + d * (1.0 - (1.0 + step) ** 3 + log_cube)
        accepts = (step > -1.0) & (log_u < torch.where(step.abs() < 0.01, series, direct))
        drawn = torch.where(accepts & ~accepted, d.log() + log_cube, drawn)
        accepted, number = accepted | accepts, number + 1
    boost = -exponential(noise.folded(streams.Gamma.BOOST), shape.shape) * torch.exp(-log_shape)
    return torch.where(small, drawn + boost, drawn + (given - log_shape))


def poisson(noise: Draw, log_rate: Tensor) -> Tensor:
    """Draws from the Poisson distribution, as whole float64 numbers.

    Args:
        log_rate: float64 [*S], the logarithm of the mean; exact up to means of about 1e15, where float64 has no fractions.

    Returns:
        float64 [*S]; NaN where log_rate is.
    """
    small = log_rate < torch.tensor(_INVERSION_BELOW).log()
    few = _poisson_by_inversion(noise.folded(streams.Poisson.SMALL_MEANS), torch.where(small, log_rate, 0.0).exp())
    bounded = log_rate.clamp(max=_LARGEST_LOG)
    many = _poisson_by_rejection(noise.folded(streams.Poisson.LARGE_MEANS), bounded, small | log_rate.isnan()) * torch.exp(
        log_rate - bounded
    )
    return torch.where(small, few, many)


def _poisson_by_inversion(noise: Draw, rate: Tensor) -> Tensor:
    """The smallest count whose distribution function reaches a uniform number."""
    u = uniform(noise, rate.shape)
    count, probability = torch.zeros_like(rate), torch.exp(-rate)
    reached = probability.clone()
    for number in range(1, _LARGEST_SMALL_COUNT):
        beyond = u > reached
        if not beyond.any():
            break
        count += beyond
        probability = probability * rate / number
        reached = reached + probability
    return count


def _poisson_by_rejection(noise: Draw, log_rate: Tensor, accepted: Tensor) -> Tensor:
    """PTRS, for means of at least 10; elements that are accepted already keep their log_rate."""
    rate = log_rate.exp()
    b = 0.931 + 2.53 * rate.sqrt()
    a = -0.059 + 0.02483 * b
    log_inverse_alpha = (1.1239 + 1.1328 / (b - 3.4)).log()
    squeeze = 0.9277 - 3.6224 / (b - 2.0)
    drawn, number = log_rate.clone(), 0
    while not accepted.all():
        of_round = noise.folded(number)
        u = uniform(of_round.folded(streams.PoissonRound.PROPOSAL), rate.shape) - 0.5
        v = uniform(of_round.folded(streams.PoissonRound.ACCEPTANCE), rate.shape)
        distance = 0.5 - u.abs()
        count = ((2.0 * a / distance + b) * u + rate + 0.43).floor()
        at_least_one = count.clamp(min=1.0)
        log_count = at_least_one.log()
        shift = log_rate - log_count
        nll = at_least_one * excess(shift) + factorial_excess(at_least_one, log_count)
        nll = torch.where(count >= 1.0, nll, rate)
        fits = v.log() + log_inverse_alpha - (a / distance.square() + b).log() <= -nll
        quick = (distance >= 0.07) & (v <= squeeze)
        slow = (count >= 0.0) & ((distance >= 0.013) | (v <= distance)) & fits
        accepts = quick | slow
        drawn = torch.where(accepts & ~accepted, count, drawn)
        accepted, number = accepted | accepts, number + 1
    return drawn
