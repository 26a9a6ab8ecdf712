"""The Gaussian posterior with a full covariance.

D. P. Kingma, M. Welling, "An Introduction to Variational Autoencoders", 2019, arXiv:1906.02691, section 2.5.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_sizes
from vaekit.divergences import exact
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.ops.reparameterize_kl import reparameterize_kl
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.family import GaussianFamily, registry
from vaekit.priors.diagonal_gaussian import LearnedGaussian
from vaekit.priors.standard_normal import StandardNormal


class FullGaussian(Posterior):
    """N(mu, L L^T), L lower triangular with the diagonal exp(logvar / 2).

    Latents with positions, [B, D, *positions], have a covariance among the D channels at each position; positions are
    independent of each other, given x. Half precision computes in float32.

    Args:
        mu: float [B, D, *positions], the means.
        logvar: the same shape, twice the logarithms of L's diagonal; not clamped.
        lower: float [B, D (D - 1) / 2, *positions], what L has below its diagonal, row by row: L_10, L_20, L_21, L_30, ...

    Raises:
        ValueError: shapes that do not fit each other, or without a latent dimension.

    Example:
        >>> q = FullGaussian(torch.zeros(4, 2), torch.zeros(4, 2), torch.ones(4, 1))
        >>> q.scale_tril[0] @ q.scale_tril[0].T
        tensor([[1., 1.],
                [1., 2.]])
        >>> z, kl = q.rsample_kl(StandardNormal())
        >>> z.shape, kl
        (torch.Size([4, 2]), tensor([0.5000, 0.5000, 0.5000, 0.5000]))
    """

    def __init__(self, mu: Tensor, logvar: Tensor, lower: Tensor) -> None:
        below = mu.shape[1] * (mu.shape[1] - 1) // 2 if mu.ndim > 1 else 0
        if mu.shape != logvar.shape or mu.ndim < 2 or lower.shape != (*mu.shape[:1], below, *mu.shape[2:]):
            raise ValueError(
                "mu and logvar have to have one shape [batch, D, positions...], and lower [batch, D (D - 1) / 2, positions...], "
                f"got {tuple(mu.shape)}, {tuple(logvar.shape)} and {tuple(lower.shape)}"
            )
        self.mean = self.mu = mu
        self.logvar, self.lower = logvar, lower

    @property
    def scale_tril(self) -> Tensor:
        """L [B, *positions, D, D]; float64 for float64, otherwise float32."""
        _, logvar, _ = self._wide()
        return self._strictly_lower() + torch.exp(0.5 * logvar).movedim(1, -1).diag_embed()

    def _rsample(self, draw: Draw) -> Tensor:
        return self._draw_and_kl(draw, None)[0]

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        z, eps, _ = self._draw_and_kl(draw, None)
        # From the noise itself: L^-1 (z - mu) has lost it where L is far below |mu|.
        if not stop_parameters:
            return z, self._log_density(eps, self.logvar)
        moved = (z - z.detach()).to(eps.dtype)  # value 0; carries the gradient through z
        return z, self._log_density(eps + self._standardized(moved, self.scale_tril.detach()), self.logvar.detach())

    def log_prob(self, z: Tensor) -> Tensor:
        mu, _, _ = self._wide()
        return self._log_density(self._standardized(z - mu, self.scale_tril), self.logvar)

    def _wide(self) -> tuple[Tensor, Tensor, Tensor]:
        """mu, logvar, lower in the dtype in which they are computed with."""
        dtype = reference.compute_dtype(self.mu.dtype)
        return self.mu.to(dtype), self.logvar.to(dtype), self.lower.to(dtype)

    def _below_diagonal(self) -> tuple[Tensor, Tensor]:
        """The rows and columns of `lower`."""
        rows, columns = torch.tril_indices(self.mu.shape[1], self.mu.shape[1], -1, device=self.mu.device)
        return rows, columns

    def _sum_of_squares_below(self, precision: Tensor | None) -> Tensor:
        """sum_{i > j} L_ij^2 precision_i, [B], with precision [D, *positions] or None for 1."""
        _, _, lower = self._wide()
        squares = lower * lower
        if precision is not None:
            rows, _ = self._below_diagonal()
            squares = squares * precision[rows]
        return reference.sum_event(squares, squares.ndim - 1)

    def _strictly_lower(self) -> Tensor:
        """L [B, *positions, D, D] without its diagonal."""
        mu, _, lower = self._wide()
        size = mu.shape[1]
        matrix = mu.new_zeros(mu.shape[0], *mu.shape[2:], size, size)
        rows, columns = self._below_diagonal()
        matrix[..., rows, columns] = lower.movedim(1, -1)
        return matrix

    def _draw_and_kl(self, draw: Draw, prior: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """z, the noise that made it, and the divergence of N(mu, diag(exp(logvar)))."""
        mu, logvar, _ = self._wide()
        eps = draw.noise(mu)
        z, kl = reparameterize_kl(mu, logvar, eps=eps, num_samples=draw.num_samples, prior=prior, event_dims=mu.ndim - 1)
        with torch.autocast(mu.device.type, enabled=False):
            mixed = self._strictly_lower() @ self._as_columns(eps)
        return (z + self._from_columns(mixed, z.shape)).to(self.mu.dtype), eps, kl

    def _standardized(self, shift: Tensor, scale_tril: Tensor) -> Tensor:
        """L^-1 of vectors [..., B, D, *positions]."""
        with torch.autocast(shift.device.type, enabled=False):
            columns = torch.linalg.solve_triangular(scale_tril, self._as_columns(shift), upper=False)
        return self._from_columns(columns, shift.shape)

    def _as_columns(self, vectors: Tensor) -> Tensor:
        """[..., B, D, *positions] -> [B, *positions, D, N]: all vectors that one L applies to."""
        count = vectors.numel() // max(self.mu.numel(), 1)
        return vectors.reshape(count, *self.mu.shape).movedim((0, 2), (-1, -2))

    def _from_columns(self, columns: Tensor, shape: Sequence[int]) -> Tensor:
        return columns.movedim((-1, -2), (0, 2)).reshape(tuple(shape))

    def _log_density(self, standardized: Tensor, logvar: Tensor) -> Tensor:
        """log q in nats, [..., B], where L^-1 (z - mu) is [..., B, D, *positions]."""
        elements = -0.5 * (standardized * standardized + logvar.to(standardized.dtype) + math.log(2.0 * math.pi))
        return reference.sum_event(elements, self.mu.ndim - 1)


# The divergence is that of N(mu, diag(exp(logvar))), and sum_{i > j} L_ij^2 / 2 over the prior's variance of z_i.


@exact(FullGaussian, StandardNormal)
def _(posterior: FullGaussian, prior: StandardNormal, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    z, _, kl = posterior._draw_and_kl(draw, None)
    return z, kl + 0.5 * posterior._sum_of_squares_below(None)


@exact(FullGaussian, LearnedGaussian)
def _(posterior: FullGaussian, prior: LearnedGaussian, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    dtype = reference.compute_dtype(posterior.mu.dtype)
    logvar = prior.logvar.to(dtype)
    z, _, kl = posterior._draw_and_kl(draw, (prior.mu.to(dtype), logvar))
    return z, kl + 0.5 * posterior._sum_of_squares_below(torch.exp(-logvar))


@registry.register("full_gaussian")
class FullGaussianFamily(GaussianFamily):
    """N(mu, L L^T) with a lower triangular L: latent dimensions that may depend on each other, given x.

    The true posterior of latents that explain the same thing is correlated: what one takes, the other need not. A diagonal
    Gaussian can only shrink there, and the bound loses what it does not cover.

        z = mu + L eps,  L_ii = exp(logvar_i / 2),  eps ~ N(0, I)
        log q(z | x) = -1/2 sum_i (eps_i^2 + logvar_i + log 2 pi)

    with L_ij for i > j straight from the encoder (section 2.5.1 of the paper, algorithm 2). A new encoder starts at L_ij = 0, the
    diagonal Gaussian, whose draws it has from the same key.

    When to use it: for few latents, up to some dozens, whose posteriors matter: tight bounds, uncertainty that is looked at.
    Mostly the gain is a fraction of a nat, because training turns the latent space until diagonal posteriors fit.
    Cost: the encoder gives D (D - 1) / 2 numbers more, a draw takes a product with L, D^2. The divergence from a
    `standard_normal` and a `diagonal_gaussian` prior is exact: the diagonal Gaussian's, and half the sum of L_ij^2 over the
    prior's variances; from others it is log q(z | x) - log p(z) of the draw. Objectives that take the divergence apart by
    dimension (`free_bits`, `beta_tc`, `dip_vae` of kind "ii") refuse it.

    Latents that are kept in space, (D, *positions), have a covariance among the D channels at each position, and positions that
    are independent of each other, given x.

    D. P. Kingma, M. Welling, "An Introduction to Variational Autoencoders", 2019, arXiv:1906.02691, section 2.5.1.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.
        logvar_bound, initial_logvar: of L's diagonal, as for `diagonal_gaussian`.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=3, posterior="full_gaussian")
        >>> vae.encode(torch.rand(5, 4)).scale_tril.shape
        torch.Size([5, 3, 3])
    """

    def __init__(
        self, latent_shape: Sequence[int], logvar_bound: float | None = None, initial_logvar: float | None = None
    ) -> None:
        size, *_ = checked_sizes("latent_shape", latent_shape)
        super().__init__(latent_shape, logvar_bound, initial_logvar, extra=size * (size - 1) // 2)

    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> FullGaussian:
        return FullGaussian(mu, logvar, extra)

    def start_extra(self, weight: Tensor, bias: Tensor) -> None:
        weight.zero_()
        bias.zero_()
