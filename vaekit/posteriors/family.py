"""How an encoder's last layer becomes a posterior: families of posteriors by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.latents import LatentKind
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.diagonal_gaussian import DiagonalGaussian
from vaekit.registry import Part, Registry


class Family(Part, nn.Module, ABC):
    """A variational family: of its posteriors, an encoder's last layer picks one for each example.

    That layer gives, for each of the D entries of the latents' first axis, a mean and (unless `has_logvar` is False) a log
    variance, and `extra` numbers more. `vaekit.encoders.Encoder.make_head` makes the layer, and the family, from its name.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.

    Attributes:
        extra: how many numbers besides mean and log variance the layer gives at each position.
        has_logvar: whether the family has log variances.
        latents: what kind of latents its posteriors are over.

    Raises:
        ValueError: a latent_shape with sizes below 1.

    Example:
        >>> import torch
        >>> class UnitVariance(Family):
        ...     has_logvar = False
        ...
        ...     def forward(self, mu, logvar, extra):
        ...         return DiagonalGaussian(mu, torch.zeros_like(mu))
        >>> from vaekit.encoders import MLPEncoder
        >>> encoder = MLPEncoder((1, 8, 8), latent_dim=3, posterior=UnitVariance((3,)))
        >>> encoder.head.out_features, encoder(torch.zeros(5, 1, 8, 8)).mean.shape
        (3, torch.Size([5, 3]))
    """

    extra: int = 0
    has_logvar: bool = True
    latents: LatentKind = LatentKind.VECTORS

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)

    @abstractmethod
    def forward(self, mu: Tensor, logvar: Tensor | None, extra: Tensor) -> Posterior:
        """The posterior of each example.

        Args:
            mu: [B, *latent_shape].
            logvar: the same shape, within the encoder's bound; None for a family without.
            extra: [B, extra, *positions].
        """

    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Set, in place, the rows of a new last layer that give `extra`: weight [extra, ...], bias [extra]."""


registry: Registry[Family] = Registry("posterior", "vaekit.posteriors", Family)


@registry.register("diagonal_gaussian")
class DiagonalGaussianFamily(Family):
    """N(mu, diag(exp(logvar))): latent dimensions that are independent of each other, given x.

    Use it first: its divergence from Gaussian priors is exact, and computed together with the draw by one fused operator. It
    costs the encoder two numbers for each latent dimension.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendix C.2.

    Args:
        latent_shape: the shape of one example's latents; the encoder fills it in.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior="diagonal_gaussian")  # as without naming it
        >>> type(vae.encode(torch.rand(5, 4))).__name__
        'DiagonalGaussian'
    """

    def forward(self, mu: Tensor, logvar: Tensor | None, extra: Tensor) -> DiagonalGaussian:
        assert logvar is not None
        return DiagonalGaussian(mu, logvar)


def make_family(posterior: str | Mapping[str, Any] | Family, latent_shape: tuple[int, ...]) -> Family:
    """The family that a name, {"name": ..., option: ...}, or an object describes, over latents of that shape.

    Raises:
        TypeError: something else, or an option that the family does not take.
        ValueError: an object made for latents of another shape.
        UnknownNameError: a name that is not registered.
    """
    posterior = registry.build(posterior, {"latent_shape": latent_shape})
    if posterior.latent_shape != latent_shape:
        raise ValueError(
            f"{type(posterior).__name__} is made for latents of the shape {posterior.latent_shape}, "
            f"but the encoder's have {latent_shape}"
        )
    return posterior
