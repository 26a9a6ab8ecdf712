"""The Gaussian likelihood (Kingma and Welling 2013, arXiv:1312.6114, appendix C.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaekit.likelihoods.base import Likelihood, registry
from vaekit.ops import philox, reference


@registry.register("gaussian")
class Gaussian(Likelihood):
    """A normal for each element, for real-valued data.

    Args:
        variance: "fixed" at `sigma` squared; "shared", one learned number for all elements, which starts there; "element",
            from the decoder for each element (P = 2: mean and log variance).
        sigma: the standard deviation, in the data's units, that "fixed" keeps and "shared" starts from.

    Raises:
        TypeError: a sigma that is not a number.
        ValueError: another word for `variance`, or a sigma that is not positive and finite; a sigma together with
            variance="element", which would ignore it.

    Example:
        >>> nll = Gaussian(sigma=1.0).nll(torch.zeros(1, 1, 2), torch.zeros(1, 2))
        >>> round(float(nll), 4)  # log(2 pi)
        1.8379
    """

    support = "real numbers"

    def __init__(self, variance: str = "fixed", sigma: float | None = None) -> None:
        super().__init__()
        if variance not in ("fixed", "shared", "element"):
            raise ValueError(f'variance has to be "fixed", "shared" or "element", got {variance!r}')
        if variance == "element" and sigma is not None:
            raise ValueError('with variance="element" the decoder gives every variance; leave sigma out')
        sigma = 1.0 if sigma is None else sigma
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float)):
            raise TypeError(f"sigma has to be a number, got {sigma!r}")
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"sigma has to be positive and finite, got {sigma}")
        self.variance = variance
        self.parameters_per_element = 2 if variance == "element" else 1
        self._initial_logvar = 2.0 * math.log(sigma)
        if variance == "shared":
            self.logvar = nn.Parameter(torch.tensor(self._initial_logvar))

    def nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        mean, logvar = self._mean_logvar(parameters, x)
        standardized = (x.to(mean.dtype) - mean) * torch.exp(-0.5 * logvar)
        return (0.5 * (standardized * standardized + logvar + math.log(2.0 * math.pi))).flatten(1).sum(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        return self._split(parameters)[0]

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """The mean, and log variances of 0 where the decoder gives them, as a new one does: [P, *S]."""
        return torch.stack((mean, torch.zeros_like(mean))[: self.parameters_per_element])

    def sample(self, parameters: Tensor, *, key: Tensor) -> Tensor:
        mean, logvar = self._mean_logvar(parameters)
        draw = mean + torch.exp(0.5 * logvar) * philox.normal(key, mean.shape, mean.dtype)
        return draw.to(parameters.dtype)

    def _mean_logvar(self, parameters: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        dtype = reference.compute_dtype(parameters.dtype)
        mean, *logvar = (parameter.to(dtype) for parameter in self._split(parameters, x))
        if self.variance == "element":
            return mean, logvar[0]
        return mean, self.logvar.to(dtype) if self.variance == "shared" else mean.new_full((), self._initial_logvar)
