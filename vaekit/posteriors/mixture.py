"""A posterior that is a mixture of diagonal Gaussians with given weights.

Y. Shi, N. Siddharth, B. Paige, P. H. S. Torr, "Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative
Models", NeurIPS 2019, arXiv:1911.03393, equation 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vaekit.ops import philox, streams
from vaekit.ops.draw import Draw
from vaekit.posteriors.base import Posterior
from vaekit.priors.gaussians import log_normal


class GaussianMixturePosterior(Posterior):
    """sum_c w_c N(mu_c, diag(exp(logvar_c))) for each example; what is drawn is a draw of one component, chosen by the weights.

    The gradient goes through the draw to the component that was chosen, and not to the weights, which have to be constants: so
    its mean is right. There is no closed form of a divergence: kl is log q(z | x) - log p(z) of the draw.

    Args:
        mu: float [B, C, D], the means of the components.
        logvar: float [B, C, D], their log variances.
        weights: [B, C], at least 0, in any scale; a component with the weight 0 has no part in it.

    Raises:
        ValueError: shapes that do not fit each other.

    Example:
        >>> q = GaussianMixturePosterior(torch.tensor([[[-9.0], [9.0]]]), torch.zeros(1, 2, 1), torch.tensor([[1.0, 3.0]]))
        >>> share = q.rsample(num_samples=1000).gt(0).float().mean()
        >>> q.mean, bool((share - 0.75).abs() < 0.1)
        (tensor([[4.5000]]), True)
    """

    def __init__(self, mu: Tensor, logvar: Tensor, weights: Tensor) -> None:
        if mu.ndim != 3 or mu.shape != logvar.shape or weights.shape != mu.shape[:2]:
            raise ValueError(
                "mu and logvar have to have one shape [batch, components, latent dimensions], and weights [batch, components]; "
                f"got {tuple(mu.shape)}, {tuple(logvar.shape)} and {tuple(weights.shape)}"
            )
        self.mu, self.logvar = mu, logvar
        self.weights = (weights / weights.sum(1, keepdim=True)).detach()
        self.mean = torch.einsum("bc,bcd->bd", self.weights.to(mu.dtype), mu)

    def _rsample(self, draw: Draw) -> Tensor:
        below, (rows, components) = self.weights.double().cumsum(1), self.weights.shape
        key = philox.fold_in(draw.key, streams.Mixture.COMPONENT)
        keys = key if draw.num_samples is None else key + _offsets(draw.num_samples, key.device)
        places = philox.uniform(keys.cpu(), (rows,), torch.float64, draw.row_start).to(below.device)  # [K?, B]
        chosen = (places.unsqueeze(-1) * below[:, -1:] > below).sum(-1).clamp(max=components - 1)
        row = torch.arange(rows, device=chosen.device)
        eps = draw.noise(self.mu[:, 0])
        return self.mu[row, chosen] + torch.exp(0.5 * self.logvar[row, chosen]) * eps.to(self.mu.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        of_each = log_normal(z.unsqueeze(-2), self.mu, self.logvar).sum(-1)  # [..., B, C]
        return (of_each + self.weights.log().to(of_each.dtype)).logsumexp(-1)


def _offsets(count: int, device: torch.device) -> Tensor:
    """What the keys of samples 0, 1, ... lie apart: int64 [K, 2]."""
    samples = torch.arange(count, device=device)
    return torch.stack((0 * samples, samples), 1) * philox.SAMPLE_STRIDE
