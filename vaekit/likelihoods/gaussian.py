"""The Gaussian likelihood (Kingma and Welling 2013, arXiv:1312.6114, appendix C.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.likelihoods.base import MissingSpec, registry
from vaekit.likelihoods.positive import DispersedLikelihood, Positive
from vaekit.likelihoods.special import times_exp
from vaekit.likelihoods.support import REAL
from vaekit.ops import philox
from vaekit.ops.nll import NllOperator


def _elements(parameters: Tensor, x: Tensor, shared: Tensor | None, start: float) -> Tensor:
    """The nll of each element; the log variance is the second of two parameters, otherwise the learned `shared` or `start`."""
    mean, *others = parameters.unbind(1)
    logvar = others[0] if others else mean.new_full((), start) if shared is None else shared
    standardized = times_exp(x - mean, -0.5 * logvar)
    return 0.5 * standardized * standardized + 0.5 * (logvar + math.log(2.0 * math.pi))


@registry.register("gaussian")
class Gaussian(DispersedLikelihood):
    """A normal for each element, for real-valued data.

    With variance="shared" it is the calibrated decoder of sigma-VAE: the variance that is learned goes to the mean squared error,
    where the nll of an element is (log MSE + 1 + log 2 pi) / 2 (O. Rybkin, K. Daniilidis, S. Levine, "Simple and Effective VAE
    Training with Calibrated Decoders", 2021, arXiv:2006.13202, equation 6), so that no beta has to be tuned; "feature" is one
    such variance for each element.

    Args:
        variance: "fixed" at `sigma` squared; "shared", one learned number for all elements, which starts there; "feature", one
            for each element of an example, a column of a table or a place in an image; "element", from the decoder for each
            element (P = 2: mean and log variance).
        sigma: the standard deviation, in the data's units, that "fixed" keeps and what is learned starts from; 1 by default.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Attributes:
        sigma: that is kept, or started from.

    Raises:
        TypeError: a sigma that is not a number.
        ValueError: another word for `variance`, or a sigma that is not positive and finite; a sigma together with
            variance="element", which would ignore it.

    Example:
        >>> nll = Gaussian(sigma=1.0).nll(torch.zeros(1, 1, 2), torch.zeros(1, 2))
        >>> round(float(nll), 4)  # log(2 pi)
        1.8379
    """

    def __init__(self, variance: str = "fixed", sigma: float | None = None, missing: MissingSpec = "refuse") -> None:
        super().__init__(missing, logvar=Positive("variance", variance, "sigma", sigma, 1.0, power=2.0))
        self.variance, self.sigma = variance, 1.0 if sigma is None else sigma

    operator = NllOperator("gaussian_nll", _elements, REAL.filler, "Tensor? logvar, float start", shared=True)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return _elements(parameters, x, *self._operator_options(parameters))

    def mean(self, parameters: Tensor) -> Tensor:
        self._check_shapes(parameters)
        return parameters[:, 0]

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        return self._before_zeros(mean[0])

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        (mean,), (logvar,) = self._split(self._wide(parameters))
        eps = philox.normal(key, mean.shape, mean.dtype, row_start * math.prod(mean.shape[1:]))
        return (mean + torch.exp(0.5 * logvar) * eps).to(parameters.dtype)
