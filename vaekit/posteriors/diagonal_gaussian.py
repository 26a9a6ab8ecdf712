"""The diagonal Gaussian posterior.

D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendices B and C.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.divergences import exact
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.ops.operands import halves
from vaekit.ops.reparameterize_kl import reparameterize_kl
from vaekit.posteriors.base import Posterior
from vaekit.priors.diagonal_gaussian import LearnedGaussian
from vaekit.priors.gaussians import log_normal
from vaekit.priors.standard_normal import StandardNormal


class DiagonalGaussian(Posterior):
    """N(mu, diag(exp(logvar))).

    Args:
        mu: float [B, *S], the means.
        logvar: float [B, *S], the log variances; not clamped. Its exponential overflows float32 above 88.

    Raises:
        ValueError: mu and logvar of different shapes, or without a latent dimension.

    Example:
        >>> from vaekit.priors import StandardNormal
        >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> z, kl = q.rsample_kl(StandardNormal())
        >>> z.shape, kl
        (torch.Size([4, 2]), tensor([0., 0., 0., 0.]))
    """

    mu: Tensor
    logvar: Tensor
    # Both, where a layer gave them in one tensor; mu and logvar then are views of it, made when somebody asks for them.
    _packed: Tensor | None

    def __init__(self, mu: Tensor, logvar: Tensor) -> None:
        if mu.shape != logvar.shape or mu.ndim < 2:
            raise ValueError(
                "mu and logvar have to have one shape [batch, latent dimensions...], "
                f"got {tuple(mu.shape)} and {tuple(logvar.shape)}"
            )
        self.mean = self.mu = mu
        self.logvar = logvar
        self._packed = None

    @classmethod
    def from_packed(cls, packed: Tensor) -> DiagonalGaussian:
        """The one whose means and log variances are the halves of dimension 1 of a layer's output, [B, 2 D, *positions].

        The same as of `packed.chunk(2, 1)`; but where a draw and its divergence are all that is asked of it, the gradient is
        written as that of one tensor, which is faster.

        Raises:
            ValueError: a dimension 1 that is missing or has no halves.

        Example:
            >>> DiagonalGaussian.from_packed(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).logvar
            tensor([[3., 4.]])
        """
        if packed.ndim < 2 or packed.shape[1] % 2 != 0:
            raise ValueError(f"packed has to have the shape [batch, 2 D, ...], got {tuple(packed.shape)}")
        posterior = cls.__new__(cls)
        posterior._packed = packed
        return posterior

    def __getattr__(self, name: str) -> Tensor:
        if name not in ("mu", "logvar", "mean") or self._packed is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        self.mu, self.logvar = halves(self._packed, self._packed.ndim - 1)
        self.mean = self.mu
        return self.logvar if name == "logvar" else self.mu

    @property
    def device(self) -> torch.device:
        """Where draws are made."""
        return self._parameters.device

    @property
    def _parameters(self) -> Tensor:
        """What has the dtype, the device and the number of dimensions of mu and logvar."""
        return self.mu if self._packed is None else self._packed

    @property
    def variances(self) -> Tensor:
        """[B, *S]; float64 for float64, otherwise float32."""
        return torch.exp(self.logvar.to(reference.compute_dtype(self.logvar.dtype)))

    def _rsample(self, draw: Draw) -> Tensor:
        return _draw_and_kl(self, draw, None, "event")[0]

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        eps, event_dims = draw.noise(self.mu), self.mu.ndim - 1
        z, _ = reparameterize_kl(self.mu, self.logvar, eps=eps, num_samples=draw.num_samples, event_dims=event_dims)
        # From the noise itself: (z - mu) / sigma has lost it where sigma is far below |mu|.
        standardized, logvar = eps, self.logvar.to(eps.dtype)
        if stop_parameters:
            logvar = logvar.detach()
            moved = (z - z.detach()).to(eps.dtype)  # value 0; carries the gradient through z
            largest = math.log(torch.finfo(eps.dtype).max) - 1.0  # 0 times infinity would be NaN
            standardized = eps + moved * torch.exp((-0.5 * logvar).clamp(max=largest))
        elements = -0.5 * (standardized * standardized + logvar + math.log(2.0 * math.pi))
        return z, reference.sum_event(elements, event_dims)

    def log_prob(self, z: Tensor) -> Tensor:
        """As `Posterior.log_prob`; float64 for float64, otherwise float32."""
        return log_normal(z, self.mu, self.logvar).flatten(1 - self.mu.ndim).sum(-1)


@exact(DiagonalGaussian, StandardNormal, by_dimension=True)
def _(posterior: DiagonalGaussian, prior: StandardNormal, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    return _draw_and_kl(posterior, draw, None, reduce)


@exact(DiagonalGaussian, LearnedGaussian, by_dimension=True)
def _(posterior: DiagonalGaussian, prior: LearnedGaussian, draw: Draw, reduce: str) -> tuple[Tensor, Tensor]:
    own = posterior._parameters.dtype
    dtype = torch.promote_types(own, prior.mu.dtype)  # under autocast the prior is the wider one
    wide = posterior if own == dtype else DiagonalGaussian(posterior.mu.to(dtype), posterior.logvar.to(dtype))
    z, kl = _draw_and_kl(wide, draw, (prior.mu.to(dtype), prior.logvar.to(dtype)), reduce)
    return z.to(own), kl


def _draw_and_kl(
    posterior: DiagonalGaussian, draw: Draw, prior: tuple[Tensor, Tensor] | None, reduce: str
) -> tuple[Tensor, Tensor]:
    """z and the divergence, in one operator."""
    packed = posterior._packed
    return reparameterize_kl(
        *((posterior.mu, posterior.logvar) if packed is None else ()),
        packed=packed,
        key=draw.key,
        num_samples=draw.num_samples,
        row_start=draw.row_start,
        prior=prior,
        reduce=reduce,
        event_dims=posterior._parameters.ndim - 1,
    )
