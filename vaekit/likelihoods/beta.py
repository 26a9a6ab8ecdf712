"""The beta likelihood, for proportions.

S. Ferrari, F. Cribari-Neto, "Beta Regression for Modelling Rates and Proportions", 2004; computed as a deviance and Stirling's
remainders, see `special.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.likelihoods import draws
from vaekit.likelihoods.base import NEAREST_TO_BOUND, Likelihood, registry
from vaekit.likelihoods.special import beta_deviance, bounded_log, log_choice
from vaekit.likelihoods.support import Support
from vaekit.ops import streams
from vaekit.ops.draw import Draw


@registry.register("beta")
class Beta(Likelihood):
    """A beta distribution for each element, for proportions strictly between 0 and 1.

    p(x) = gamma(a + b) / (gamma(a) gamma(b)) x^(a - 1) (1 - x)^(b - 1); P = 2: log a and log b. It is flat where both are 0. At 0
    and 1 the density is 0 or infinite, so data that holds them is refused: squeeze it first, (x (n - 1) + 1/2) / n for n examples
    (M. Smithson, J. Verkuilen, "A Better Lemon Squeezer?", 2006), or choose "continuous_bernoulli". A draw
    that rounds to 0 or 1 becomes the number next to it inside.

    Args:
        missing: "refuse" or "ignore" NaN in the data, or ignore with options, as of `Likelihood`.

    Example:
        >>> logs = torch.tensor([2.0, 3.0]).log().reshape(1, 2, 1)
        >>> round(float(Beta().nll(logs, torch.tensor([[0.5]]))), 4)  # -log(12 / 2^3)
        -0.4055
    """

    parameters_per_element = 2
    support = Support(
        "values in (0, 1), without 0 and 1",
        lowest=0.0,
        highest=1.0,
        bounds_included=False,
        filler=0.5,
        remedy=(
            "Squeeze data that holds 0 and 1, (x * (n - 1) + 0.5) / n for n examples, rescale other data, or choose "
            "another likelihood, 'continuous_bernoulli' or 'gaussian' for example."
        ),
    )

    def element_nll(self, parameters: Tensor, x: Tensor) -> Tensor:
        log_a, log_b = parameters.unbind(1)
        a, b = bounded_log(log_a).exp(), bounded_log(log_b).exp()
        log_x, log_rest = x.log(), torch.log1p(-x)
        deviance = beta_deviance(log_a, log_b, log_x - log_rest)
        return deviance + log_choice(a, log_a, b, log_b) - log_a + (log_x + log_rest)

    def mean(self, parameters: Tensor) -> Tensor:
        log_a, log_b = self._wide(parameters).unbind(1)
        return torch.sigmoid(log_a - log_b).to(parameters.dtype)

    def parameters_of_mean(self, mean: Tensor) -> Tensor:
        """As every likelihood's, with a + b = 2."""
        inside = mean[0].clamp(NEAREST_TO_BOUND, 1.0 - NEAREST_TO_BOUND)
        return torch.stack((inside, 1.0 - inside)).log() + math.log(2.0)

    def sample(self, parameters: Tensor, *, key: Tensor, row_start: int = 0) -> Tensor:
        """As every likelihood's; synchronises."""
        self._check_shapes(parameters)
        wide, noise = draws.wide(parameters, Draw(key, row_start=row_start))
        log_a, log_b = wide.unbind(1)
        # Draws are 0 or 1 long before their logarithms overflow: both raised to where one does not, they are the same.
        raised = (-500.0 - torch.maximum(log_a, log_b)).clamp(min=0.0)
        log_a, log_b = log_a + raised, log_b + raised
        logit = draws.log_gamma(noise.folded(streams.Beta.FIRST_GAMMA), log_a) - draws.log_gamma(
            noise.folded(streams.Beta.SECOND_GAMMA), log_b
        )
        limits = torch.finfo(parameters.dtype)
        inside = draws.narrow(torch.sigmoid(logit), parameters)
        return inside.clamp(limits.tiny, math.nextafter(1.0, 0.0) if limits.bits == 64 else 1.0 - limits.eps / 2.0)
