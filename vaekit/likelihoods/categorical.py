"""The categorical likelihood on logits, for a table's classes or a text's symbols."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vaekit.checks import checked_size
from vaekit.likelihoods import draws
from vaekit.likelihoods.base import RAREST, Likelihood, MissingSpec, registry
from vaekit.likelihoods.support import Support
from vaekit.ops.draw import Draw


@registry.register("categorical")
class Categorical(Likelihood):
    """One of K classes for each element, which x holds as its number, 0.0 to K - 1.

    p(x = k) = softmax(logits)_k; P = K: the logits. The encoder sees K zeros and ones for each element, of which the one is
    at its class: [B, C, *S] -> [B, C K, *S]. Where x is no class, which `check` refuses, these and the nll are NaN.

    Args:
        classes: K, at least 2; the same for all elements.
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Raises:
        ValueError: classes that is not a whole number of at least 2.

    Example:
        >>> nll = Categorical(classes=4).nll(torch.zeros(1, 4, 2), torch.tensor([[0.0, 3.0]]))
        >>> round(float(nll), 4)  # 2 log 4
        2.7726
    """

    is_nominal = True
    has_logits = True

    def __init__(self, classes: int, missing: MissingSpec = "refuse") -> None:
        super().__init__(missing)
        classes = checked_size("classes", classes, least=2)  # one class holds no information
        self.classes = self.parameters_per_element = classes
        self.features_per_element = self.statistics_per_element = classes
        self.support = Support(
            f"class numbers 0 to {classes - 1}",
            lowest=0.0,
            highest=float(classes - 1),
            whole=True,
            remedy="Number the classes from 0 on, and set the option classes to how many there are.",
        )

    def element_features(self, x: Tensor) -> Tensor:
        classes = torch.arange(self.classes, device=x.device).reshape(-1, *(1,) * (x.ndim - 1))
        is_class = x.unsqueeze(1) == classes
        return is_class.to(x.dtype).masked_fill(~is_class.any(1, keepdim=True), torch.nan)

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        classes = x.nan_to_num(0.0).clamp(0.0, self.support.highest).long()  # no index may lie beyond the end
        return F.cross_entropy(parameters, classes, reduction="none").masked_fill(classes != x, torch.nan)

    def mean(self, parameters: Tensor) -> Tensor:
        """The most probable class, the first of several, as a float: a mean of class numbers would be none of them."""
        self._check_shapes(parameters)
        return parameters.argmax(1).to(parameters.dtype)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """Logits of the classes' frequencies, which are the mean of one-hot vectors: [K, *S] -> [K, *S]."""
        return mean.clamp(min=RAREST).log()

    def statistics(self, x: Tensor) -> Tensor:
        return self.element_features(x)

    def expected_statistics(self, parameters: Tensor) -> Tensor:
        """The probability of each class."""
        return self._wide(parameters).softmax(1)

    def value_of(self, statistics: Tensor) -> Tensor:
        """The most probable class, the first of several."""
        return statistics.argmax(1).to(statistics.dtype)

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        self._check_shapes(parameters)
        logits, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        # The smallest of exponential waiting times with rates exp(logits) is that of class k with probability softmax(logits)_k.
        waiting = draws.exponential(noise, logits.shape).log() - logits
        return draws.narrow(waiting.argmin(1), parameters)
