"""The Laplace likelihood, whose nll is a scaled absolute error.

P.-S. Laplace, "Mémoire sur la probabilité des causes par les évènements", 1774; density and draws as in N. L. Johnson, S. Kotz,
N. Balakrishnan, "Continuous Univariate Distributions", volume 2, 1995, chapter 24.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.likelihoods import draws
from vaekit.likelihoods.base import MissingSpec, registry
from vaekit.likelihoods.positive import DispersedLikelihood, Positive
from vaekit.likelihoods.special import times_exp
from vaekit.ops.draw import Draw


@registry.register("laplace")
class Laplace(DispersedLikelihood):
    """A double exponential for each element, for real-valued data with tails heavier than a normal's.

    p(x) = exp(-|x - m| / b) / (2 b); P = 1: the mean m, or 2 with scale="element": m and log b.

    Args:
        scale: "fixed" at `b`; "shared", one learned number for all elements, which starts there; "feature", one for each element
            of an example; "element", from the decoder for each element.
        b: the scale, in the data's units; the standard deviation is sqrt(2) b. 1 by default.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Raises:
        TypeError: a b that is not a number.
        ValueError: another word for `scale`, or a b that is not positive and finite; a b together with scale="element".

    Example:
        >>> nll = Laplace(b=2.0).nll(torch.zeros(1, 1, 2), torch.tensor([[0.0, 2.0]]))
        >>> round(float(nll), 4)  # 2 log 4 + 1
        3.7726
    """

    def __init__(self, scale: str = "fixed", b: float | None = None, missing: MissingSpec = "refuse") -> None:
        super().__init__(missing, log_scale=Positive("scale", scale, "b", b, 1.0))
        self.scale = scale

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        (mean,), (log_scale,) = self._split(parameters)
        return times_exp(x - mean, -log_scale).abs() + log_scale + math.log(2.0)

    def mean(self, parameters: Tensor) -> Tensor:
        self._check_shapes(parameters)
        return parameters[:, 0]

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        return self._before_zeros(mean[0])

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        self._check_shapes(parameters)
        wide, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        (mean,), (log_scale,) = self._split(wide)
        centred = draws.uniform(noise, mean.shape) - 0.5
        return draws.narrow(mean - log_scale.exp() * centred.sign() * torch.log1p(-2.0 * centred.abs()), parameters)
