"""What every encoder offers: x -> Posterior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vaekit.checks import checked_size, checked_sizes
from vaekit.layers import Network, glorot
from vaekit.ops import reference
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.family import DiagonalGaussianFamily, Family, make_family
from vaekit.registry import Part, Registry


class Encoder(Part, Network, ABC):
    """q(z | x), or q(z | x, c): a module from a batch [B, *input_shape] to a `Posterior` over latents [B, *latent_shape].

    An encoder makes its last layer by `make_head`, which knows how many numbers a posterior takes, and hands what that gives to
    `posterior`, which makes one of them; or it returns a posterior of its own, `vaekit.DiagonalGaussian(mu, logvar)` for example.

    A class of one's own becomes conditional by taking the option condition_dim, which it hands on to `super().__init__`, and the
    argument condition; without them its condition_dim is 0 and it is called with x alone.

    Args:
        input_shape: the shape of one example, without the batch.
        latent_dim: the number D of latent dimensions; `latent_shape` is (D,), unless an encoder sets another one.
        logvar_bound: keeps every logvar between -logvar_bound and logvar_bound, see `bounded`; None for no bound.
        initial_logvar: what a new encoder gives as logvar, for every x, in nats; None for what its random weights make of x,
            values around 0.
        condition_dim: the size of the condition c, what `vaekit.conditions` makes of an example's label or vector; 0 for none.

    Raises:
        ValueError: an empty shape, a size that is not a whole number of at least 1; a bound that is not positive; an
            initial_logvar that is not within it; a condition_dim below 0.

    Example:
        >>> from vaekit.layers import with_condition
        >>> class Linear(Encoder):
        ...     def __init__(self, input_shape, latent_dim, condition_dim=0):
        ...         super().__init__(input_shape, latent_dim, condition_dim=condition_dim)
        ...         self.linear = nn.Linear(math.prod(input_shape) + condition_dim, 2 * latent_dim)
        ...
        ...     def forward(self, x, condition=None):
        ...         self.check_condition(x, condition)  # says what is wrong with it, if anything is
        ...         return self.posterior(self.linear(with_condition(x.flatten(1), condition)))
        >>> Linear((3, 4), latent_dim=2, condition_dim=10)(torch.rand(5, 3, 4), torch.rand(5, 10)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        latent_dim: int,
        *,
        logvar_bound: float | None = None,
        initial_logvar: float | None = None,
        condition_dim: int = 0,
    ) -> None:
        super().__init__(condition_dim)
        self.input_shape = checked_sizes("input_shape", input_shape)
        if not self.input_shape:
            raise ValueError("input_shape has to have at least one dimension; a table with 13 columns has (13,)")
        self.latent_shape: tuple[int, ...] = (checked_size("latent_dim", latent_dim),)
        for option, value in (("logvar_bound", logvar_bound), ("initial_logvar", initial_logvar)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not number:
                raise ValueError(f"{option} has to be a finite number or None, got {value!r}")
        if logvar_bound is not None and logvar_bound <= 0.0:
            raise ValueError(f"logvar_bound has to be positive, 10.0 for example, got {logvar_bound!r}")
        if logvar_bound is not None and initial_logvar is not None and abs(initial_logvar) >= logvar_bound:
            raise ValueError(
                f"initial_logvar={initial_logvar!r} is not between -{logvar_bound} and {logvar_bound}, as logvar_bound asks for"
            )
        self.logvar_bound, self.initial_logvar = logvar_bound, initial_logvar
        self.family: Family = DiagonalGaussianFamily(self.latent_shape)

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Posterior:
        """[B, *input_shape] -> a posterior over [B, *latent_shape].

        Args:
            x: the batch.
            condition: [B, condition_dim], in the dtype of x; an encoder whose condition_dim is 0 is called without it.
        """

    def make_head(
        self, posterior: str | Mapping[str, Any] | Family, layer: Callable[..., Any], features: int, **options: Any
    ) -> nn.Module:
        """The last layer, layer(features, outputs, **options), and the family of the posteriors that are made of what it gives.

        To be called once, when `latent_shape` is what it will be. Weights are drawn by Glorot's rule; logvar starts at
        `initial_logvar`, by weights of 0 and that as bias.

        Args:
            posterior: a name from `vaekit.posteriors.names()`, {"name": ..., option: ...}, or a `vaekit.posteriors.Family`.
            layer: nn.Linear, nn.Conv2d, ...: of the positions that latents have.
            features: what the layer reads.

        Raises:
            TypeError, ValueError, UnknownNameError: a family that does not exist or does not fit, or that has no logvar where a
                bound or start of it was asked for.
        """
        family = self.family = make_family(posterior, self.latent_shape)
        if not family.has_logvar and (self.logvar_bound, self.initial_logvar) != (None, None):
            raise ValueError(f"{type(family).__name__} has no logvar; leave logvar_bound and initial_logvar at None")
        size = self.latent_shape[0]
        gaussian = 2 * size if family.has_logvar else size
        head: Any = glorot(layer(features, gaussian + family.extra, **options))
        with torch.no_grad():
            if family.extra:  # by the numbers that each part gives, so that extra ones do not make the others smaller
                nn.init.xavier_uniform_(head.weight[:gaussian])
                nn.init.xavier_uniform_(head.weight[gaussian:])
            if self.initial_logvar is not None:
                start = self.initial_logvar
                if self.logvar_bound is not None:  # what `bounded` makes initial_logvar of
                    start = _atan_scale(self.logvar_bound) * math.tan(start / _atan_scale(self.logvar_bound))
                head.weight[size:gaussian].zero_()
                head.bias[size:gaussian].fill_(start)
            family.start(head.weight[gaussian:], head.bias[gaussian:])
        return head  # type: ignore[no-any-return]

    def posterior(self, parameters: Tensor) -> Posterior:
        """The last layer's output [B, outputs, ...] as a posterior: mu, the (bounded) logvar and the rest, where they lie."""
        latents = parameters.shape[1] - self.family.extra
        size = latents // 2 if self.family.has_logvar else latents
        mu, logvar, extra = parameters.split((size, latents - size, self.family.extra), dim=1)
        if not self.family.has_logvar:
            return self.family(mu, None, extra)  # type: ignore[no-any-return]
        return self.family(  # type: ignore[no-any-return]
            mu, logvar if self.logvar_bound is None else bounded(logvar, self.logvar_bound), extra
        )


def bounded(logvar: Tensor, bound: float) -> Tensor:
    """(2 bound / pi) atan(pi logvar / (2 bound)): between -bound and bound (up to rounding), with a slope of 1 at 0.

    The slope decays as 1 / logvar^2, so that one that has run away still finds back: tanh's is 0 in float32 beyond 10 bounds. It
    is computed as 1 / (1 + u^2); automatic differentiation of x / (1 + |x|) subtracts numbers that are nearly equal there.
    float16 and bfloat16 compute in float32.

    Example:
        >>> bounded(torch.tensor([0.1, 10.0, -1e4]), 10.0)
        tensor([ 0.1000,  6.3909, -9.9959])
    """
    scale = _atan_scale(bound)
    wide = logvar.to(reference.compute_dtype(logvar.dtype))
    return (scale * torch.atan(wide / scale)).to(logvar.dtype)


def _atan_scale(bound: float) -> float:
    return 2.0 * bound / math.pi


registry: Registry[Encoder] = Registry("encoder", "vaekit.encoders", Encoder)
