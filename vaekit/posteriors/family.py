"""How an encoder's last layer becomes a posterior: families of posteriors by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vaekit.checks import checked_number, checked_sizes
from vaekit.latents import LatentKind
from vaekit.ops import reference
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.diagonal_gaussian import DiagonalGaussian
from vaekit.registry import Part, Registry
from vaekit.top_down import TopDown


class Family(Part, nn.Module, ABC):
    """A variational family: of its posteriors, an encoder's last layer picks one for each example.

    That layer gives `outputs` numbers at each position of the latents, of which the family makes a posterior. Where a new layer
    begins is the family's as well: `vaekit.encoders.Encoder.make_head` makes the layer and calls `start`. Families whose
    posteriors are made of means and log variances extend `GaussianFamily`.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.

    Attributes:
        outputs: how many numbers the layer gives at each position; D, unless a family sets it.
        latents: what kind of latents its posteriors are over.
        any_positions: whether it makes posteriors of any number of positions, each alike, whatever latent_shape says of them.
        path: of posteriors with several levels of latents, the networks of one given those above it; None for a single level.

    Raises:
        ValueError: a latent_shape with sizes below 1.

    Example:
        >>> import torch
        >>> class UnitVariance(Family):
        ...     def forward(self, numbers):
        ...         return DiagonalGaussian(numbers, torch.zeros_like(numbers))
        >>> from vaekit.encoders import MLPEncoder
        >>> encoder = MLPEncoder((1, 8, 8), latent_dim=3, posterior=UnitVariance((3,)))
        >>> encoder.head.out_features, encoder(torch.zeros(5, 1, 8, 8)).mean.shape
        (3, torch.Size([5, 3]))
    """

    latents: LatentKind = LatentKind.VECTORS
    any_positions: bool = False
    __call__: Callable[..., Posterior]

    def __init__(self, latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.latent_shape = checked_sizes("latent_shape", latent_shape)
        self.outputs = self.latent_shape[0]
        self.path: TopDown | None = None

    @abstractmethod
    def forward(self, numbers: Tensor) -> Posterior:
        """The posterior of each example, of numbers [B, outputs, *positions]."""

    def see(self, step: int | None) -> None:
        """Told by the model before each batch how many optimizer steps came before it; None outside training.

        For a posterior that depends on it, by a temperature for example; others do not look.
        """

    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Set, in place, what a new last layer begins with: weight [outputs, ...], bias [outputs].

        As given, the weights are drawn by Glorot's rule and the bias is 0.
        """


