"""The Poisson likelihood, for counts; computed as a deviance and Stirling's remainder, see `special.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.likelihoods import draws
from vaekit.likelihoods.base import RAREST, Likelihood, log_counts, registry
from vaekit.likelihoods.special import excess, factorial_excess
from vaekit.likelihoods.support import COUNTS
from vaekit.ops.draw import Draw
from vaekit.ops.nll import NllOperator


def _elements(parameters: Tensor, x: Tensor) -> Tensor:
    log_rate, is_none = parameters[:, 0], x == 0.0
    count = x.clamp(min=1.0)
    log_count = count.log()
    # In a derivative, 0 times what a formula overflows to where the other one is right is NaN.
    shift = (log_rate - log_count).masked_fill(is_none, 0.0)
    counted = count * excess(shift) + factorial_excess(count, log_count)
    return torch.where(is_none, log_rate.masked_fill(~is_none, 0.0).exp(), counted)


@registry.register("poisson")
class Poisson(Likelihood):
    """A Poisson distribution for each element, for counts whose variance is about their mean.

    p(x) = r^x exp(-r) / x!; P = 1: log r, the log of the mean. In float32 the nll of a large count is right to what rounding
    log r changes in it. The encoder sees log(1 + x).

    Args:
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Example:
        >>> log_rate = torch.tensor([[[0.0, 1e6]]]).clamp(min=1.0).log()
        >>> round(float(Poisson().nll(log_rate, torch.tensor([[0.0, 1e6]]))), 3)  # 1 + half of log(2 pi 1e6)
        8.827
    """

    support = COUNTS
    has_log_mean = True
    operator = NllOperator("poisson_nll", _elements, COUNTS.filler)

    def element_features(self, x: Tensor) -> Tensor:
        return log_counts(x)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return _elements(parameters, x)

    def mean(self, parameters: Tensor) -> Tensor:
        return self._wide(parameters)[:, 0].exp().to(parameters.dtype)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=RAREST).log()

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's; synchronises."""
        self._check_shapes(parameters)
        log_rate, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        return draws.narrow(draws.poisson(noise, log_rate[:, 0]), parameters)
