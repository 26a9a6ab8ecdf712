"""A posterior that a normalising flow makes of a diagonal Gaussian, by zuko.

D. J. Rezende, S. Mohamed, "Variational Inference with Normalizing Flows", ICML 2015, arXiv:1505.05770; autoregressive ones:
D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling, "Improving Variational Inference with Inverse
Autoregressive Flow", NIPS 2016, arXiv:1606.04934.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.flows import Invertible, invertible_network
from vaekit.ops import reference
from vaekit.ops.draw import Draw
from vaekit.posteriors.base import Posterior
from vaekit.posteriors.diagonal_gaussian import DiagonalGaussian
from vaekit.posteriors.family import GaussianFamily, registry


class FlowPosterior(Posterior):
    """What T makes of draws from N(mu, diag(exp(logvar))). Half precision computes in float32.

    Args:
        mu: float [B, *S].
        logvar: float [B, *S].
        network: T, of vectors with as many numbers as S has.
        context: float [B, C], what T depends on in each example; None where it is one map for all.

    Raises:
        ValueError: mu and logvar of different shapes, or without a latent dimension; a context without a row for each.

    Example:
        >>> family = FlowFamily((2,), transforms=1, hidden=(8,))
        >>> q = FlowPosterior(torch.zeros(4, 2), torch.zeros(4, 2), family.network)
        >>> z, log_q = q.rsample_log_prob()
        >>> z.shape, torch.allclose(q.log_prob(z), log_q, atol=1e-5)
        (torch.Size([4, 2]), True)
    """

    def __init__(self, mu: Tensor, logvar: Tensor, network: Invertible, context: Tensor | None = None) -> None:
        dtype = reference.compute_dtype(mu.dtype)
        self.dtype, self.base = mu.dtype, DiagonalGaussian(mu.to(dtype), logvar.to(dtype))
        if context is not None and (context.ndim != 2 or context.shape[0] != mu.shape[0]):
            raise ValueError(
                f"context has to have a row for each of the {mu.shape[0]} examples, [B, C], got {tuple(context.shape)}"
            )
        self.network, self.context = network, None if context is None else context.to(dtype)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]  # computed where it is asked for: a pass through T
        """T(mu), the base's mean carried along: not the expectation of z."""
        return self._forward(self.base.mu)[0].to(self.dtype)

    @property
    def device(self) -> torch.device:
        return self.base.device

    def _rsample(self, draw: Draw) -> Tensor:
        return self._forward(self.base._rsample(draw))[0].to(self.dtype)

    def _rsample_log_prob(self, draw: Draw, stop_parameters: bool = False) -> tuple[Tensor, Tensor]:
        """As `Posterior._rsample_log_prob`. With stop_parameters the density has no second derivatives."""
        base = self.base
        start, log_start = base._rsample_log_prob(draw)
        z, log_slope = self._forward(start)
        log_density = log_start - log_slope
        if stop_parameters and torch.is_grad_enabled():
            rows, context, _ = self._rows(start)
            of_start, _, _ = self._rows(-draw.noise(base.mu) * torch.exp(-0.5 * base.logvar))  # of log N(start; mu, exp(logvar))
            gradient = self.network.gradient_at_image(rows, context, of_start).view_as(z)
            moved = (gradient * (z - z.detach())).flatten(1 - base.mu.ndim).sum(-1)  # value 0; carries the gradient through z
            log_density = log_density.detach() + moved
        return z.to(self.dtype), log_density

    def log_prob(self, z: Tensor) -> Tensor:
        """As `Posterior.log_prob`, by the inverse of T: of autoregressive maps as many passes as there are latent dimensions."""
        rows, context, leading = self._rows(z.to(self.base.mu.dtype))
        start = self.network.inverse(rows, context)
        _, log_slope = self.network(start, context)
        log_start = self.base.log_prob(start.reshape(*leading, *self.base.mu.shape[1:]))
        log_density: Tensor = log_start - log_slope.reshape(leading)
        return log_density

    def _forward(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """T of [..., B, *S], and log |det| of its Jacobian, [..., B]."""
        rows, context, leading = self._rows(start)
        z, log_slope = self.network(rows, context)
        return z.reshape(start.shape), log_slope.reshape(leading)

    def _rows(self, z: Tensor) -> tuple[Tensor, Tensor | None, torch.Size]:
        """z [..., B, *S] as vectors [N, D], the context of each, [N, C], and the shape [..., B] that both had."""
        shape = self.base.mu.shape
        leading, size = z.shape[: z.ndim - len(shape) + 1], math.prod(shape[1:])
        if self.context is None:
            return z.reshape(math.prod(leading), size), None, leading
        leading = torch.broadcast_shapes(leading, shape[:1])
        z = z.reshape(*z.shape[: z.ndim - len(shape) + 1], size)
        rows, context = (t.expand(*leading, t.shape[-1]).reshape(math.prod(leading), t.shape[-1]) for t in (z, self.context))
        return rows, context, leading


@registry.register("flow")
class FlowFamily(GaussianFamily):
    """What an invertible network makes of a diagonal Gaussian: a posterior of almost any form, with a known density.

    True posteriors bend, and have more than one mode; draws from a diagonal Gaussian z_0 can be bent to follow them, as long as
    the map T can be inverted and its Jacobian's determinant is known.

        z = T(z_0; h),  z_0 ~ N(mu, diag(exp(logvar)))
        log q(z | x) = log N(z_0; mu, diag(exp(logvar))) - log |det dT/dz_0|

    (Rezende and Mohamed, equation 5). h is `context` numbers more from the encoder; without them T is one map for all examples.
    T is a composition of autoregressive maps, in the direction in which the Jacobian is triangular and a draw takes one pass
    (inverse autoregressive flow, Kingma et al., equations 9 and 10), and starts as the identity: a new encoder has the diagonal
    Gaussian, and its draws under the same key.

    When to use it: where the bound, or the posterior itself, matters more than time, and the diagonal one is seen to lose
    something: `vaekit.evaluation.importance_weighted_bound` far above the ELBO. There is no closed form of the divergence:
    `kl` is log q(z | x) - log p(z) of the draw, an estimate that may be negative for an example.
    Cost: a draw with its density takes one pass through `transforms` networks. The density of a given z needs T's inverse, D
    passes through each of them in turn: a `vamp` prior asks for that in every step. The doubly reparameterised gradient of `iwae`
    takes D backward passes through each. It needs the extra `flows`.

    `mean`, which `reconstruct` decodes, is T(mu): the base's mean carried along, not the expectation of z. Objectives that need
    the divergence or the variance of each dimension (`free_bits`, `beta_tc`, `dip_vae` of kind "ii") refuse it. All positions of
    latents that are kept in space are one vector to T, and h all numbers of all positions.

    D. J. Rezende, S. Mohamed, "Variational Inference with Normalizing Flows", 2015, arXiv:1505.05770; D. P. Kingma et al.,
    "Improving Variational Inference with Inverse Autoregressive Flow", 2016, arXiv:1606.04934.

    Args:
        latent_shape: the shape (D, *positions) of one example's latents; the encoder fills it in.
        kind: "maf", affine maps, or "nsf", rational-quadratic splines on [-5, 5] and the identity outside of it.
        transforms: how many such maps, one after the other, which take the dimensions in turn from the first to the last and the
            other way; 0 leaves the diagonal Gaussian, which then is what the encoder returns.
        hidden: the sizes of the hidden layers of each map's network. In a layer narrower than the number of latents the last of
            them see the first ones alone.
        context: how many numbers h has, at each position.
        logvar_bound, initial_logvar: of z_0, as for `diagonal_gaussian`.

    Raises:
        ModuleNotFoundError: zuko is not installed.
        ValueError: another kind; sizes that are not whole numbers of at least 1, or 0 for transforms and context; a context
            without transforms.

    Example:
        >>> import vaekit
        >>> posterior = {"name": "flow", "transforms": 2, "hidden": (32,), "context": 8}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior=posterior)
        >>> vae(torch.rand(5, 4)).kl.shape
        torch.Size([5])
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        kind: str = "maf",
        transforms: int = 2,
        hidden: Sequence[int] = (64, 64),
        context: int = 0,
        logvar_bound: float | None = None,
        initial_logvar: float | None = None,
    ) -> None:
        super().__init__(latent_shape, logvar_bound, initial_logvar, extra=checked_size("context", context, least=0))
        features, positions = math.prod(self.latent_shape), math.prod(self.latent_shape[1:])
        self.network = invertible_network(features, kind, transforms, hidden, context * positions)
        if self.network is None and context:
            raise ValueError(f"context={context} are numbers for the transforms to read, of which there are none; leave it at 0")
        if self.network is not None:
            self.network.start_as_identity()

    def posterior(self, mu: Tensor, logvar: Tensor, extra: Tensor) -> FlowPosterior | DiagonalGaussian:
        if self.network is None:
            return DiagonalGaussian(mu, logvar)
        return FlowPosterior(mu, logvar, self.network, extra.flatten(1) if self.extra else None)