class GaussianFamily(Family):
    """What the families share whose posteriors begin with a mean and a log variance of each latent.

    The layer gives the D means at each position, then the D log variances, then `extra` numbers more.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.
        logvar_bound: keeps every logvar between -logvar_bound and logvar_bound, see `bounded`; None for no bound.
        initial_logvar: what a new encoder gives as logvar, for every x, in nats; None for what its random weights make of x,
            values around 0.
        extra: how many numbers more.

    Raises:
        TypeError: a bound or a start that is not a number.
        ValueError: a bound that is not positive; an initial_logvar that is not finite, or not within the bound.
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        logvar_bound: float | None = None,
        initial_logvar: float | None = None,
        extra: int = 0,
    ) -> None:
        super().__init__(latent_shape)
        if logvar_bound is not None:
            checked_number("logvar_bound", logvar_bound, above=0.0)
        if initial_logvar is not None:
            checked_number("initial_logvar", initial_logvar)
        if logvar_bound is not None and initial_logvar is not None and abs(initial_logvar) >= logvar_bound:
            raise ValueError(
                f"initial_logvar={initial_logvar!r} is not between -{logvar_bound} and {logvar_bound}, as logvar_bound asks for"
            )
        self.logvar_bound, self.initial_logvar, self.extra = logvar_bound, initial_logvar, extra
        self.outputs = 2 * self.latent_shape[0] + extra

    def forward(self, numbers: Tensor) -> Posterior:
        size = self.latent_shape[0]
        mu, logvar, extra = numbers.split((size, size, self.extra), dim=1)
        return self.posterior(mu, logvar if self.logvar_bound is None else bounded(logvar, self.logvar_bound), extra)

    @abstractmethod
    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> Posterior:
        """The posterior of each example, of mu and logvar [B, *latent_shape] and the numbers besides, [B, extra, *positions]."""

    def start(self, weight: Tensor, bias: Tensor) -> None:
        size, gaussian = self.latent_shape[0], 2 * self.latent_shape[0]
        if self.extra:  # drawn by the numbers that each part gives, so that extra ones do not make the others smaller
            nn.init.xavier_uniform_(weight[:gaussian])
            nn.init.xavier_uniform_(weight[gaussian:])
        if self.initial_logvar is not None:
            begin = self.initial_logvar
            if self.logvar_bound is not None:  # what `bounded` makes initial_logvar of
                begin = _atan_scale(self.logvar_bound) * math.tan(begin / _atan_scale(self.logvar_bound))
            weight[size:gaussian].zero_()
            bias[size:gaussian].fill_(begin)
        self.start_extra(weight[gaussian:], bias[gaussian:])

    def start_extra(self, weight: Tensor, bias: Tensor) -> None:
        """Set, in place, the rows that give the numbers besides mean and log variance: weight [extra, ...], bias [extra]."""


def bounded(logvar: Tensor, bound: float) -> Tensor:
    """(2 bound / pi) atan(pi logvar / (2 bound)): between -bound and bound (up to rounding), with a slope of 1 at 0.

    The slope decays as 1 / logvar^2, so that one that has run away still finds back: tanh's is 0 in float32 beyond 10 bounds. It
    is computed as 1 / (1 + u^2); automatic differentiation of x / (1 + |x|) subtracts numbers that are nearly equal there.
    float16 and bfloat16 compute in float32.

    Example:
        >>> import torch
        >>> bounded(torch.tensor([0.1, 10.0, -1e4]), 10.0)
        tensor([ 0.1000,  6.3909, -9.9959])
    """
    scale = _atan_scale(bound)
    wide = logvar.to(reference.compute_dtype(logvar.dtype))
    return (scale * (wide / scale).atan()).to(logvar.dtype)


def _atan_scale(bound: float) -> float:
    return 2.0 * bound / math.pi


registry: Registry[Family] = Registry("posterior", "vaekit.posteriors", Family)


@registry.register("diagonal_gaussian")
class DiagonalGaussianFamily(GaussianFamily):
    """N(mu, diag(exp(logvar))): latent dimensions that are independent of each other, given x.

    Use it first: its divergence from Gaussian priors is exact, and computed together with the draw by one fused operator. It
    costs the encoder two numbers for each latent dimension.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114, appendix C.2.

    Args:
        latent_shape: the shape of one example's latents; the encoder fills it in.
        logvar_bound: keeps every logvar between -logvar_bound and logvar_bound, by a bound whose slope decays like a power.
        initial_logvar: what logvar starts from, for every x; None for random values around 0.

    Example:
        >>> import torch, vaekit
        >>> posterior = {"logvar_bound": 10.0, "initial_logvar": -2.0}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior=posterior)
        >>> vae.encode(torch.rand(1, 4)).logvar.detach()
        tensor([[-2.0000, -2.0000]])
    """

    any_positions = True

    def __init__(
        self, latent_shape: Sequence[int], logvar_bound: float | None = None, initial_logvar: float | None = None
    ) -> None:
        super().__init__(latent_shape, logvar_bound, initial_logvar)

    def forward(self, numbers: Tensor) -> Posterior:
        if self.logvar_bound is None and type(self) is DiagonalGaussianFamily:  # a subclass may make something else of the two
            return DiagonalGaussian.from_packed(numbers)
        return super().forward(numbers)

    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> DiagonalGaussian:
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
