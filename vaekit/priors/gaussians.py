"""What priors made of Gaussians share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.ops import philox, reference


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, exp(logvar)) of each element, in nats; float64 for float64, otherwise float32."""
    dtype = reference.compute_dtype(z.dtype)
    z, mu, logvar = z.to(dtype), mu.to(dtype), logvar.to(dtype)
    standardized = (z - mu) * torch.exp(-0.5 * logvar)
    return -0.5 * (standardized * standardized + logvar + math.log(2.0 * math.pi))


def choose(logits: Tensor, count: int, key: Tensor, row_start: int = 0) -> Tensor:
    """Draws row_start, row_start + 1, ... of a component with the probabilities softmax(logits): int64 [count]."""
    dtype = reference.compute_dtype(logits.dtype)
    below = logits.detach().to(dtype).softmax(0).cumsum(0)
    u = philox.uniform(key, (count,), dtype, row_start) * below[-1]  # the last cumulative sum can round to just below 1
    return torch.searchsorted(below, u, right=True).clamp(max=len(logits) - 1)
