"""The importance-weighted bound of log p(x).

Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519, equation 8.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.evaluation.terms import evaluation_key, on_device
from vaekit.evaluation.weighting import WeightSums, weighted_draws
from vaekit.inputs import checked_batches
from vaekit.modes import evaluation_mode
from vaekit.vae import VAE


class Bound(NamedTuple):
    """log p(x) of a dataset, from below, in nats.

    Attributes:
        log_likelihood: the mean over the examples. Its expectation rises with the number of samples, up to mean log p(x).
        standard_error: of that mean, from the finite number of samples alone (not from that of the examples); the delta
            method's, so trust it only where the effective sample size is well above 1. NaN with a single sample, of which
            nothing varies.
        effective_sample_size: the mean over the examples; between 1 and the number of samples.
        per_example: float64 [N], on the CPU.
        effective_sample_sizes: float64 [N], on the CPU.
    """

    log_likelihood: float
    standard_error: float
    effective_sample_size: float
    per_example: Tensor
    effective_sample_sizes: Tensor


@torch.no_grad()
def importance_weighted_bound(
    vae: VAE, data: Any, *, num_samples: int = 500, batch_size: int = 100, at_once: int = 5000, seed: int = 0
) -> Bound:
    """log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x) for each example, with K draws z_k from q(z | x).

    Of a conditional model, all of it given the condition.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes.
        num_samples: K, how many are drawn for each example.
        batch_size: examples that are encoded at a time.
        at_once: latents that are decoded at a time, which bounds the memory. The result depends on neither.
        seed: fixes the noise.

    Returns:
        a `Bound`.

    Raises:
        ValueError: an empty dataset, data that does not fit the model, sizes below 1.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> bound = importance_weighted_bound(vae, torch.rand(10, 4), num_samples=50)
        >>> bound.per_example.shape
        torch.Size([10])
    """
    for name, value in (("num_samples", num_samples), ("at_once", at_once)):
        checked_size(name, value)
    batches = checked_batches(vae, data, batch_size)
    key, row_start = evaluation_key(seed).to(next(vae.parameters()).device), 0
    bounds, sizes = [], []
    with evaluation_mode(vae):
        for batch in on_device(vae, batches):
            sums = WeightSums(len(batch.x))
            for draws in weighted_draws(vae, batch, key, row_start, num_samples, at_once):
                sums.add(draws.log_weights)
            bounds.append(sums.log_sum - math.log(num_samples))
            sizes.append(sums.effective_sample_size)
            row_start += len(batch.x)
    per_example, effective = torch.cat(bounds), torch.cat(sizes)
    # The variance of the log of a mean of K weights is their sample variance over K and over their mean's square.
    variances = (num_samples / effective - 1.0) / (num_samples - 1) if num_samples > 1 else torch.full_like(effective, math.nan)
    error = float(variances.sum().sqrt()) / len(per_example)
    return Bound(float(per_example.mean()), error, float(effective.mean()), per_example, effective)
