"""The standard normal prior N(0, I) (Kingma and Welling 2013, arXiv:1312.6114, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.ops import philox, reference
from vaekit.priors.base import Prior, registry


@registry.register("standard_normal")
class StandardNormal(Prior):
    """N(0, I): no parameters, and an exact divergence from any diagonal Gaussian.

    log p(z) = -1/2 sum_d (z_d^2 + log 2 pi). Use it first. It costs nothing: the divergence comes with the draw, from one fused
    operator. Codes as a whole need not fill it, so that some draws decode to what no example looks like; a learned prior follows
    the codes, and `vaekit.evaluation.fitted_mixture` does after training.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, section 3.

    Example:
        >>> prior = StandardNormal()
        >>> round(float(prior.log_prob(torch.zeros(1, 2))), 4)  # -log(2 pi)
        -1.8379
    """

    is_standard = True
    any_positions = True

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, *S] -> [B]; float64 for float64, otherwise float32."""
        z = z.to(reference.compute_dtype(z.dtype))
        return -0.5 * (z * z + math.log(2.0 * math.pi)).flatten(1).sum(-1)

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        return philox.normal(key, shape, reference.compute_dtype(dtype), row_start * math.prod(shape[1:])).to(dtype)

    def from_noise(self, noise: Tensor) -> Tensor:
        return noise
