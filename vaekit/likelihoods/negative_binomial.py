"""The negative binomial likelihood, for counts that vary more than a Poisson's, and the same with additional zeros.

In the parameters of scvi-tools: R. Lopez, J. Regier, M. B. Cole, M. I. Jordan, N. Yosef, "Deep generative modeling for
single-cell transcriptomics", 2018, doi:10.1038/s41592-018-0229-2; the zeros: D. Lambert, "Zero-Inflated Poisson Regression,
with an Application to Defects in Manufacturing", 1992. Computed as a deviance and Stirling's remainders, see `special.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.likelihoods import draws
from vaekit.likelihoods.base import RAREST, MissingSpec, log_counts, registry
from vaekit.likelihoods.positive import DispersedLikelihood, Positive, split
from vaekit.likelihoods.special import binomial_deviance, bounded_log, log_choice, size_softplus, softplus
from vaekit.likelihoods.support import COUNTS
from vaekit.ops import streams
from vaekit.ops.draw import Draw
from vaekit.ops.nll import NllOperator

_NEVER = 80.0  # of the logarithms of a mean and a dispersion from which on no count is 0


def _elements(parameters: Tensor, x: Tensor, shared: Tensor | None, start: float) -> Tensor:
    (log_mean,), log_theta = split(parameters, 1, shared, start)
    return _nll(log_mean, log_theta, x)


def _inflated_elements(parameters: Tensor, x: Tensor, shared: Tensor | None, start: float) -> Tensor:
    (log_mean, logit), log_theta = split(parameters, 2, shared, start)
    # Without a bound the nll of 0 would overflow there, and its derivative be 0 times infinity.
    is_beyond = (x == 0.0) & (torch.minimum(log_mean, log_theta.expand_as(x)) > _NEVER)
    counted = _nll(log_mean.masked_fill(is_beyond, _NEVER), log_theta.masked_fill(is_beyond, _NEVER), x)
    # -log(d + (1 - d) exp(-counted)), with the larger of logit and 0 taken out of both logarithms
    often = softplus(-logit) - softplus(-logit - counted)
    seldom = softplus(logit) - torch.logaddexp(logit, -counted)
    return torch.where(x == 0.0, torch.where(logit > 0.0, often, seldom), counted + softplus(logit))


@registry.register("negative_binomial")
class NegativeBinomial(DispersedLikelihood):
    """A negative binomial for each element, for counts with mean m and variance m + m^2 / t.

    p(x) = gamma(x + t) / (gamma(t) x!) (t / (t + m))^t (m / (t + m))^x; P = 1: log m, or 2 with dispersion="element": log m and
    log t. The larger t, the inverse dispersion, the closer to a Poisson distribution: right for every t, also where the
    textbook's differences of log-gamma functions are nothing but rounding. The encoder sees log(1 + x).

    Args:
        dispersion: "element", log t from the decoder for each element; "feature", one learned number for each element of an
            example, a gene for example, which starts at `theta`; "shared", one for all elements; "fixed" at it.
        theta: the inverse dispersion t; 1 by default.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Raises:
        TypeError: a theta that is not a number.
        ValueError: another word for `dispersion`; a theta that is not positive and finite, or together with
            dispersion="element".

    Example:
        >>> likelihood = NegativeBinomial(dispersion="fixed", theta=1.0)
        >>> round(float(likelihood.nll(torch.zeros(1, 1, 1), torch.tensor([[2.0]]))), 4)  # 3 log 2
        2.0794
    """

    support = COUNTS
    has_log_mean = True
    operator = NllOperator(
        "negative_binomial_nll",
        _elements,
        COUNTS.filler,
        "Tensor? log_theta, float start",
        dear=True,
        shared=True,
    )

    def __init__(self, dispersion: str = "element", theta: float | None = None, missing: MissingSpec = "refuse") -> None:
        super().__init__(missing, log_theta=Positive("dispersion", dispersion, "theta", theta, 1.0))
        self.dispersion = dispersion

    def element_features(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return _elements(parameters, x, *self._operator_options(parameters))

    def mean(self, parameters: Tensor) -> Tensor:
        return self._wide(parameters)[:, 0].exp().to(parameters.dtype)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        return self._before_zeros(mean[0].clamp(min=RAREST).log())

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's: a Poisson draw whose rate is a gamma draw; synchronises."""
        self._check_shapes(parameters)
        wide, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        (log_mean,), (log_theta,) = self._split(wide)
        return draws.narrow(_draw(log_mean, log_theta, noise), parameters)


