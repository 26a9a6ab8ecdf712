"""A logistic likelihood, announced to vaekit by its entry point alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit import Likelihood
from vaekit.ops import philox


class Logistic(Likelihood):
    """p(x) = 1 / (4 s cosh^2((x - m) / 2s)) for each element, for real numbers whose tails are heavier than a Gaussian's.

    P = 1: m, the mean.

    Args:
        scale: s.
        missing: "refuse" or "ignore" NaN in the data.
    """

    def __init__(self, scale: float = 1.0, missing: str = "refuse") -> None:
        super().__init__(missing)
        if not 0.0 < scale < math.inf:
            raise ValueError(f"scale has to be positive and finite, got {scale!r}")
        self.scale = scale

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        distance = (x - parameters[:, 0]) / self.scale
        return distance.abs() + 2.0 * torch.log1p(torch.exp(-distance.abs())) + math.log(self.scale)

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters[:, 0]

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        mean = parameters[:, 0]
        u = philox.uniform(key, mean.shape, mean.dtype, row_start * math.prod(mean.shape[1:]))
        return mean + self.scale * torch.logit(u, eps=1e-7)
