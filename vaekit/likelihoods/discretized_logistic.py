"""A mixture of logistics, discretised to the levels of an image.

T. Salimans, A. Karpathy, X. Chen, D. P. Kingma, "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood
and Other Modifications", 2017, arXiv:1701.05517, section 2.1, without the coupling of the colours of a pixel (section 2.2).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.checks import checked_size
from vaekit.likelihoods import draws
from vaekit.likelihoods.base import NEAREST_TO_BOUND, Likelihood, MissingSpec, registry
from vaekit.likelihoods.special import bounded_log, inverse, log_mean_exp
from vaekit.likelihoods.support import Support
from vaekit.ops import streams
from vaekit.ops.draw import Draw
from vaekit.ops.nll import NllOperator

_REACH = 17  # levels on either side of a mean that are summed one by one
_BROADEST = 80.0  # log scale from which on every level is as probable as any other
_EULER_MACLAURIN = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600)  # B_2n / (2n)!


def _elements(parameters: Tensor, x: Tensor, levels: int) -> Tensor:
    logits, mean, log_scale = parameters.unflatten(1, (3, -1)).unbind(1)
    level = (x * (levels - 1)).round().unsqueeze(1)
    log_scale = -bounded_log(-log_scale, math.log(torch.finfo(x.dtype).max) - 0.5)  # no 0 times infinity behind it
    precision = torch.exp(-log_scale)
    upper, lower = ((_edge(level + side, levels) - mean) * precision for side in (1, 0))
    width = 2.0 / (levels - 1)
    # sigmoid(upper) - sigmoid(lower) = sigmoid(upper) sigmoid(-lower) (1 - exp(lower - upper)), of which nothing cancels
    linear, rest = log_mean_exp(-width * precision)
    log_inside = math.log(width) - log_scale + (linear + rest)
    is_first, is_last = level == 0, level == levels - 1
    log_bin = (
        torch.where(is_last, 0.0, F.logsigmoid(upper))
        + torch.where(is_first, 0.0, F.logsigmoid(-lower))
        + torch.where(is_first | is_last, 0.0, log_inside)
    )
    # Where every component is infinitely far, the sum's derivatives are NaN.
    is_lost = log_bin.isneginf().all(1, keepdim=True)
    log_sum = torch.logsumexp(torch.log_softmax(logits, 1) + log_bin.masked_fill(is_lost, 0.0), 1)
    return -torch.where(is_lost.squeeze(1), log_bin.masked_fill(~is_lost, 0.0).mean(1), log_sum)


@registry.register("discretized_logistic")
class DiscretizedLogistic(Likelihood):
    """Probabilities of the levels 0, 1 / (L - 1), ..., 1 of each element, as in images of 8 bits divided by 255.

    A level's probability is what the density, a mixture of K logistics, has in the bin around it; the first and the last bin
    reach to infinity. P = 3 K: first the mixture's K logits, then the K means and the K log scales, these two in the units of the
    paper, in which the data spans -1 to 1, so that an untrained decoder's zeros are broad and in the middle. The nll is that of
    discrete data, in nats for each example: divide by log(2) and the number of elements for bits per dimension. Everything is in
    log space, without the paper's floor under probabilities and scales; in float32 a log scale below -88 counts as -88.

    Args:
        components: K.
        levels: L, at least 2.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Raises:
        ValueError: components or levels that are not whole numbers of at least 1 and 2.

    Example:
        >>> parameters = torch.tensor([0.0, 0.0, -9.0]).reshape(1, 3, 1)  # one narrow component in the middle of five levels
        >>> round(float(DiscretizedLogistic(components=1, levels=5).nll(parameters, torch.tensor([[0.5]]))), 4)
        0.0
    """

    def __init__(self, components: int = 5, levels: int = 256, missing: MissingSpec = "refuse") -> None:
        super().__init__(missing)
        self.components = checked_size("components", components)
        self.levels = levels = checked_size("levels", levels, least=2)  # one level holds no information
        self.parameters_per_element = 3 * self.components
        self.support = Support(
            f"{levels} equally spaced levels in [0, 1]",
            lowest=0.0,
            highest=1.0,
            remedy=(
                f"Divide whole numbers 0 to {levels - 1} by {levels - 1}, or set the option levels; for other values choose "
                "another likelihood, 'continuous_bernoulli' or 'gaussian' for example."
            ),
        )

    operator = NllOperator("discretized_logistic_nll", _elements, 0.0, "int levels", dear=True)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return _elements(parameters, x, self.levels)

    def _operator_options(self, parameters: Tensor) -> tuple[Any, ...]:
        return (self.levels,)

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | z], as a rule between two levels: [B, 3 K, *S] -> [B, *S].

        In float64 it takes a pass over the parameters for each level, otherwise some 40 passes whatever the number of levels.
        """
        logits, mean, log_scale = self._wide(parameters).unflatten(1, (3, self.components)).unbind(1)
        return (torch.softmax(logits, 1) * self._mean_of_one(mean, log_scale)).sum(1).to(parameters.dtype)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """As every likelihood's, with all components in one place."""
        inside = mean[0].clamp(NEAREST_TO_BOUND, 1.0 - NEAREST_TO_BOUND)
        # At a scale of 1 a component beyond 30 is on the first or the last level to 1e-12.
        place = inverse(lambda m: self._mean_of_one(m, torch.zeros_like(m)), inside, -30.0, 30.0)
        zeros = torch.zeros_like(place).masked_fill(place.isnan(), torch.nan)
        return torch.stack([part for part in (zeros, place, zeros) for _ in range(self.components)])

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        self._check_shapes(parameters)
        wide, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        logits, mean, log_scale = wide.unflatten(1, (3, self.components)).unbind(1)
        waiting = (
            draws.exponential(noise.folded(streams.DiscretizedLogistic.COMPONENT), logits.shape).log() - logits
        )  # as in Categorical
        chosen = waiting.argmin(1, keepdim=True)
        mean, log_scale = mean.gather(1, chosen).squeeze(1), log_scale.gather(1, chosen).squeeze(1)
        value = mean + log_scale.exp() * torch.logit(draws.uniform(noise.folded(streams.DiscretizedLogistic.VALUE), mean.shape))
        level = (0.5 * (value + 1.0) * (self.levels - 1)).round().clamp(0.0, self.levels - 1.0)
        return draws.narrow(level / (self.levels - 1), parameters)

    def check(self, x: Tensor) -> None:
        """As every likelihood's; a value counts as a level where it is one to the rounding of its dtype."""
        super().check(x)
        scaled = x[~x.isnan()] * (self.levels - 1)
        tolerance = max(1e-3, 4.0 * torch.finfo(x.dtype).eps * self.levels)
        between = scaled[(scaled - scaled.round()).abs() > tolerance]
        if between.numel():
            value = float(between[0]) / (self.levels - 1)
            raise ValueError(
                f"{type(self).__name__} models {self.support.words}, but the data holds {value:.6g} between two of them. "
                f"{self.support.remedy}"
            )

    def _mean_of_one(self, mean: Tensor, log_scale: Tensor) -> Tensor:
        """E[x] of components of their own."""
        # The mean of a count is the sum of the probabilities that it is at least 1, at least 2, ...
        return _sum_over_levels(mean, log_scale, self.levels) / (self.levels - 1)


