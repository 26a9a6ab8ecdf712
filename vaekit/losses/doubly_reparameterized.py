"""The importance-weighted bound with another gradient for the encoder than for decoder and prior.

G. Tucker, D. Lawson, S. Gu, C. J. Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives", ICLR 2019,
arXiv:1810.04152, equation 8; T. Rainforth et al., "Tighter Variational Bounds are Not Necessarily Better", ICML 2018,
arXiv:1802.04537, where PIWAE is proposed.

With the normalized weights v_k = w_k / sum_j w_j, the gradient of log 1/K sum_k w_k is

    decoder, prior:  sum_k v_k   d log w_k / d theta
    encoder:         sum_k v_k^2 d log w_k / d z_k  d z_k / d phi,    the parameters of q in log w_k held constant

One backward pass gives both: z passes an `_Inlet`, whose backward multiplies the gradient by v once more. The weights are not
yet known where z enters the decoder, so the inlet has a second output, a token, whose "gradient" is v: `_Bound` says so.

PIWAE has v for decoder and prior as well, and for the encoder the weights within each of M groups, over M: the inlet multiplies
by their ratio. Where v is 0 to rounding there is none; there decoder and prior get weights of a rounding's square instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.losses.base import Batch, LatentVariableModel, StepContext
from vaekit.losses.draws import log_mean_weight, nll_of_draws, prior_of
from vaekit.ops.applied import all_applied, applied
from vaekit.posteriors.base import log_prior


def doubly_reparameterized_bound(
    model: LatentVariableModel, batch: Batch, context: StepContext, num_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """log 1/K sum_k w_k, [B], with that gradient; of each draw -log p(x | z) and log q(z | x) - log p(z), without."""
    posterior = model.encode(batch.x, batch.condition)
    z, log_posterior = posterior.rsample_log_prob(
        key=context.key, num_samples=num_samples, row_start=context.row_start, stop_parameters=True
    )
    z, log_posterior, token = all_applied(_Inlet, z, log_posterior)
    nll = nll_of_draws(model, batch, z)
    log_ratio = log_posterior - log_prior(prior_of(model, batch), z, log_posterior.shape)
    bound = applied(_Bound, -(nll + log_ratio), token)
    return bound, nll.detach(), log_ratio.detach()


def partially_weighted_bound(
    model: LatentVariableModel, batch: Batch, context: StepContext, num_outer: int, num_samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """log 1/(M K) sum_mk w_mk, [B], with the encoder's gradient that of 1/M sum_m log 1/K sum_k w_mk.

    Of each draw, [M K, B], group after group, there are -log p(x | z) and log q(z | x) - log p(z) as well, without a gradient.
    """
    posterior = model.encode(batch.x, batch.condition)
    z, log_posterior = posterior.rsample_log_prob(
        key=context.key, num_samples=num_outer * num_samples, row_start=context.row_start
    )
    z, log_posterior, token = all_applied(_Inlet, z, log_posterior)
    nll = nll_of_draws(model, batch, z)
    log_ratio = log_posterior - log_prior(prior_of(model, batch), z, log_posterior.shape)
    bound = applied(_PartialBound, -(nll + log_ratio), token, num_outer)
    return bound, nll.detach(), log_ratio.detach()


class _Inlet(torch.autograd.Function):
    """z [K, B, *S], log q(z | x) [K, B] and a token [K, B]; backward multiplies the gradients of the two by the token's."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, log_posterior: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return z.clone(), log_posterior.clone(), torch.zeros_like(log_posterior)

    @staticmethod
    def backward(ctx: Any, of_z: Tensor, of_log_posterior: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        over_event = weights.reshape(*weights.shape, *(1 for _ in of_z.shape[2:]))
        return (of_z * over_event).to(of_z.dtype), of_log_posterior * weights


class _Bound(torch.autograd.Function):
    """log 1/K sum_k w_k of log w [K, B]; the gradient of the token is the normalized weights."""

    @staticmethod
    def forward(ctx: Any, log_weights: Tensor, token: Tensor) -> Tensor:
        ctx.save_for_backward(log_weights)
        return log_mean_weight(log_weights)

    @staticmethod
    def backward(ctx: Any, of_bound: Tensor) -> tuple[Tensor, Tensor]:
        (log_weights,) = ctx.saved_tensors
        normalized = torch.softmax(log_weights, dim=0)
        return of_bound * normalized, normalized


class _PartialBound(torch.autograd.Function):
    """As `_Bound`; the gradient of the token is the ratio of the weights within each group, over M, to those of all."""

    @staticmethod
    def forward(ctx: Any, log_weights: Tensor, token: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(log_weights)
        ctx.groups = groups
        return log_mean_weight(log_weights)

    @staticmethod
    def backward(ctx: Any, of_bound: Tensor) -> tuple[Tensor, Tensor, None]:
        (log_weights,) = ctx.saved_tensors
        least = torch.finfo(log_weights.dtype).eps ** 2
        of_all = torch.softmax(log_weights, dim=0).clamp(min=least)
        within = torch.softmax(log_weights.unflatten(0, (ctx.groups, -1)), dim=1).flatten(0, 1) / ctx.groups
        return of_bound * of_all, within / of_all, None
