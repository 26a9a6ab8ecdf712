"""Exact divergences KL(q(z | x) || p(z)), by pairs of a posterior and a prior.

A pair is a function in a table, as the `register_kl` of torch.distributions has it. What needs a divergence asks the table, and
nothing needs to know which classes have one; a posterior or a prior of one's own registers its pairs beside its class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from torch import Tensor

from vaekit.ops.draw import Draw
from vaekit.registry import is_defined_again

if TYPE_CHECKING:
    from vaekit.posteriors.base import Posterior
    from vaekit.priors.base import Prior

Rule = Callable[[Any, Any, Draw, str], "tuple[Tensor, Tensor | tuple[Tensor, ...]]"]
R = TypeVar("R", bound=Rule)


class Divergence(NamedTuple):
    """The divergence of one posterior from one prior.

    Attributes:
        posterior, prior: the two.
        rule: the function that `exact` registered.
        by_dimension: whether it comes apart into the divergences of single latent dimensions.
    """

    posterior: Posterior
    prior: Prior
    rule: Rule
    by_dimension: bool

    def rsample(self, draw: Draw) -> tuple[Tensor, tuple[Tensor, ...]]:
        """z [*draw.shape, B, *S], and the divergence of each level of the posterior, mostly one: [B] each, in nats."""
        z, kl = self.rule(self.posterior, self.prior, draw, "event")
        return z, kl if isinstance(kl, tuple) else (kl,)

    def rsample_per_dimension(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """z [*draw.shape, B, *S], and the divergence of each latent dimension, [B, *S], in nats."""
        z, kl = self.rule(self.posterior, self.prior, draw, "none")
        assert isinstance(kl, Tensor)
        return z, kl


_rules: dict[tuple[type, type], tuple[Rule, bool]] = {}


def exact(posterior: type[Any], prior: type[Any], *, by_dimension: bool = False) -> Callable[[R], R]:
    """Register the function below as the exact divergence of that posterior from that prior, and of what extends them.

    The function is called as rule(posterior, prior, draw, reduce) and gives z, drawn from the posterior, and the divergence in
    nats, because an operator may compute the two together. With reduce = "event" that is [B], or for a posterior of several
    levels the tuple of each one's, from the level that is drawn first; they may depend on the draw of earlier levels and are
    [K, B] then. With reduce = "none", which is asked of rules with by_dimension only, it is [B, *S].

    Raises:
        ValueError: the pair has one already.

    Example:
        >>> import torch, vaekit
        >>> class Point(vaekit.Posterior):  # always the same z
        ...     def __init__(self, mean):
        ...         self.mean = mean
        ...
        ...     def _rsample(self, draw):
        ...         return draw.repeated(self.mean)
        ...
        ...     def log_prob(self, z):
        ...         return torch.where((z == self.mean).all(-1), 0.0, -torch.inf)
        >>> @exact(Point, vaekit.StandardNormal)
        ... def _(posterior, prior, draw, reduce):
        ...     return draw.repeated(posterior.mean), -prior.log_prob(posterior.mean)
        >>> Point(torch.zeros(3, 2)).rsample_kl(vaekit.StandardNormal(), num_samples=4)[1]  # log 2 pi
        tensor([1.8379, 1.8379, 1.8379])
    """

    def enter(rule: R) -> R:
        if (posterior, prior) in _rules and not is_defined_again(_rules[posterior, prior][0], rule):
            raise ValueError(f"the divergence of a {posterior.__name__} from a {prior.__name__} is known already")
        _rules[posterior, prior] = rule, by_dimension
        return rule

    return enter


def known(posterior: Posterior, prior: Prior) -> Divergence | None:
    """The exact divergence of the two, by the rule for the nearest of their base classes; None where there is none.

    Example:
        >>> import torch, vaekit
        >>> q = vaekit.DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2))
        >>> known(q, vaekit.StandardNormal()).by_dimension, known(q, vaekit.priors.GaussianMixture((2,)))
        (True, None)
    """
    for posterior_type in type(posterior).__mro__:
        for prior_type in type(prior).__mro__:
            if (found := _rules.get((posterior_type, prior_type))) is not None:
                rule, by_dimension = found
                return Divergence(posterior, prior, rule, by_dimension)
    return None


def known_by_dimension(posterior: Posterior, prior: Prior) -> bool:
    """Whether the exact divergence of each latent dimension is known.

    Example:
        >>> import torch, vaekit
        >>> known_by_dimension(vaekit.DiagonalGaussian(torch.zeros(4, 2), torch.zeros(4, 2)), vaekit.StandardNormal())
        True
    """
    divergence = known(posterior, prior)
    return divergence is not None and divergence.by_dimension


def pairs(*, by_dimension: bool = False) -> list[tuple[str, str]]:
    """The names of the classes whose divergence is known, posterior first; with by_dimension those of each dimension."""
    return [(q.__name__, p.__name__) for (q, p), (_, apart) in _rules.items() if apart or not by_dimension]