def _edge(level: Tensor | int, levels: int) -> Tensor | float:
    """The lower edge of a level's bin, in the units in which the data spans -1 to 1."""
    return (2.0 * level - levels) / (levels - 1)


def _sum_over_levels(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """The sum of sigmoid((mean - edge of l) / scale) over the levels l = 1, ..., L - 1; to 1e-7 in float32."""
    if mean.dtype == torch.float64 or levels <= 2 * _REACH + 2:
        precision, total = bounded_log(-log_scale).exp(), torch.zeros_like(mean)
        for level in range(1, levels):
            total = total + torch.sigmoid((mean - _edge(level, levels)) * precision)
        return total
    # Two edges are `step` scales apart.
    log_step = -log_scale + math.log(2.0 / (levels - 1))
    is_broad = log_step < 0.0
    broad = _broad_sum(mean, log_scale.masked_fill(~is_broad, 0.0), levels)
    return torch.where(is_broad, broad, _narrow_sum(mean, log_scale.masked_fill(is_broad, -10.0), levels))


def _narrow_sum(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Where a step is at least a scale: one by one near the mean, beyond which a term is 0 or 1 to e^-17."""
    precision = bounded_log(-log_scale).exp()
    middle = (0.5 * (mean.detach() * (levels - 1) + levels)).round().clamp(1.0, levels - 1.0)
    total = (middle - (_REACH + 1)).clamp(min=0.0)
    for distance in range(-_REACH, _REACH + 1):
        level = middle + distance
        term = torch.sigmoid((mean - _edge(level, levels)) * precision)
        total = total + torch.where((level >= 1.0) & (level <= levels - 1.0), term, 0.0)
    return total


def _broad_sum(mean: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    """Where a step is at most a scale: Euler and Maclaurin's formula, DLMF 2.10.1, which leaves out less than 3e-7 of a term."""
    precision = torch.exp(-log_scale.clamp(max=_BROADEST))
    first, last = ((mean - _edge(level, levels)) * precision for level in (levels - 1, 1))
    step, span = precision * (2.0 / (levels - 1)), precision * (2.0 * (levels - 2) / (levels - 1))
    # The integral, softplus(last) - softplus(first), of two forms the one of which nothing cancels.
    near = torch.log1p(torch.sigmoid(first) * torch.expm1(span.clamp(max=1.0)))
    linear = torch.where(first > 0.0, span, last.clamp(min=0.0))
    far = linear + torch.log1p(torch.exp(-last.abs())) - torch.log1p(torch.exp(-first.abs()))
    total = torch.where(span < 1.0, near, far) / step + 0.5 * (torch.sigmoid(first) + torch.sigmoid(last))
    slopes, square = [_odd_derivatives(torch.sigmoid(end) * torch.sigmoid(-end)) for end in (first, last)], step * step
    for coefficient, below, above in zip(_EULER_MACLAURIN, *slopes, strict=True):
        total = total + coefficient * step * (above - below)
        step = step * square
    return total


def _odd_derivatives(q: Tensor) -> tuple[Tensor, ...]:
    """The first, third, fifth and seventh derivative of a sigmoid, from its first, q."""
    return q, q * (1 - 6 * q), q * (1 - 30 * q + 120 * q**2), q * (1 - 126 * q + 1680 * q**2 - 5040 * q**3)