@registry.register("zero_inflated_negative_binomial")
class ZeroInflatedNegativeBinomial(DispersedLikelihood):
    """A negative binomial for each element whose counts are lost, and read as 0, with a probability: sparse counts.

    p(x) = d [x = 0] + (1 - d) NB(x; m, t), with the mean m and the inverse dispersion t of "negative_binomial" and d the sigmoid
    of a dropout logit; P = 2: log m and the logit of d, or 3 with dispersion="element": log m, log t and the logit of d.
    The encoder sees log(1 + x).

    Args:
        dispersion: "element", log t from the decoder for each element; "feature", one learned number for each element of an
            example, a gene for example, which starts at `theta`; "shared", one for all elements; "fixed" at it.
        theta: the inverse dispersion t; 1 by default.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Raises:
        TypeError: a theta that is not a number.
        ValueError: another word for `dispersion`; a theta that is not positive and finite, or together with
            dispersion="element".

    Example:
        >>> likelihood = ZeroInflatedNegativeBinomial(dispersion="fixed", theta=1.0)
        >>> round(float(likelihood.nll(torch.zeros(1, 2, 1), torch.tensor([[0.0]]))), 4)  # -log(1/2 + 1/2 1/2)
        0.2877
    """

    support = COUNTS
    has_log_mean = True
    operator = NllOperator(
        "zero_inflated_negative_binomial_nll",
        _inflated_elements,
        COUNTS.filler,
        "Tensor? log_theta, float start",
        dear=True,
        shared=True,
    )

    def __init__(self, dispersion: str = "element", theta: float | None = None, missing: MissingSpec = "refuse") -> None:
        super().__init__(missing, others=2, log_theta=Positive("dispersion", dispersion, "theta", theta, 1.0))
        self.dispersion = dispersion

    def element_features(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return _inflated_elements(parameters, x, *self._operator_options(parameters))

    def mean(self, parameters: Tensor) -> Tensor:
        (log_mean, logit), _ = self._split(self._wide(parameters))
        return (log_mean + F.logsigmoid(-logit)).exp().to(parameters.dtype)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """As every likelihood's, with a dropout logit of 0: half of the counts are lost, the others' mean is twice as large."""
        return self._before_zeros(mean[0].clamp(min=RAREST).log() + math.log(2.0))

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's; synchronises."""
        self._check_shapes(parameters)
        wide, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        (log_mean, logit), (log_theta,) = self._split(wide)
        lost = draws.uniform(noise.folded(streams.NegativeBinomial.LOST), logit.shape) <= torch.sigmoid(logit)
        return draws.narrow(_draw(log_mean, log_theta, noise).masked_fill(lost, 0.0), parameters)


def _nll(log_mean: Tensor, log_theta: Tensor, x: Tensor) -> Tensor:
    """-log p of counts x [B, *S]; log_mean [B, *S], log_theta the same, or broadcasting with it."""
    is_none = x == 0.0
    # In a derivative, 0 times what a formula overflows to where the other one is right is NaN.
    none = size_softplus(log_theta.masked_fill(~is_none, 0.0), log_mean.masked_fill(~is_none, 0.0))  # t log(1 + m / t)
    counted = _nll_of_count(log_mean.masked_fill(is_none, 0.0), log_theta.masked_fill(is_none, 0.0), x.clamp(min=1.0))
    return torch.where(is_none, none, counted)


def _nll_of_count(log_mean: Tensor, log_theta: Tensor, count: Tensor) -> Tensor:
    """-log p of counts of at least 1."""
    log_theta = bounded_log(log_theta)
    theta, log_count = log_theta.exp(), count.log()
    # With q = x / (x + t) and p = m / (m + t), the terms in m are the deviance of p from q.
    deviance = binomial_deviance(count, theta, log_count, log_theta, log_mean - log_count)
    return deviance + log_choice(count, log_count, theta, log_theta)


def _draw(log_mean: Tensor, log_theta: Tensor, noise: Draw) -> Tensor:
    log_theta = log_theta.expand_as(log_mean)
    log_rate = log_mean - log_theta + draws.log_gamma(noise.folded(streams.NegativeBinomial.RATE), log_theta)
    return draws.poisson(noise.folded(streams.NegativeBinomial.COUNT), log_rate)
