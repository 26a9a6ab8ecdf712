"""The continuous Bernoulli likelihood: the Bernoulli's cross-entropy for grey values, normalised.

G. Loaiza-Ganem, J. P. Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders", 2019,
arXiv:1907.06845, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.likelihoods import draws
from vaekit.likelihoods.base import NEAREST_TO_BOUND, Likelihood, registry
from vaekit.likelihoods.special import inverse, log_mean_exp, log_mean_exp_slope
from vaekit.likelihoods.support import UNIT_INTERVAL
from vaekit.ops.draw import Draw


@registry.register("continuous_bernoulli")
class ContinuousBernoulli(Likelihood):
    """A density on [0, 1] for each element, for grey values: C(l) l^x (1 - l)^(1 - x).

    P = 1: t, the logit of l, in which the density is exp(x t) over its integral, (exp(t) - 1) / t. It is flat at t = 0, and right
    to rounding there and everywhere. An nll may be negative: a density may exceed 1.

    Args:
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Example:
        >>> t = torch.tensor([[[0.0, 1.0]]])
        >>> round(float(ContinuousBernoulli().nll(t, torch.tensor([[0.3, 1.0]]))), 4)  # 0 + log(e - 1) - 1
        -0.4587
    """

    support = UNIT_INTERVAL

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        t = parameters[:, 0]
        linear, rest = log_mean_exp(t)
        return (linear - x * t) + rest

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x | z], which is not the sigmoid of t: [B, 1, *S] -> [B, *S]."""
        return log_mean_exp_slope(self._wide(parameters)[:, 0]).to(parameters.dtype)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        inside = mean.clamp(NEAREST_TO_BOUND, 1.0 - NEAREST_TO_BOUND)
        bound = 1.1 / NEAREST_TO_BOUND  # far from 0, the mean is 1 / |t| from its end
        return inverse(log_mean_exp_slope, inside, -bound, bound)

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        self._check_shapes(parameters)
        wide, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        t = wide[:, 0]
        # The distribution function inverted, measured from the end at which the density is highest; flat where t is nearly 0.
        u, size = draws.uniform(noise, t.shape), t.abs().clamp(min=1e-12)
        below = -torch.log1p(u * torch.expm1(-size)) / size
        return draws.narrow(torch.where(t > 0.0, 1.0 - below, below), parameters)
