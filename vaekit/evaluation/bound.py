"""The importance-weighted bound of log p(x).

Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519, equation 8; the
effective sample size: A. Kong, "A note on importance sampling using standardized weights", 1992.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.data import Batch
from vaekit.evaluation.terms import evaluation_key, on_device
from vaekit.inputs import checked_batches
from vaekit.losses.draws import nll_of_draws
from vaekit.ops import philox
from vaekit.vae import VAE, evaluation_mode


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
            log_sum, effective = _log_weight_sum(vae, batch, key, row_start, num_samples, at_once)
            bounds.append(log_sum - math.log(num_samples))
            sizes.append(effective)
            row_start += len(batch.x)
    per_example, effective = torch.cat(bounds), torch.cat(sizes)
    # The variance of the log of a mean of K weights is their sample variance over K and over their mean's square.
    variances = (num_samples / effective - 1.0) / (num_samples - 1) if num_samples > 1 else torch.full_like(effective, math.nan)
    error = float(variances.sum().sqrt()) / len(per_example)
    return Bound(float(per_example.mean()), error, float(effective.mean()), per_example, effective)


def _log_weight_sum(vae: VAE, batch: Batch, key: Tensor, row_start: int, num_samples: int, at_once: int) -> tuple[Tensor, Tensor]:
    """log of the sum of the weights over all samples, and their effective sample size: float64 [B] each, on the CPU."""
    posterior = vae.encode(batch.x, batch.condition)
    largest = torch.full((len(batch.x),), -math.inf, dtype=torch.float64)  # of log w so far; sums are of w / exp(largest)
    total, squares = torch.zeros_like(largest), torch.zeros_like(largest)
    chunk = max(1, at_once // max(1, len(batch.x)))
    for first in range(0, num_samples, chunk):
        count = min(chunk, num_samples - first)
        # Sample k is the stream with offset + k 2^40: so the samples do not depend on the chunks.
        chunk_key = key + torch.tensor([0, first], device=key.device) * philox.SAMPLE_STRIDE
        z, log_ratio = posterior.rsample_log_ratio(vae.prior, key=chunk_key, num_samples=count, row_start=row_start)
        log_weights = -(nll_of_draws(vae, batch, z).cpu().double() + log_ratio.cpu().double())  # MPS has no float64
        before, largest = largest, torch.maximum(largest, log_weights.amax(0))
        origin = torch.where(largest.isfinite(), largest, 0.0)
        kept, weights = torch.exp(before - origin), torch.exp(log_weights - origin)
        total = total * kept + weights.sum(0)
        squares = squares * kept.square() + weights.square().sum(0)
    return total.log() + origin, (total.square() / squares).clamp(1.0, num_samples)
