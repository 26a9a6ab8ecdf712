"""A normalising flow as prior, by zuko.

X. Chen et al., "Variational Lossy Autoencoder", ICLR 2017, arXiv:1611.02731, section 3.2, of autoregressive flows as priors; the
flows: G. Papamakarios, T. Pavlakou, I. Murray, "Masked Autoregressive Flow", 2017, arXiv:1705.07057; C. Durkan et al., "Neural
Spline Flows", 2019, arXiv:1906.04032.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_sizes
from vaekit.flows import invertible_network
from vaekit.ops import philox, reference
from vaekit.priors.base import Prior, registry


@registry.register("flow")
class Flow(Prior):
    """What an invertible network makes of N(0, I): a prior of almost any form, with an exact density.

    log p(z) = log N(f(z); 0, I) + log |det df/dz|. Use it where codes form shapes that no few Gaussians do. There is no closed
    form of the divergence: `kl` is log q(z | x) - log p(z) of the draw, an estimate that may be negative for an example. The
    density costs one pass through `transforms` networks, a draw as many passes as there are latent dimensions. It needs the extra
    `flows`.

    Chen et al., "Variational Lossy Autoencoder", 2017, arXiv:1611.02731, section 3.2.

    Args:
        latent_shape: the shape [*S] of one example's latents, all of which are one vector to the flow; `vaekit.create_vae` fills
            it in.
        kind: "nsf", rational-quadratic splines on [-5, 5], or "maf", affine maps; both autoregressive.
        transforms: how many such maps, one after the other; 0 leaves N(0, I).
        hidden: the sizes of the hidden layers of each map's network.

    Raises:
        ModuleNotFoundError: zuko is not installed.
        ValueError: another kind; transforms that is not a whole number of at least 0.

    Example:
        >>> prior = Flow((2,), transforms=2, hidden=(16,))
        >>> prior.log_prob(torch.zeros(5, 2)).shape, prior.sample((7, 2), key=torch.tensor([0, 0]), dtype=torch.float32).shape
        (torch.Size([5]), torch.Size([7, 2]))
    """

    def __init__(
        self, latent_shape: Sequence[int], kind: str = "nsf", transforms: int = 3, hidden: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        features = math.prod(self.latent_shape)
        self.flow = invertible_network(features, kind, transforms, hidden)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, z [B, *S] -> [B]; float64 for float64, otherwise float32."""
        base = z.reshape(z.shape[0], math.prod(z.shape[1:])).to(reference.compute_dtype(z.dtype))
        if self.flow is None:
            return _log_standard_normal(base)
        mapped, log_slope = self.flow(base)
        log_density: Tensor = _log_standard_normal(mapped) + log_slope
        return log_density

    def sample(self, shape: Sequence[int], *, key: Tensor, dtype: torch.dtype, row_start: int = 0) -> Tensor:
        size = math.prod(shape[1:])
        eps = philox.normal(key, shape, reference.compute_dtype(dtype), row_start * size)
        return self.from_noise(eps).to(dtype)

    def from_noise(self, noise: Tensor) -> Tensor:
        z = noise.flatten(1)
        return (z if self.flow is None else self.flow.inverse(z)).reshape(noise.shape)


def _log_standard_normal(z: Tensor) -> Tensor:
    """[B, D] -> [B]."""
    return -0.5 * (z * z + math.log(2.0 * math.pi)).sum(-1)
