"""Calls of the operator with every option, and how a kernel's results are held against the reference's."""

import torch
from hypothesis import strategies as st

from helpers.strategies import gaussians, keys
from vaekit import make_key
from vaekit.ops import reference
from vaekit.ops.operands import Operands

# In units of what each element is made of; half precision rounds results that differ by a last bit before.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 8.0e-3, torch.float16: 1.0e-3}


def assert_like_the_reference(got, expected, scales):
    """`scales` are the sums of the sizes of the terms that make up each element, before anything cancels."""
    assert len(got) == len(expected)
    for have, want, scale in zip(got, expected, scales, strict=True):
        if want is None:
            assert have is None
            continue
        assert have.dtype == want.dtype
        assert have.shape == want.shape
        largest = torch.finfo(want.dtype).max
        near = scale > 0.99 * largest  # may be finite in one and infinite in the other
        tiny = torch.finfo(want.dtype).smallest_normal
        difference = (have.double() - want.double()).abs()
        fine = (difference <= TOLERANCE[want.dtype] * scale + tiny) | (have == want) | (have.isnan() & want.isnan()) | near
        assert bool(fine.all()), (have[~fine], want[~fine], scale[~fine])


def terms(o: Operands):
    """In float64: sigma, |eps| + 1, the distance to the prior, its precision, |mu| + |m|, logvar - s."""
    noise = reference.noise(o.mu, o.key, o.eps, o.num_samples, o.row_start, o.event_dims).double().abs() + 1
    m, s = (torch.zeros(()), torch.zeros(())) if o.prior_mu is None else (o.prior_mu.double(), o.prior_logvar.double())
    size = o.mu.double().abs() + m.abs()
    return torch.exp(o.logvar.double() / 2), noise, size, torch.exp(-s / 2), o.logvar.double() - s


def forward_scales(o: Operands):
    sigma, noise, size, half_precision, shift = terms(o)
    kl = 0.5 * ((size * half_precision) ** 2 + reference.excess(shift.clone()) + 1e-7 * shift.abs())
    return size + sigma * noise, kl.flatten(kl.ndim - o.event_dims).sum(-1) if o.reduce_event else kl


def backward_scales(grad_z, grad_kl, o: Operands):
    sigma, noise, size, half_precision, shift = terms(o)
    zero = torch.zeros(o.mu.shape, dtype=torch.float64)
    drawn = scaled = weight = zero
    if grad_z is not None:
        drawn, scaled = grad_z.double().abs(), grad_z.double().abs() * noise
        if o.num_samples is not None:
            drawn, scaled = drawn.sum(0), scaled.sum(0)
    if grad_kl is not None:
        weight = reference.over_event(grad_kl.double().abs(), o.event_dims, o.reduce_event).expand(o.mu.shape)
    by_mu = weight * (size * half_precision * half_precision)
    by_logvar = 0.5 * weight * (torch.expm1(shift).abs() + 1e-7 * shift.abs())
    draw = 0.5 * sigma * scaled if grad_z is not None else zero
    return drawn + by_mu, draw + by_logvar, by_mu, 0.5 * by_mu * size + by_logvar


@st.composite
def calls(draw):
    """Operands, with every option."""
    mu, logvar = draw(gaussians())
    num_samples = draw(st.sampled_from([None, 1, 3]))
    row_start = draw(st.sampled_from([0, 1, 7, 2**33 + 1]))
    event_dims = draw(st.integers(1, mu.ndim))
    key = make_key(*draw(keys))
    eps = None
    if draw(st.booleans()):
        dtype = draw(st.sampled_from([mu.dtype, reference.compute_dtype(mu.dtype)]))
        eps = reference.noise(mu, key, None, num_samples, row_start, event_dims).to(dtype)
        key = None
    prior_mu = prior_logvar = None
    if draw(st.booleans()):
        prior_mu, prior_logvar = torch.randn(mu.shape).to(mu.dtype), torch.randn(mu.shape[-1:]).to(mu.dtype).expand(mu.shape)
    return Operands(mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, draw(st.booleans()))
