"""Where a decoder starts from: the output bias under which the likelihood's mean is the mean of the data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vaekit.likelihoods.base import Likelihood
from vaekit.ops import reference


def bias_from_mean(bias: Tensor, likelihood: Likelihood, batches: Iterable[Tensor]) -> Tensor:
    """The bias [P, *S] that makes the mean of the data the likelihood's mean; see `VAE.initialize_output_bias`.

    Args:
        bias: [P, *S], the present one, which stays where nothing was observed; a size of 1 stands for all positions.
        likelihood: whose parameters the bias holds.
        batches: x [B, *input_shape] each, NaN where a value is missing.

    Raises:
        ValueError: values outside the likelihood's support, or no examples.
        NotImplementedError: the likelihood does not say which parameters have a given mean.
    """
    count, total, observed = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        likelihood.check(batch)
        statistics = likelihood.statistics(batch.to(bias.device))
        missing = statistics.isnan()
        total = total + statistics.masked_fill(missing, 0.0).cpu().sum(0, dtype=torch.float64)
        observed = observed + (~missing).cpu().sum(0)
        count += len(batch)
    if not count:
        raise ValueError("there are no examples in x, whose mean was to be taken")
    for dimension, size in enumerate(bias.shape[1:]):
        if size == 1:
            total, observed = total.sum(dimension + 1, keepdim=True), observed.sum(dimension + 1, keepdim=True)
    mean = (total / observed).to(bias.device, reference.compute_dtype(bias.dtype))
    parameters = likelihood.parameters_of_mean(mean).to(bias.dtype)
    start = torch.where(parameters.isnan(), bias, parameters)
    if not (total.isfinite().all() and start.isfinite().all()):
        raise ValueError("the mean of x is not finite; remove the examples that hold infinity first")
    return start
