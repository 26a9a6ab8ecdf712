"""reparameterize_kl in plain PyTorch: the specification of every other implementation, and the fallback.

D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", 2013, arXiv:1312.6114: the reparameterization of section 2.4
and the divergence of appendix B. All in nats. Arguments here are those of the operator `vaekit::reparameterize_kl`, already
checked and expanded by its public wrapper; nothing here records gradients of its own accord.

With sigma = exp(logvar / 2), a prior N(m, exp(s)), d = logvar - s and w = exp(-s), for each element

    z  = mu + sigma eps
    kl = ((mu - m)^2 w + (exp(d) - 1 - d)) / 2

and a standard normal prior has m = s = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vaekit.ops import philox
from vaekit.ops.operands import ALL, LOGVAR, MU, PRIOR_LOGVAR, PRIOR_MU

# A row longer than this is summed in pieces: PyTorch splits the sum of a single long row over its threads, which would make
# the last bits depend on their number.
_SUM_LENGTH = 4096


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the operator computes, draws its noise and returns the KL."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def noise(
    like: Tensor, key: Tensor | None, eps: Tensor | None, num_samples: int | None, row_start: int, event_dims: int
) -> Tensor:
    """eps [K?, *like.shape] in the compute dtype: as given, or made from the key."""
    dtype = compute_dtype(like.dtype)
    if eps is not None:
        return eps.to(dtype)
    assert key is not None
    if num_samples is not None:
        samples = torch.arange(num_samples, dtype=torch.int64, device=key.device) * philox.SAMPLE_STRIDE
        seed, offset = key[..., :1], key[..., 1:] + samples
        key = torch.stack((seed.expand_as(offset), offset), dim=-1)
    start = row_start * math.prod(like.shape[like.ndim - event_dims :])
    return philox.normal(key, like.shape, dtype, start)


def excess(d: Tensor) -> Tensor:
    """exp(d) - 1 - d without cancellation, right to a few ulp for every d; its derivative is expm1(d)."""
    # Below 1/2 the Taylor series d^2/2 (1 + d/3 + d^2/12 + ...); its first left-out term is under half an ulp of the sum.
    # Multiplied and added one by one: PyTorch's addcmul rounds differently at the end of an array than in its middle.
    terms = 15 if d.dtype == torch.float64 else 8
    inside = d.clamp(-0.5, 0.5)
    series = torch.full_like(d, 1.0 / math.factorial(terms + 1))
    for power in range(terms, 1, -1):
        series = series.mul_(inside).add_(1.0 / math.factorial(power))
    series = series.mul_(inside).mul_(inside)
    # At the clamp's bound exp is infinite already: the clamp only keeps inf - inf from giving NaN.
    direct = torch.expm1(d).sub_(d.clamp(max=1e4))
    near = (d.abs() < 0.5).to(d.dtype)  # 0 or 1; a product with it is exact, and ten times as fast as torch.where
    return series.mul_(near).add_(direct.mul_(1.0 - near))


def sum_event(elements: Tensor, event_dims: int) -> Tensor:
    """The sum over the last `event_dims` dimensions, the same bits at any number of threads."""
    # Contiguous, because the order of a sum follows the memory's layout.
    rows = elements.contiguous().flatten(elements.ndim - event_dims)
    while rows.shape[-1] > _SUM_LENGTH:
        pieces = -(-rows.shape[-1] // _SUM_LENGTH)
        rows = torch.nn.functional.pad(rows, (0, pieces * _SUM_LENGTH - rows.shape[-1]))
        rows = rows.unflatten(-1, (pieces, _SUM_LENGTH)).sum(-1)
    return rows.sum(-1)


def forward(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None,
    eps: Tensor | None,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    num_samples: int | None,
    row_start: int,
    event_dims: int,
    reduce_event: bool,
) -> tuple[Tensor, Tensor]:
    """z [K?, ..., D] in mu's dtype and kl [...] or [..., D] in the compute dtype."""
    dtype, result_dtype = compute_dtype(mu.dtype), mu.dtype
    noise_ = noise(mu, key, eps, num_samples, row_start, event_dims)
    mu, logvar = mu.to(dtype), logvar.to(dtype)
    z = mu + torch.exp(0.5 * logvar) * noise_
    if prior_mu is None or prior_logvar is None:
        kl = excess(logvar).add_(mu * mu).mul_(0.5)
    else:
        prior_mu, prior_logvar = prior_mu.to(dtype), prior_logvar.to(dtype)
        standardized = (mu - prior_mu) * torch.exp(-0.5 * prior_logvar)
        kl = excess(logvar - prior_logvar).add_(standardized.mul_(standardized)).mul_(0.5)
    return z.to(result_dtype).contiguous(), sum_event(kl, event_dims) if reduce_event else kl.contiguous()


def backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    key: Tensor | None,
    eps: Tensor | None,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    num_samples: int | None,
    row_start: int,
    event_dims: int,
    reduce_event: bool,
    wanted: int = ALL,
    packed: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of mu, logvar, prior_mu, prior_logvar, each in its dtype.

    One that is not `wanted` is None, and so are the prior's without a prior. With `packed` the first is that of the packed tensor
    of which mu and logvar are the `operands.halves`, and the second None.
    """
    wanted = wanted | MU | LOGVAR if packed else wanted
    dtype = compute_dtype(mu.dtype)
    wide_mu, wide_logvar = mu.to(dtype), logvar.to(dtype)
    grad_mu = grad_logvar = torch.zeros((), dtype=dtype, device=mu.device)
    grad_prior_mu: Tensor | None = None
    grad_prior_logvar: Tensor | None = None
    if grad_z is not None:
        grad_z = grad_z.to(dtype)
        if wanted & LOGVAR:
            scaled = grad_z * noise(mu, key, eps, num_samples, row_start, event_dims)
            grad_logvar = 0.5 * torch.exp(0.5 * wide_logvar) * (scaled if num_samples is None else scaled.sum(0))
        grad_mu = grad_z if num_samples is None else grad_z.sum(0)
    if grad_kl is not None:
        grad_kl = over_event(grad_kl, event_dims, reduce_event)
        if prior_mu is None or prior_logvar is None:
            grad_mu = grad_mu + grad_kl * wide_mu
            grad_logvar = grad_logvar + 0.5 * grad_kl * torch.expm1(wide_logvar)
        else:
            offset, shift = wide_mu - prior_mu.to(dtype), wide_logvar - prior_logvar.to(dtype)
            half = torch.exp(-0.5 * prior_logvar.to(dtype))  # twice, as in forward: its square overflows earlier
            by_mu = grad_kl * (offset * half * half)
            by_logvar = 0.5 * grad_kl * torch.expm1(shift)
            grad_mu, grad_logvar = grad_mu + by_mu, grad_logvar + by_logvar
            grad_prior_mu = -by_mu.to(prior_mu.dtype)
            grad_prior_logvar = -(0.5 * by_mu * offset + by_logvar).to(prior_logvar.dtype)
    if prior_mu is not None and grad_kl is None:
        grad_prior_mu, grad_prior_logvar = torch.zeros_like(mu), torch.zeros_like(mu)
    of_prior = (grad_prior_mu if wanted & PRIOR_MU else None, grad_prior_logvar if wanted & PRIOR_LOGVAR else None)
    if packed:
        both = torch.cat([gradient.to(mu.dtype).expand(mu.shape) for gradient in (grad_mu, grad_logvar)], mu.ndim - event_dims)
        return both, None, *of_prior
    return (
        _owned(grad_mu, mu, grad_z) if wanted & MU else None,
        _owned(grad_logvar, mu, grad_z) if wanted & LOGVAR else None,
        *of_prior,
    )


def _owned(gradient: Tensor, like: Tensor, incoming: Tensor | None) -> Tensor:
    """The gradient in the shape and dtype of `like`, in memory of its own: an operator's result may not alias an input."""
    gradient = gradient.to(like.dtype)
    if gradient.shape == like.shape and gradient is not incoming and gradient.is_contiguous():
        return gradient
    return gradient.expand(like.shape).clone(memory_format=torch.contiguous_format)


def over_event(grad_kl: Tensor, event_dims: int, reduce_event: bool) -> Tensor:
    """A gradient of kl, broadcastable over the elements whose divergences it summed."""
    return grad_kl[(...,) + (None,) * event_dims] if reduce_event else grad_kl
