"""What every posterior offers: a differentiable draw, its density and its divergence from a prior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from vaekit import autocast, divergences
from vaekit.ops import philox
from vaekit.ops.draw import Draw
from vaekit.ops.operands import checked_count
from vaekit.priors.base import Prior

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DrawOptions(TypedDict, total=False):
    """What the public methods of a posterior take to fix a draw; see `Posterior.rsample`."""

    key: Tensor | None
    generator: torch.Generator | None
    num_samples: int | None
    row_start: int


class Posterior(ABC):
    """q(z | x) for a batch of B inputs, with latents of any shape [*S]. An encoder returns one.

    A posterior of one's own sets `mean` and gives two methods, `_rsample` and `log_prob`. It may give `_rsample_log_prob` as well
    where the density of a draw is more accurate, or costs less, by way of the noise; and the function of an exact divergence from
    a prior is registered by `vaekit.divergences.exact`.

    Attributes:
        mean: [B, *S], what `VAE.reconstruct` decodes.

    Example:
        >>> class Uniform(Posterior):  # on [mean - 1/2, mean + 1/2]
        ...     def __init__(self, mean):
        ...         self.mean = mean
        ...
        ...     def _rsample(self, draw):
        ...         shape = (*draw.shape, *self.mean.shape)
        ...         return self.mean + philox.uniform(draw.key, shape, self.mean.dtype) - 0.5
        ...
        ...     def log_prob(self, z):
        ...         return torch.where(((z - self.mean).abs() <= 0.5).all(-1), 0.0, -math.inf)
        >>> from vaekit import StandardNormal
        >>> z, kl = Uniform(torch.zeros(4, 2)).rsample_kl(StandardNormal(), num_samples=1000)
        >>> z.shape, bool((kl.mean(0) - 1.92).abs().max() < 0.02)  # log 2 pi + 1/12
        (torch.Size([1000, 4, 2]), True)
    """

    mean: Tensor

    @property
    def variances(self) -> Tensor | None:
        """[B, *S], where latent dimensions are independent of each other, given x, and their variances known; else None."""
        return None

    @property
    def device(self) -> torch.device:
        """Where draws are made."""
        return self.mean.device

    def split_levels(self, z: Tensor) -> tuple[Tensor, ...]:
        """The levels of latents that z [..., B, *S] holds side by side, from the one that is drawn first; z alone as a rule."""
        return (z,)

    @abstractmethod
    def _rsample(self, draw: Draw) -> Tensor:
        """A reparameterized draw: [*draw.shape, B, *S]."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats: z [..., B, *S] -> [..., B]."""

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        """`rsample_log_prob`, here by way of `log_prob` at the draw."""
        z = self._rsample(draw)
        if not (stop_parameters and torch.is_grad_enabled()):
            return z, self.log_prob(z)
        at = z.detach().requires_grad_()
        log_density = self.log_prob(at)
        (slope,) = torch.autograd.grad(log_density.sum(), at, allow_unused=True, materialize_grads=True)
        moved = (slope * (z - z.detach())).flatten(log_density.ndim).sum(-1)  # value 0; carries the gradient through z
        return z, log_density.detach() + moved

    def _rsample_log_ratio(self, prior: Prior, draw: Draw) -> tuple[Tensor, Tensor]:
        """`rsample_log_ratio`."""
        z, log_posterior = self._rsample_log_prob(draw)
        return z, log_posterior - log_prior(prior, z, log_posterior.shape)

    def _rsample_kl_by_level(self, prior: Prior, draw: Draw) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`rsample_kl_by_level`: exact where the table knows the pair, otherwise an estimate from the draw."""
        divergence = divergences.known(self, prior)
        if divergence is not None:
            return divergence.rsample(draw)
        z, log_ratio = self._rsample_log_ratio(prior, draw)
        return z, (log_ratio,)

    def rsample(self, **options: Unpack[DrawOptions]) -> Tensor:
        """A reparameterized draw.

        Args:
            options: key, int64 [2], the noise; without one it is drawn from generator, or from torch's global generator;
                num_samples, K draws for each input; row_start, the first input's number in a larger batch, whose noise for its
                rows this call then draws.

        Returns:
            z: [B, *S], or [K, B, *S].

        Example:
            >>> from vaekit import DiagonalGaussian
            >>> DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2)).rsample(num_samples=5).shape
            torch.Size([5, 4, 2])
        """
        return self._rsample(self._draw(**options))

    def rsample_log_prob(self, *, stop_parameters: bool = False, **options: Unpack[DrawOptions]) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and its own log density, at the precision of the noise.

        Args:
            options: as of `rsample`.
            stop_parameters: take the parameters of the density for constants, so that its gradient is the one through z alone:
                the path derivative of G. Roeder, Y. Wu, D. Duvenaud, "Sticking the Landing", 2017, arXiv:1703.09194. The values
                are the same.

        Returns:
            z: [B, *S], or [K, B, *S].
            log q(z | x): [B], or [K, B], nats.
        """
        return self._rsample_log_prob(self._draw(**options), stop_parameters)

    def rsample_log_ratio(self, prior: Prior, **options: Unpack[DrawOptions]) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and log q(z | x) - log p(z) of that draw, whose mean is the divergence from `prior`.

        Options as of `rsample`.

        Returns:
            z: [B, *S], or [K, B, *S].
            log q(z | x) - log p(z): [B], or [K, B], nats.

        Example:
            >>> from vaekit import DiagonalGaussian, StandardNormal
            >>> q = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))  # the prior itself
            >>> z, log_ratio = q.rsample_log_ratio(StandardNormal(), num_samples=5)
            >>> z.shape, bool((log_ratio.abs() < 1e-5).all())
            (torch.Size([5, 4, 2]), True)
        """
        return self._rsample_log_ratio(prior, self._draw(**options))

    def rsample_kl(self, prior: Prior, **options: Unpack[DrawOptions]) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and the divergence from `prior`, or log q(z) - log p(z) where that is not known.

        Options as of `rsample`.

        Returns:
            z: [B, *S], or [K, B, *S].
            kl: [B], nats (or [K, B] where it is an estimate from each of K draws).
        """
        z, levels = self._rsample_kl_by_level(prior, self._draw(**options))
        return z, levels[0] if len(levels) == 1 else sum(levels[1:], start=levels[0])

    def rsample_kl_by_level(self, prior: Prior, **options: Unpack[DrawOptions]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `rsample_kl`, with the divergence of each level of latents, from the one that is drawn first.

        Their sum is the divergence. Most posteriors have one level.

        Returns:
            z: [B, *S], or [K, B, *S].
            kl: of each level [B] (or [K, B]), nats.

        Example:
            >>> from vaekit import DiagonalGaussian, StandardNormal
            >>> z, levels = DiagonalGaussian(torch.ones(1, 2), torch.zeros(1, 2)).rsample_kl_by_level(StandardNormal())
            >>> levels
            (tensor([1.]),)
        """
        return self._rsample_kl_by_level(prior, self._draw(**options))

    def rsample_kl_per_dimension(self, prior: Prior, **options: Unpack[DrawOptions]) -> tuple[Tensor, Tensor]:
        """A reparameterized draw and the exact divergence of each latent dimension, whose sum is that of `rsample_kl`.

        Options as of `rsample`.

        Returns:
            z: [B, *S], or [K, B, *S].
            kl: [B, *S], nats.

        Raises:
            TypeError: a posterior and a prior whose divergence is not known, or does not come apart by dimension.

        Example:
            >>> from vaekit import DiagonalGaussian
            >>> from vaekit.priors import LearnedGaussian
            >>> q = DiagonalGaussian(torch.ones(1, 2), torch.zeros(1, 2))
            >>> q.rsample_kl_per_dimension(LearnedGaussian((2,)))[1].detach()
            tensor([[0.5000, 0.5000]])
        """
        divergence = divergences.known(self, prior)
        if divergence is None or not divergence.by_dimension:
            there_are = ", ".join(f"{q} and {p}" for q, p in divergences.pairs(by_dimension=True))
            raise TypeError(
                f"the divergence of a {type(self).__name__} from a {type(prior).__name__} is not known for each latent "
                f"dimension; it is for a posterior and a prior of: {there_are}"
            )
        return divergence.rsample_per_dimension(self._draw(**options))

    def _draw(
        self,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
        num_samples: int | None = None,
        row_start: int = 0,
    ) -> Draw:
        if num_samples is not None:
            num_samples = checked_count("num_samples", num_samples, 1)
        return Draw(philox.resolve_key(key, generator, self.device), num_samples, checked_count("row_start", row_start, 0))


def log_prior(prior: Prior, z: Tensor, leading: torch.Size) -> Tensor:
    """log p(z) in nats of draws [*leading, *S] -> [*leading]: a prior sees one batch."""
    return prior.log_prob(z.reshape(math.prod(leading), *z.shape[len(leading) :])).reshape(leading)


def in_single_precision(posterior: Posterior) -> Posterior:
    """The posterior, with what it holds in half precision in float32 instead.

    Example:
        >>> from vaekit import DiagonalGaussian
        >>> half = torch.zeros(4, 2, dtype=torch.bfloat16)
        >>> in_single_precision(DiagonalGaussian(half, half)).rsample().dtype
        torch.float32
    """
    _single(posterior, {})
    return posterior


def _single(held: Any, done: dict[int, Any]) -> Any:
    """What a posterior holds, with float32 in place of half precision; `done` keeps what is held twice one object."""
    if isinstance(held, torch.dtype):
        return autocast.single_dtype(held)
    if id(held) in done:
        return done[id(held)]
    if isinstance(held, Tensor):
        done[id(held)] = autocast.single(held)
    elif isinstance(held, Posterior):
        done[id(held)] = held
        for name, value in list(vars(held).items()):
            if (single := _single(value, done)) is not value:
                object.__setattr__(held, name, single)
    elif type(held) in (list, tuple):
        done[id(held)] = type(held)(_single(value, done) for value in held)
    elif type(held) is dict:
        done[id(held)] = {name: _single(value, done) for name, value in held.items()}
    return done.get(id(held), held)
