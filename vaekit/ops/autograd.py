"""The derivatives of `vaekit::reparameterize_kl`: what is kept for them, and those beyond the first in closed form.

The first derivatives are the backward operator's own (`reference.backward`); how all of them are reached is in dispatch.py. With
c = mu - m, w = exp(-s), d = logvar - s, g_k the gradient of z_k and G that of kl, backward gives for

    mu:      sum_k g_k + G c w                          m:  -G c w
    logvar:  sigma/2 sum_k g_k eps_k + G expm1(d)/2     s:  -G (c^2 w + expm1(d))/2

It is linear in g and G, so that its derivative in them, along a direction of the four parameters, is that of z and kl along the
direction: what forward-mode differentiation asks for. Its derivative in the parameters is symmetric: the same for backward's own
backward and for its forward mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.ops import reference
from vaekit.ops.operands import BACKWARD_OPTIONS, BACKWARD_TENSORS, OPTIONS, TENSORS, Operands, backward_operands, halves, wanted
from vaekit.ops.schema import noise

Four = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]  # of mu, logvar, prior_mu, prior_logvar


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


class _Wide(NamedTuple):
    """What the derivatives are made of, in the compute dtype; w is half * half, which overflows later."""

    logvar: Tensor
    center: Tensor
    half: Tensor
    shift: Tensor
    directions: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, o: Operands, directions: Four) -> _Wide:
        dtype = reference.compute_dtype(o.mu.dtype)
        zero = torch.zeros((), dtype=dtype, device=o.mu.device)
        mu, logvar = o.mu.to(dtype), o.logvar.to(dtype)
        if o.prior_mu is None or o.prior_logvar is None:
            center, half, shift, directions = mu, zero + 1.0, logvar, (*directions[:2], None, None)
        else:
            center, half = mu - o.prior_mu.to(dtype), torch.exp(-0.5 * o.prior_logvar.to(dtype))
            shift = logvar - o.prior_logvar.to(dtype)
        a, b, c, d = (zero if direction is None else direction.to(dtype) for direction in directions)
        return cls(logvar, center, half, shift, (a, b, c, d))


def _noise(o: Operands) -> Tensor:
    return noise(o.mu, o.key, o.eps, o.num_samples, o.row_start, o.event_dims)


def _z_along(o: Operands, wide: _Wide, eps: Tensor) -> Tensor:
    by_mu, by_logvar, _, _ = wide.directions
    samples = () if o.num_samples is None else (o.num_samples,)
    moved = by_mu + 0.5 * torch.exp(0.5 * wide.logvar) * by_logvar * eps
    return moved.expand(*samples, *o.mu.shape).to(o.mu.dtype)


def _kl_along(o: Operands, wide: _Wide) -> Tensor:
    by_mu, by_logvar, by_prior_mu, by_prior_logvar = wide.directions
    scale = wide.center * wide.half * wide.half
    by_shift = (by_logvar - by_prior_logvar) * torch.expm1(wide.shift)
    elements = (by_mu - by_prior_mu) * scale + 0.5 * (by_shift - by_prior_logvar * wide.center * scale)
    elements = elements.expand(o.mu.shape)
    return reference.sum_event(elements, o.event_dims) if o.reduce_event else elements


def _curvature(o: Operands, wide: _Wide, eps: Tensor | None, grad_z: Tensor | None, grad_kl: Tensor | None) -> Four:
    by_mu, by_logvar, by_prior_mu, by_prior_logvar = wide.directions
    to_mu = to_logvar = to_prior_logvar = torch.zeros_like(by_mu)
    if grad_z is not None:
        assert eps is not None
        scaled = grad_z.to(by_mu.dtype) * eps
        half_sigma = 0.5 * torch.exp(0.5 * wide.logvar)
        to_logvar = 0.5 * half_sigma * by_logvar * (scaled if o.num_samples is None else scaled.sum(0))
    if grad_kl is not None:
        through_mu, through_logvar = by_mu - by_prior_mu, by_logvar - by_prior_logvar
        weight = reference.over_event(grad_kl, o.event_dims, o.reduce_event)
        scale = wide.center * wide.half * wide.half
        to_mu = weight * (through_mu * (wide.half * wide.half) - by_prior_logvar * scale)
        bent = 0.5 * weight * torch.exp(wide.shift) * through_logvar
        to_logvar = to_logvar + bent
        to_prior_logvar = weight * scale * (0.5 * by_prior_logvar * wide.center - through_mu) - bent
    to_prior = (None, None) if o.prior_mu is None else (-to_mu, to_prior_logvar)
    a, b, c, d = (None if t is None else t.expand(o.mu.shape).to(o.mu.dtype) for t in (to_mu, to_logvar, *to_prior))
    return a, b, c, d


def jvp(o: Operands, tangents: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """z and kl along the tangents of the operands."""
    moving = Operands._make(tangents[: len(o)])
    if moving.eps is not None:
        raise ValueError("eps is a constant of the operator and has no tangent; pass eps.detach()")
    wide = _Wide.of(o, (moving.mu, moving.logvar, moving.prior_mu, moving.prior_logvar))
    return _z_along(o, wide, _noise(o)), _kl_along(o, wide)


def backward_jvp(
    o: Operands, gradients: Sequence[Tensor | None], tangents: Sequence[Tensor | None], linear: Four, packed: bool
) -> Four:
    """The backward operator along the tangents of the operands, added to `linear`, what it is along those of the gradients."""
    moving = Operands._make(tangents[: len(o)])
    wide = _Wide.of(o, (moving.mu, moving.logvar, moving.prior_mu, moving.prior_logvar))
    grad_z, grad_kl = gradients
    bent = _curvature(o, wide, None if grad_z is None else _noise(o), grad_z, grad_kl)
    if packed:
        by_mu, by_logvar, *of_prior = bent
        assert by_mu is not None
        assert by_logvar is not None
        bent = torch.cat((by_mu, by_logvar), o.mu.ndim - o.event_dims), None, of_prior[0], of_prior[1]
    a, b, c, d = (x if y is None or x is None else x + y for x, y in zip(linear, bent, strict=True))
    return a, b, c, d


def double_backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of the backward operator, from differentiable PyTorch operations alone.

    `directions` are the incoming gradients of its four outputs.
    """
    grad_z, grad_kl, *tensors = ctx.saved_tensors
    o, _, packed = backward_operands((*tensors, *ctx.options))
    a, b, c, d = directions
    if packed and a is not None:
        a, b = halves(a, o.event_dims)
    wide = _Wide.of(o, (a, b, c, d))
    eps = None if grad_z is None else _noise(o)
    return (
        None if eps is None else _z_along(o, wide, eps),
        None if grad_kl is None else _kl_along(o, wide),
        *by_operand(*_curvature(o, wide, eps, grad_z, grad_kl)),
        None,
        None,
    )


