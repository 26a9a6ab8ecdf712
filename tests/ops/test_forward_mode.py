"""Derivatives in forward mode: those of reverse mode and of the formula's own operations, eager and compiled."""

import pytest
import torch
from torch.autograd import forward_ad

from vaekit import make_key, reparameterize_kl


def point(count, *shape):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(count))


def formula(mu, logvar, prior_mu, prior_logvar, eps):
    shift = logvar - prior_logvar
    kl = ((mu - prior_mu) ** 2 * torch.exp(-prior_logvar) + torch.expm1(shift) - shift) / 2
    return mu + torch.exp(logvar / 2) * eps, kl.sum(-1)


EPS = point(1, 2, 3, 4)[0]


def operator(mu, logvar, prior_mu, prior_logvar):
    return reparameterize_kl(mu, logvar, eps=EPS, num_samples=2, prior=(prior_mu, prior_logvar))


def packed_operator(mu, logvar, prior_mu, prior_logvar):
    return reparameterize_kl(packed=torch.cat((mu, logvar), -1), eps=EPS, num_samples=2, prior=(prior_mu, prior_logvar))


def expected(parameters, tangents):
    return torch.func.jvp(lambda *p: formula(*p, EPS), parameters, tangents)


def by_duals(function, parameters, tangents):
    with forward_ad.dual_level():
        results = function(*map(forward_ad.make_dual, parameters, tangents))
        duals = [forward_ad.unpack_dual(result) for result in results]
    return tuple(d.primal for d in duals), tuple(d.tangent for d in duals)


@pytest.mark.parametrize("how", [by_duals, torch.func.jvp])
@pytest.mark.parametrize("function", [operator, packed_operator])
def test_eager_tangents_are_those_of_the_formula(function, how):
    parameters, tangents = point(4, 3, 4), point(4, 3, 4)[::-1]
    torch.testing.assert_close(how(function, parameters, tangents), expected(parameters, tangents))


@pytest.mark.parametrize("moving", range(4))
def test_one_operand_may_move_alone(moving):
    parameters, tangent = point(4, 3, 4), torch.ones(3, 4, dtype=torch.float64)
    zeros = [torch.zeros(3, 4, dtype=torch.float64)] * 4
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(p, tangent) if i == moving else p for i, p in enumerate(parameters)]
        got = [forward_ad.unpack_dual(result).tangent for result in operator(*duals)]
    zeros[moving] = tangent
    for have, want in zip(got, expected(parameters, tuple(zeros))[1], strict=True):
        torch.testing.assert_close(torch.zeros_like(want) if have is None else have, want)


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("reduce", ["event", "none"])
def test_all_orders_of_the_two_modes_agree_with_numerical_derivatives(num_samples, reduce):
    parameters = tuple(p.requires_grad_() for p in point(4, 2, 3))

    def function(mu, logvar, *prior):
        return reparameterize_kl(mu, logvar, prior=prior, key=make_key(3), num_samples=num_samples, reduce=reduce)

    assert torch.autograd.gradcheck(function, parameters, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, parameters, check_fwd_over_rev=True)


@pytest.mark.parametrize("outer", [torch.func.jacfwd, torch.func.jacrev])
@pytest.mark.parametrize("inner", [torch.func.jacfwd, torch.func.jacrev])
def test_the_hessian_is_the_same_in_every_order(outer, inner):
    mu, logvar = point(2, 4)
    hessian = outer(inner(lambda v: reparameterize_kl(mu, v, key=make_key(0))[1]))(logvar)
    torch.testing.assert_close(hessian, torch.diag(0.5 * torch.exp(logvar)))


def test_values_with_duals_have_the_bits_that_they_have_without():
    mu, logvar = torch.randn(5, 3), torch.randn(5, 3)
    values, _ = by_duals(lambda m, v: reparameterize_kl(m, v, key=make_key(2)), (mu, logvar), (mu, logvar))
    assert all(map(torch.equal, values, reparameterize_kl(mu, logvar, key=make_key(2))))


def test_each_key_of_a_batch_has_its_noise():
    mu, keys = torch.randn(5, 3), torch.stack([make_key(seed) for seed in range(5)])
    mapped = torch.func.vmap(lambda m, k: torch.func.jvp(lambda m: reparameterize_kl(m, m, key=k), (m,), (m,)))(mu, keys)
    for i in range(5):
        single = torch.func.jvp(lambda m, i=i: reparameterize_kl(m, m, key=keys[i]), (mu[i],), (mu[i],))
        torch.testing.assert_close([[t[i] for t in pair] for pair in mapped], [list(pair) for pair in single])


def test_a_tangent_of_the_noise_is_refused():
    (mu,) = point(1, 3, 4)
    with forward_ad.dual_level(), pytest.raises(ValueError, match=r"eps.detach\(\)"):
        reparameterize_kl(mu, mu, eps=forward_ad.make_dual(mu, mu))


COMPILED = {
    "torch.func.jvp of a compiled function": lambda f, p, t: torch.func.jvp(torch.compile(f, backend="aot_eager"), p, t),
    "torch.func.jvp compiled": lambda f, p, t: torch.compile(
        lambda *p: torch.func.jvp(f, p, t), backend="aot_eager", fullgraph=True
    )(*p),
    "duals within a compiled function": lambda f, p, t: torch.compile(lambda *p: by_duals(f, p, t), backend="aot_eager")(*p),
    "duals given to a compiled function": lambda f, p, t: by_duals(torch.compile(f, backend="aot_eager"), p, t),
}


@pytest.mark.compile
@pytest.mark.parametrize("how", COMPILED)
@pytest.mark.parametrize("function", [operator, packed_operator])
def test_compiled_tangents_are_those_of_the_formula(function, how):
    """They were those of zero: the operator has no derivative in forward mode that torch.compile would find."""
    torch.compiler.reset()
    parameters, tangents = point(4, 3, 4), point(4, 3, 4)[::-1]
    torch.testing.assert_close(COMPILED[how](function, parameters, tangents), expected(parameters, tangents))


@pytest.mark.compile
def test_compiled_from_a_key_forward_mode_has_the_eager_noise():
    mu, logvar = torch.randn(5, 3), torch.randn(5, 3)

    def tangents(mu, logvar):
        return torch.func.jvp(lambda m, v: reparameterize_kl(m, v, key=make_key(2)), (mu, logvar), (mu, logvar))

    compiled = torch.compile(tangents, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(mu, logvar), tangents(mu, logvar), rtol=2e-6, atol=2e-6)
