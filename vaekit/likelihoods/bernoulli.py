"""The Bernoulli likelihood on logits (Kingma and Welling 2013, arXiv:1312.6114, appendix C.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.likelihoods.base import NEAREST_TO_BOUND, Likelihood, registry
from vaekit.likelihoods.support import UNIT_INTERVAL
from vaekit.ops import philox
from vaekit.ops.nll import NllOperator


def _elements(parameters: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(parameters[:, 0], x, reduction="none")


@registry.register("bernoulli")
class Bernoulli(Likelihood):
    """Independent coins: black and white pixels, or grey ones in [0, 1] read as probabilities.

    The natural parameter is the logit, so the gradient never vanishes where a sigmoid would have rounded to 0 or 1. For values
    strictly between 0 and 1 the nll is the customary cross-entropy, which is not the nll of a normalised density: compare it
    with other runs of the same kind, not with another likelihood's; "continuous_bernoulli" is the density.

    Args:
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Example:
        >>> nll = Bernoulli().nll(torch.zeros(1, 1, 3), torch.tensor([[0.0, 1.0, 1.0]]))
        >>> round(float(nll), 4)  # 3 log 2
        2.0794
    """

    support = UNIT_INTERVAL
    has_logits = True
    operator = NllOperator("bernoulli_nll", _elements, UNIT_INTERVAL.filler)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        return _elements(parameters, x)

    def mean(self, parameters: Tensor) -> Tensor:
        self._check_shapes(parameters)
        return torch.sigmoid(parameters[:, 0])

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=NEAREST_TO_BOUND)

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        logits = self._wide(parameters)[:, 0]
        u = philox.uniform(key, logits.shape, logits.dtype, row_start * math.prod(logits.shape[1:]))
        return (u <= torch.sigmoid(logits)).to(parameters.dtype)
