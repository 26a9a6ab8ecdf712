"""The posterior that is a single point: the code of a plain autoencoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.latents import LatentKind
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.family import Family, registry


class Point(Posterior):
    """All of q(z | x) in one point, which every draw is.

    A point has no density, and its divergence from a prior with one is infinite. What `rsample_kl` gives is -log p(z), the part
    of it that depends on z: log q(z | x) counts as the logarithm of a probability, 0 at the point and -inf elsewhere.

    Args:
        mean: float [B, *S], the points.

    Raises:
        ValueError: points without a latent dimension.

    Example:
        >>> from vaekit import StandardNormal
        >>> Point(torch.zeros(3, 2)).rsample_kl(StandardNormal(), num_samples=4)[1][0]  # log 2 pi
        tensor([1.8379, 1.8379, 1.8379])
    """

    def __init__(self, mean: Tensor) -> None:
        if mean.ndim < 2:
            raise ValueError(f"mean has to have the shape [batch, latent dimensions...], got {tuple(mean.shape)}")
        self.mean = mean

    def _rsample(self, draw: Draw) -> Tensor:
        return draw.repeated(self.mean)

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        z = self._rsample(draw)
        return z, z.new_zeros(z.shape[: len(draw.shape) + 1], dtype=reference.compute_dtype(z.dtype))

    def log_prob(self, z: Tensor) -> Tensor:
        dtype = reference.compute_dtype(z.dtype)
        is_point = (z == self.mean).flatten(1 - self.mean.ndim).all(-1)
        return torch.where(is_point, 0.0, -math.inf).to(dtype)


@registry.register("point")
class PointFamily(Family):
    """One point for each x, as a plain autoencoder has it: nothing is drawn, and there is no divergence.

        z = f(x)

    Use it with the loss `autoencoder`, for plain and regularised autoencoders, or with `wae`, for the Wasserstein autoencoder
    with a deterministic encoder. Codes then need not fill any prior: `vaekit.fit_prior(vae, train, "gaussian_mixture")` makes a
    sampler afterwards. There is no bound of log p(x), so that `vae.score` and `vae.impute` refuse such a model, and so do
    objectives that are bounds; `kl` is -log p(z), what the code costs under the prior's density, and no divergence.
    It costs nothing: half the numbers of a diagonal Gaussian from the encoder's last layer, and no noise.

    P. Ghosh, M. S. M. Sajjadi, A. Vergari, M. Black, B. Scholkopf, "From Variational to Deterministic Autoencoders", ICLR 2020,
    arXiv:1903.12436, section 3.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior="point", loss="autoencoder")
        >>> q = vae.encode(torch.rand(5, 4))
        >>> torch.equal(q.rsample(), q.mean)
        True
    """

    latents = LatentKind.POINTS
    any_positions = True

    def forward(self, numbers: Tensor) -> Point:
        return Point(numbers)