def plain(o: Operands, eps: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.forward` without operations in place, of some of which PyTorch's forward mode makes no tangent or a wrong one.

    Example:
        >>> o = Operands(torch.zeros(3, 2), torch.zeros(3, 2))
        >>> plain(o, torch.ones(3, 2))[1]
        tensor([0., 0., 0.])
    """
    wide = _Wide.of(o, (None, None, None, None))
    mu, dtype = o.mu.to(wide.logvar.dtype), o.mu.dtype
    z = mu + torch.exp(0.5 * wide.logvar) * eps.to(mu.dtype)
    standardized, d = wide.center * wide.half, wide.shift
    # As in reference.excess.
    inside = d.clamp(-0.5, 0.5)
    terms = 15 if d.dtype == torch.float64 else 8
    series = torch.full_like(d, 1.0 / math.factorial(terms + 1))
    for power in range(terms, 1, -1):
        series = series * inside + 1.0 / math.factorial(power)
    excess = torch.where(d.abs() < 0.5, series * inside * inside, torch.expm1(d) - d.clamp(max=1e4))
    kl = 0.5 * (excess + standardized * standardized)
    return z.to(dtype), reference.sum_event(kl, o.event_dims) if o.reduce_event else kl


class Inlined(torch.autograd.Function):
    """The reference with the operator's own backward formula, made of operations that torch.compile can see into."""

    # Named as they are, not as *arguments: torch.compile counts them to find out whether the first one is a context.
    forward = staticmethod(reference.forward)

    setup_context = staticmethod(setup_context)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
        operands = Operands(*ctx.saved_tensors, *ctx.options)
        return by_operand(*reference.backward(grad_z, grad_kl, *operands, wanted(ctx.needs_input_grad)))
