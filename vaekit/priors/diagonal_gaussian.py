"""A Gaussian prior whose mean and variances are learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.ops import philox, reference
from vaekit.priors.base import Prior, registry
from vaekit.priors.gaussians import log_normal


@registry.register("diagonal_gaussian")
class LearnedGaussian(Prior):
    """N(mu, diag(exp(logvar))) with mu and logvar learned: the prior moves to where the codes are, instead of the codes to it.

    The divergence from it is exact, and costs what that from N(0, I) costs. Since the decoder's first layer could shift and scale
    its input as well, the bound gains little. Use it where that layer cannot, or to start a mixture or a flow from. It begins as
    N(0, I), the prior of Kingma and Welling, 2013, arXiv:1312.6114.

    Args:
        latent_shape: the shape [*S] of one example's latents; `vaekit.create_vae` fills it in.

    Example:
        >>> prior = LearnedGaussian((2,))
        >>> round(float(prior.log_prob(torch.zeros(1, 2)).detach()), 4)  # -log(2 pi)
        -1.8379
    """

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        self.mu = nn.Parameter(torch.zeros(self.latent_shape))
        self.logvar = nn.Parameter(torch.zeros(self.latent_shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, *S] -> [B]; float64 for float64, otherwise float32."""
        return log_normal(z, self.mu, self.logvar).flatten(1).sum(-1)

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        eps = philox.normal(key, shape, reference.compute_dtype(dtype), row_start * math.prod(shape[1:]))
        return self.from_noise(eps).to(dtype)

    def from_noise(self, noise: Tensor) -> Tensor:
        return self.mu + torch.exp(0.5 * self.logvar) * noise
