"""A diagonal Gaussian that is never as wide as the prior: delta-VAE.

A. Razavi, A. van den Oord, B. Poole, O. Vinyals, "Preventing Posterior Collapse with delta-VAEs", ICLR 2019, arXiv:1901.03416.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_number
from vaekit.posteriors.diagonal_gaussian import DiagonalGaussian
from vaekit.posteriors.family import GaussianFamily, registry


@registry.register("committed_gaussian")
class CommittedGaussianFamily(GaussianFamily):
    """N(mu, diag(exp(logvar))) whose divergence from N(0, I) is at least delta nats, whatever the encoder gives: delta-VAE.

    A decoder that could do without the code, an autoregressive one above all, lets the divergence fall to 0, and the code says
    nothing. Here that cannot be: each variance stays below the one at which

        1/2 (exp(logvar) - 1 - logvar) = delta / L,    L latents,

    so that KL >= delta; the rate is there in any case, and the decoder may as well use it.

        logvar = bound(delta / L) - log(1 + exp(g(x)))

    The paper's own models have sequences of latents, whose prior's correlation over time commits them to a rate; for latents
    without an order, this is its case of a posterior that cannot have the prior's variance.

    Use it with the prior "standard_normal" and the loss "elbo" where posteriors collapse; a prior that learns can follow it and
    take the rate away. `free_bits` asks for the same by the objective, and leaves dimensions without a gradient. A delta far
    above what x needs is nats that are paid and not used.
    It costs what "diagonal_gaussian" costs, with its exact divergences.

    Razavi et al., "Preventing Posterior Collapse with delta-VAEs", 2019, arXiv:1901.03416, section 2.

    Args:
        latent_shape: the shape of one example's latents; the encoder fills it in.
        rate: delta, in nats of all latents of an example together, above 0.

    Attributes:
        highest_logvar: what every logvar stays below.

    Raises:
        TypeError, ValueError: a rate that is not a number above 0.

    Example:
        >>> import vaekit
        >>> posterior = {"name": "committed_gaussian", "rate": 3.0}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior=posterior)
        >>> bool((vae(torch.rand(100, 4)).kl >= 3.0).all())
        True
    """

    any_positions = True

    def __init__(self, latent_shape: Sequence[int], rate: float = 1.0) -> None:
        super().__init__(latent_shape)
        self.rate = checked_number("rate", rate, above=0.0)
        self.highest_logvar = _logvar_at(self.rate / math.prod(self.latent_shape))

    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(mu, self.highest_logvar - torch.nn.functional.softplus(logvar))


def _logvar_at(nats: float) -> float:
    """The negative root of 1/2 (exp(logvar) - 1 - logvar) = nats, by halving.

    Example:
        >>> round(_logvar_at(0.5), 6)
        -1.841406
    """
    low, high = -2.0 * nats - 2.0, 0.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if 0.5 * (math.expm1(middle) - middle) > nats else (low, middle)
    return low
