"""The derivatives of `vaekit::reparameterize_kl`: what is kept for them, and the backward of its backward in closed form.

The first derivatives are the backward operator's own (`reference.backward`); how all of them are reached is in dispatch.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.ops import reference
from vaekit.ops.operands import BACKWARD_OPTIONS, BACKWARD_TENSORS, OPTIONS, TENSORS, Operands
from vaekit.ops.schema import noise


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keeps the forward operator's operands."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[TENSORS])
    ctx.options = inputs[OPTIONS]


def setup_backward_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Keeps the backward operator's operands, the incoming gradients before them."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[BACKWARD_TENSORS])
    ctx.options = inputs[BACKWARD_OPTIONS]


def by_operand(
    mu: Tensor | None, logvar: Tensor | None, prior_mu: Tensor | None, prior_logvar: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The four gradients in the order of `Operands`: key, eps and the options have none."""
    return mu, logvar, None, None, prior_mu, prior_logvar, None, None, None, None


def double_backward(
    ctx: Any, of_mu: Tensor | None, of_logvar: Tensor | None, of_prior_mu: Tensor | None, of_prior_logvar: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradient of the backward operator, from differentiable PyTorch operations alone.

    `of_x` is the incoming gradient of backward's output for x. With c = mu - m, w = exp(-s), d = logvar - s and G the gradient
    of kl, backward's outputs are for mu: sum_k g_k + G c w, logvar: sigma/2 sum_k g_k eps_k + G expm1(d)/2,
    m: -G c w, s: -G (c^2 w + expm1(d))/2; below are their derivatives in each input.
    """
    grad_z, grad_kl, *tensors = ctx.saved_tensors
    o = Operands(*tensors, *ctx.options)
    mu, logvar = o.mu, o.logvar
    dtype = reference.compute_dtype(mu.dtype)
    zero = torch.zeros((), dtype=dtype, device=mu.device)
    by_mu, by_logvar = (zero if g is None else g.to(dtype) for g in (of_mu, of_logvar))
    by_prior_mu, by_prior_logvar = (
        zero if g is None or o.prior_mu is None else g.to(dtype) for g in (of_prior_mu, of_prior_logvar)
    )
    wide_mu, wide_logvar = mu.to(dtype), logvar.to(dtype)
    if o.prior_mu is None or o.prior_logvar is None:
        center, precision, half, shift = wide_mu, zero + 1.0, zero + 1.0, wide_logvar
    else:
        half = torch.exp(-0.5 * o.prior_logvar.to(dtype))
        center, precision = wide_mu - o.prior_mu.to(dtype), half * half
        shift = wide_logvar - o.prior_logvar.to(dtype)

    to_grad_z = to_grad_kl = None
    to_mu = to_logvar = to_prior_logvar = zero
    if grad_z is not None:
        eps = noise(mu, o.key, o.eps, o.num_samples, o.row_start, o.event_dims)
        half_sigma = 0.5 * torch.exp(0.5 * wide_logvar)
        to_grad_z = (by_mu + half_sigma * by_logvar * eps).expand(grad_z.shape).to(grad_z.dtype)
        scaled = grad_z.to(dtype) * eps
        to_logvar = 0.5 * half_sigma * by_logvar * (scaled if o.num_samples is None else scaled.sum(0))
    if grad_kl is not None:
        through_mu, through_logvar = by_mu - by_prior_mu, by_logvar - by_prior_logvar
        scale = center * half * half
        elements = through_mu * scale + 0.5 * (through_logvar * torch.expm1(shift) - by_prior_logvar * center * scale)
        elements = elements.expand(mu.shape)
        to_grad_kl = reference.sum_event(elements, o.event_dims) if o.reduce_event else elements
        weight = reference.over_event(grad_kl, o.event_dims, o.reduce_event)
        to_mu = weight * (through_mu * precision - by_prior_logvar * scale)
        curvature = 0.5 * weight * torch.exp(shift) * through_logvar
        to_logvar = to_logvar + curvature
        to_prior_logvar = weight * scale * (0.5 * by_prior_logvar * center - through_mu) - curvature
    to_prior: tuple[Tensor | None, Tensor | None] = (None, None)
    if o.prior_mu is not None:
        to_prior = (-to_mu).expand(mu.shape).to(mu.dtype), to_prior_logvar.expand(mu.shape).to(mu.dtype)
    to_mu, to_logvar = to_mu.expand(mu.shape).to(mu.dtype), to_logvar.expand(mu.shape).to(mu.dtype)
    return to_grad_z, to_grad_kl, *by_operand(to_mu, to_logvar, *to_prior)


class Inlined(torch.autograd.Function):
    """The reference with the operator's own backward formula, made of operations that torch.compile can see into."""

    # Named as they are, not as *arguments: torch.compile counts them to find out whether the first one is a context.
    forward = staticmethod(reference.forward)

    setup_context = staticmethod(setup_context)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        return by_operand(*reference.backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.options))
