"""A mixture of Gaussians as prior.

N. Dilokthanakul et al., "Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders", 2016, arXiv:1611.02648,
have a mixture with more structure; this is its simplest form, the "MoG prior" of J. M. Tomczak, M. Welling, "VAE with a
VampPrior", AISTATS 2018, arXiv:1705.07120, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size, checked_sizes
from vaekit.ops import philox, reference, streams
from vaekit.priors.base import Prior, registry
from vaekit.priors.gaussians import choose, log_normal


@registry.register("gaussian_mixture")
class GaussianMixture(Prior):
    """sum_k w_k N(mu_k, diag(exp(logvar_k))) with K components, all of it learned: codes may lie in clusters.

    log p(z) = logsumexp_k log w_k + log N(z; mu_k, exp(logvar_k)). Use it where the data has groups, or to bring the prior
    closer to the codes that the encoder gives, so that draws from it look like the data. There is no closed form of the
    divergence: `kl` is log q(z | x) - log p(z) of the draw, an estimate that may be negative for an example. A call costs K times
    that of a Gaussian, and [B, K, D] numbers of memory.

    The "MoG prior" of Tomczak and Welling, "VAE with a VampPrior", 2018, arXiv:1705.07120, section 4.

    Args:
        latent_shape: the shape [*S] of one example's latents; `vaekit.create_vae` fills it in.
        components: K.

    At first the weights are equal, the variances 1 and the means drawn from N(0, I): where the codes are at first.

    Example:
        >>> prior = GaussianMixture((2,), components=10)
        >>> prior.log_prob(torch.zeros(5, 2)).shape, prior.sample((7, 2), key=torch.tensor([0, 0]), dtype=torch.float32).shape
        (torch.Size([5]), torch.Size([7, 2]))
    """

    def __init__(self, latent_shape: Sequence[int], components: int = 10) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        shape = (checked_size("components", components), *self.latent_shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mu = nn.Parameter(torch.randn(shape))
        self.logvar = nn.Parameter(torch.zeros(shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, *S] -> [B]; float64 for float64, otherwise float32."""
        by_component = log_normal(z.unsqueeze(1), self.mu, self.logvar).flatten(2).sum(-1)
        return (by_component + self.logits.to(by_component.dtype).log_softmax(0)).logsumexp(1)

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        chosen = choose(self.logits, shape[0], philox.fold_in(key, streams.Sample.COMPONENT), row_start)
        eps = philox.normal(key, shape, reference.compute_dtype(dtype), row_start * math.prod(shape[1:]))
        return (self.mu[chosen] + torch.exp(0.5 * self.logvar[chosen]) * eps).to(dtype)
