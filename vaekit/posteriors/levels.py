"""The posterior over several levels of latents, each given those above it.

C. K. Sønderby et al., "Ladder Variational Autoencoders", NeurIPS 2016, arXiv:1602.02282; D. P. Kingma et al., "Improving
Variational Inference with Inverse Autoregressive Flow", 2016, arXiv:1606.04934, section 4, where inference runs top-down too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vaekit.divergences import exact
from vaekit.ops.draw import Draw
from vaekit.ops.reparameterize_kl import reparameterize_kl
from vaekit.posteriors.base import Posterior
from vaekit.priors.base import Prior
from vaekit.priors.top_down import TopDownPrior, log_density
from vaekit.top_down import Gaussian, TopDown


class _Level(NamedTuple):
    """Of one level: its noise, its divergence from the prior, [N] or [N, *S_l], its conditional, and that of the prior."""

    eps: Tensor
    kl: Tensor
    posterior: Gaussian
    prior: Gaussian | None


class LevelsPosterior(Posterior):
    """q(z_1 | x) prod q(z_l | z_<l, x), all levels side by side in one z.

    The noise is that of a `DiagonalGaussian` over all of z under the same key; each level has its part of it.

    `rsample_kl` from a "top_down" prior gives sum_l KL(q(z_l | z_<l, x) || p(z_l | z_<l)): each exact, given the draws above. Its
    mean over draws is the divergence; a single one is an unbiased estimate of it, which varies less than log q - log p.

    Args:
        path: the networks of the conditionals.
        numbers: float [B, F], what the encoder says of each example.

    Example:
        >>> from vaekit.posteriors import LadderFamily
        >>> q = LadderFamily((3,), levels=(1, 2))(torch.zeros(4, 6))
        >>> z, log_q = q.rsample_log_prob()
        >>> z.shape, torch.allclose(q.log_prob(z), log_q, atol=1e-5)
        (torch.Size([4, 3]), True)
    """

    def __init__(self, path: TopDown, numbers: Tensor) -> None:
        self.path, self.numbers = path, numbers

    @property
    def mean(self) -> Tensor:  # type: ignore[override]  # computed where it is asked for: a pass down the path
        """Each level's conditional mean, given the means above: not the expectation of z below the first level."""

        def pick(level: int, h: Tensor) -> Tensor:
            return self.path.posterior(level, h, self.path.prior(level, h), self.numbers).mu

        return self.path.packed(self.path.walk(self.numbers, pick)[1])

    @property
    def device(self) -> torch.device:
        return self.numbers.device

    def split_levels(self, z: Tensor) -> tuple[Tensor, ...]:
        return self.path.split(z)

    def _rsample(self, draw: Draw) -> Tensor:
        return self.passed(draw)[0]

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        if stop_parameters and torch.is_grad_enabled():
            return super()._rsample_log_prob(draw, stop_parameters)
        z, levels = self.passed(draw)
        return z, _log_density(levels).view(z.shape[: 1 + len(draw.shape)])

    def _rsample_log_ratio(self, prior: Prior, draw: Draw) -> tuple[Tensor, Tensor]:
        if not isinstance(prior, TopDownPrior):
            return super()._rsample_log_ratio(prior, draw)
        z, levels = self.passed(draw, prior)
        parts = zip(self.path.split(z.flatten(0, len(draw.shape))), levels, strict=True)
        log_prior = torch.stack([log_density(part, level.prior) for part, level in parts]).sum(0)
        return z, (_log_density(levels) - log_prior).view(z.shape[: 1 + len(draw.shape)])

    def log_prob(self, z: Tensor) -> Tensor:
        """As `Posterior.log_prob`; float64 for float64, otherwise float32."""
        shape = self.path.latent_shape
        leading = torch.broadcast_shapes(z.shape[: z.ndim - len(shape)], self.numbers.shape[:1])
        given = self.path.split(z.expand(*leading, *shape).reshape(math.prod(leading), *shape))
        numbers, densities = self.numbers.expand(*leading, -1).reshape(math.prod(leading), -1), []

        def pick(level: int, h: Tensor) -> Tensor:
            posterior = self.path.posterior(level, h, self.path.prior(level, h), numbers)
            densities.append(log_density(given[level], posterior))
            return given[level]

        self.path.walk(numbers, pick)
        return torch.stack(densities).sum(0).view(leading)

    def passed(self, draw: Draw, prior: TopDownPrior | None = None, reduce: str = "event") -> tuple[Tensor, list[_Level]]:
        """One pass down: z [*draw.shape, B, *S], and of each level what it needs for divergence and density.

        Args:
            draw: the noise; K draws of B examples are N = K B rows.
            prior: what the divergence is from; the path's own conditionals, N(0, I) at the first level, without one.
            reduce: of the divergence, "event" for [N], "none" for [N, *S_l].

        Raises:
            ValueError: a prior over another path.
        """
        if prior is not None and prior.path is not self.path:
            raise ValueError("this top_down prior is one over another encoder's levels")
        numbers = draw.repeated(self.numbers).flatten(0, len(draw.shape))
        like = self.numbers.new_zeros(()).expand(self.numbers.shape[0], *self.path.latent_shape)
        noise = self.path.split(draw.noise(like).flatten(0, len(draw.shape)))
        levels: list[_Level] = []

        def pick(level: int, h: Tensor) -> Tensor:
            own = self.path.prior(level, h)
            posterior = self.path.posterior(level, h, own, numbers)
            given = own if prior is None or prior.temperature == 1.0 else prior.conditional(level, h)
            z, kl = reparameterize_kl(*posterior, eps=noise[level], prior=given, reduce=reduce, event_dims=posterior.mu.ndim - 1)
            levels.append(_Level(noise[level], kl, posterior, given))
            return z

        z = self.path.packed(self.path.walk(numbers, pick)[1])
        return z.unflatten(0, (*draw.shape, -1)) if draw.shape else z, levels


def _log_density(levels: list[_Level]) -> Tensor:
    """log q of the draw, [N], from the noise itself."""
    densities = []
    for level in levels:
        eps, logvar = level.eps, level.posterior.logvar
        densities.append((-0.5 * (eps * eps + logvar + math.log(2.0 * math.pi))).flatten(1).sum(1))
    return torch.stack(densities).sum(0)


@exact(LevelsPosterior, TopDownPrior, by_dimension=True)
def _(posterior: LevelsPosterior, prior: TopDownPrior, draw: Draw, reduce: str) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    z, levels = posterior.passed(draw, prior, reduce)
    if reduce == "none":
        elements = posterior.path.packed([level.kl for level in levels])
        return z, elements.unflatten(0, (*draw.shape, -1)) if draw.shape else elements
    first, *below = ((level.kl.unflatten(0, (*draw.shape, -1)) if draw.shape else level.kl) for level in levels)
    return z, (first[0] if draw.shape else first, *below)  # nothing is drawn above the first
