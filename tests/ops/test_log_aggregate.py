"""log q(z) and log q(z_d) of a batch: the kernel against its specification, mpmath, and what only a kernel gets wrong."""

import math
import os
import subprocess
import sys

import mpmath
import pytest
import torch
from helpers.memory import LargestTensor
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import vaekit
from vaekit.ops import log_aggregate as module
from vaekit.ops import native, pairwise
from vaekit.ops.log_aggregate import backward, forward, log_aggregate

OPERATOR, BACKWARD = torch.ops.vaekit.log_aggregate.default, torch.ops.vaekit.log_aggregate_backward.default
needs_kernel = pytest.mark.skipif(not native.has_kernel("cpu", "log_aggregate"), reason="no compiled CPU kernel is loaded")
OWN = -1.3  # log of a weight


@st.composite
def batches(draw, dtype=None):
    """mu, logvar [J, D] and eps [I, D] in several layouts, and where the rows begin: sizes next to those of vectors and tiles."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64])) if dtype is None else dtype
    examples, latents = draw(st.sampled_from([1, 2, 3, 5, 31, 32, 33, 65])), draw(st.sampled_from([1, 2, 7, 8, 9, 17]))
    rows = draw(st.integers(1, examples))
    first = draw(st.integers(0, examples - rows))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread, logvar_at = draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0])), draw(st.sampled_from([-30.0, -8.0, -1.0, 0.0, 30.0]))

    def values(count, scale=1.0, shift=0.0):
        layout = draw(st.sampled_from(["contiguous", "transposed", "strided", "expanded"]))
        if layout == "transposed":
            return (torch.randn(latents, count, generator=generator) * scale + shift).to(dtype).T
        if layout == "strided":
            return (torch.randn(count, 2 * latents, generator=generator) * scale + shift).to(dtype)[:, ::2]
        if layout == "expanded":
            return (torch.randn(latents, generator=generator) * scale + shift).to(dtype).expand(count, latents)
        return (torch.randn(count, latents, generator=generator) * scale + shift).to(dtype)

    return values(examples, spread), values(examples, draw(st.sampled_from([0.1, 2.0])), logvar_at), values(rows), first


def results(forward, backward, mu, logvar, eps, first, of_joint, of_marginals, own=OWN):
    """Of forward and of backward."""
    totals = forward(mu, logvar, eps, first, own)
    return (*totals, *backward(of_joint, of_marginals, *totals, mu, logvar, eps, first, own))


def incoming(eps):
    return torch.randn(len(eps), dtype=eps.dtype), torch.randn(eps.shape, dtype=eps.dtype)


def assert_as_right_as_the_specification(ours, theirs, exact):
    """Each within three times the specification's error, or a few units of the last place of what is largest."""
    for got, like, right in zip(ours, theirs, exact, strict=True):
        assert (got.dtype, got.shape) == (like.dtype, like.shape)
        last = 16 * torch.finfo(got.dtype).eps * right.abs().max()
        assert (got.double() - right).abs().max() <= 3 * (like.double() - right).abs().max() + last


@needs_kernel
@given(batches(torch.float32), st.sampled_from([OWN, 0.0, -9.0, 2.0]))
def test_in_float32_it_is_as_right_as_the_specification_whatever_the_spread(batch, own):
    mu, logvar, eps, first = batch
    arguments = (mu, logvar, eps, first, *incoming(eps))
    exact = results(forward, backward, *(a.double() if isinstance(a, torch.Tensor) else a for a in arguments), own)
    theirs = results(forward, backward, *arguments, own)
    assert_as_right_as_the_specification(results(OPERATOR, BACKWARD, *arguments, own), theirs, exact)


@needs_kernel
@given(batches(torch.float64))
def test_in_float64_it_is_the_specification(batch):
    mu, logvar, eps, first = batch
    arguments = (mu, logvar, eps, first, *incoming(eps))
    for got, want in zip(results(OPERATOR, BACKWARD, *arguments), results(forward, backward, *arguments), strict=True):
        assert_close(got, want, rtol=1e-11, atol=1e-13 * float(want.abs().max()))


@needs_kernel
@pytest.mark.parametrize(("examples", "latents"), [(700, 9), (1100, 3), (300, 70), (513, 1)])
def test_many_chunks_blocks_and_tiles_are_the_specification(examples, latents):
    mu, logvar, eps = torch.randn(3, examples, latents, dtype=torch.float64).unbind()
    for first, rows in ((0, examples), (37, examples - 39), (examples - 1, 1)):
        arguments = (mu, logvar - 1.0, eps[:rows], first, *incoming(eps[:rows]))
        for got, want in zip(results(OPERATOR, BACKWARD, *arguments), results(forward, backward, *arguments), strict=True):
            assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("function", [forward, pytest.param(OPERATOR, marks=needs_kernel)], ids=["specification", "kernel"])
@pytest.mark.parametrize("logvar_at", [-30.0, 0.0, 30.0])
def test_values_are_those_of_fifty_digits(function, logvar_at):
    mu, logvar, eps = torch.randn(3, 4, 2, dtype=torch.float64).unbind()
    logvar, first = logvar + logvar_at, 1
    joint, marginals = function(mu, logvar, eps[:2], first, OWN)
    with mpmath.workdps(50):
        mp = mpmath.mpf
        for i in range(2):
            terms = []
            for j in range(4):
                weight = mp(OWN if j == first + i else 0.0)
                densities = []
                for d in range(2):
                    z = mp(mu[first + i, d].item()) + mpmath.exp(mp(logvar[first + i, d].item()) / 2) * mp(eps[i, d].item())
                    mean, log_variance = mp(mu[j, d].item()), mp(logvar[j, d].item())
                    squared = (z - mean) ** 2 * mpmath.exp(-log_variance)
                    densities.append(-(squared + log_variance + mpmath.log(2 * mpmath.pi)) / 2)
                terms.append((weight, densities))
            right = mpmath.log(sum(mpmath.exp(w + sum(densities)) for w, densities in terms))
            assert joint[i].item() == pytest.approx(float(right), rel=1e-13)
            for d in range(2):
                right = mpmath.log(sum(mpmath.exp(w + densities[d]) for w, densities in terms))
                assert marginals[i, d].item() == pytest.approx(float(right), rel=1e-13)


@pytest.mark.parametrize("elements", [1, 40, 1 << 20], ids=["row by row", "blocks", "at once"])
def test_blocks_change_nothing_in_the_specification(elements, monkeypatch):
    mu, logvar, eps = torch.randn(3, 6, 3, dtype=torch.float64).unbind()
    arguments = (mu, logvar, eps[:4], 2, *incoming(eps[:4]))
    at_once = results(forward, backward, *arguments)
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", elements)
    for got, want in zip(results(forward, backward, *arguments), at_once, strict=True):
        assert_close(got, want, rtol=1e-12, atol=1e-12)


# Derivatives.


def test_first_and_second_derivatives_are_those_of_differences():
    mu, logvar, eps = torch.randn(3, 4, 2, dtype=torch.float64).unbind()
    mu.requires_grad_(), logvar.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: log_aggregate(m, s, eps[:3], 1, OWN), (mu, logvar))
    assert torch.autograd.gradgradcheck(lambda m, s: log_aggregate(m, s, eps[:3], 1, OWN), (mu, logvar))


def second_and_third(function, inputs):
    """Derivatives of the squares of the gradients, and of those derivatives' squares."""
    first = torch.autograd.grad(sum(result.sin().sum() for result in function(*inputs)), inputs, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs, create_graph=True)
    return *second, *torch.autograd.grad(sum(gradient.square().sum() for gradient in second), inputs)


def test_second_and_third_derivatives_in_blocks_are_those_of_the_specification_at_once(monkeypatch):
    mu, logvar, eps = torch.randn(3, 7, 3, dtype=torch.float64).unbind()
    mu.requires_grad_(), logvar.requires_grad_()
    at_once = second_and_third(lambda m, s: forward(m, s, eps[:5], 1, OWN), (mu, logvar))
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", 8 * 7 * 3 * 2)  # two rows
    for got, want in zip(second_and_third(lambda m, s: log_aggregate(m, s, eps[:5], 1, OWN), (mu, logvar)), at_once, strict=True):
        assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_second_derivatives_hold_no_pairs_of_all_rows(monkeypatch):
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", 1)
    mu, logvar, eps = torch.randn(3, 48, 6).unbind()
    mu.requires_grad_(), logvar.requires_grad_()
    with LargestTensor() as largest:
        first = torch.autograd.grad(log_aggregate(mu, logvar, eps, 0, OWN)[0].sum(), (mu, logvar), create_graph=True)
        torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (mu, logvar))
    assert largest.elements == 48 * 6


def test_the_written_out_backward_is_autograds_of_the_specification():
    mu, logvar, eps = torch.randn(3, 5, 3, dtype=torch.float64).unbind()
    mu.requires_grad_(), logvar.requires_grad_()
    given = incoming(eps[:2])
    totals = forward(mu, logvar, eps[:2], 2, OWN)
    expected = torch.autograd.grad(totals, (mu, logvar), given)
    with torch.no_grad():
        for got, want in zip(backward(*given, *totals, mu, logvar, eps[:2], 2, OWN), expected, strict=True):
            assert_close(got, want)


def test_one_tensor_as_both_parameters_has_the_sum_of_their_gradients():
    both, eps = torch.randn(4, 2, dtype=torch.float64, requires_grad=True), torch.randn(4, 2, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda t: log_aggregate(t, t, eps, 0, OWN), (both,))


def test_transforms_of_torch_func_give_what_a_loop_gives():
    mu, logvar, eps = torch.randn(3, 5, 4, 2, dtype=torch.float64).unbind()

    def total(m, s, e):
        joint, marginals = log_aggregate(m, s, e, 1, OWN)
        return joint.sum() + (marginals**2).sum()

    mapped = torch.func.vmap(torch.func.grad(total, argnums=(0, 1)))(mu, logvar, eps[:, :3])
    for k in range(5):
        inputs = [t[k].clone().requires_grad_() for t in (mu, logvar)]
        for got, want in zip(mapped, torch.autograd.grad(total(*inputs, eps[k, :3]), inputs), strict=True):
            assert_close(got[k], want)
    _, tangent = torch.func.jvp(lambda m: total(m, logvar[0], eps[0, :3]), (mu[0],), (logvar[1],))
    gradient = torch.func.grad(total)(mu[0], logvar[0], eps[0, :3])
    assert_close(tangent, (gradient * logvar[1]).sum())


def test_opcheck():
    mu, logvar, eps = torch.randn(3, 4, 2, dtype=torch.float64).unbind()
    mu.requires_grad_(), logvar.requires_grad_()
    arguments = (mu, logvar, eps[:3], 1, OWN)
    torch.library.opcheck(OPERATOR, arguments)
    totals = [t.detach() for t in OPERATOR(*arguments)]
    torch.library.opcheck(BACKWARD, (*incoming(eps[:3]), *totals, mu.detach(), logvar.detach(), *arguments[2:]))


@pytest.mark.compile
@pytest.mark.parametrize("kernels", [module._KERNELS, frozenset()], ids=["with what there is", "without a kernel"])
def test_compiled_it_is_one_graph_of_the_same_value_and_gradient(kernels, monkeypatch):
    monkeypatch.setattr(module, "_KERNELS", kernels)
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", 40)
    torch.compiler.reset()
    mu, logvar, eps = torch.randn(3, 5, 3, dtype=torch.float64).unbind()
    mu.requires_grad_(), logvar.requires_grad_()

    def total(m, s):
        joint, marginals = log_aggregate(m, s, eps[:4], 1, OWN)
        return joint.sum() + (marginals**2).sum()

    ours, right = torch.compile(total, fullgraph=True, backend="aot_eager")(mu, logvar), total(mu, logvar)
    assert_close(ours, right)
    for got, want in zip(torch.autograd.grad(ours, (mu, logvar)), torch.autograd.grad(right, (mu, logvar)), strict=True):
        assert_close(got, want)


# What only a kernel gets wrong.


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("examples", "latents"), [(5, 3), (700, 12), (1300, 2)])
def test_threads_change_no_bit(examples, latents, dtype):
    mu, logvar, eps = torch.randn(3, examples, latents, dtype=dtype).unbind()
    arguments, seen = (mu, logvar, eps[1:], 1, *incoming(eps[1:])), []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        seen.append(results(OPERATOR, BACKWARD, *arguments))
    for other in seen[1:]:
        assert all(map(torch.equal, other, seen[0]))


SHOWS_BITS = """
import hashlib, torch, vaekit
torch.manual_seed(0)
bits = hashlib.sha256()
for dtype in (torch.float32, torch.float64):
    mu, logvar, eps = torch.randn(3, 600, 9, dtype=dtype).unbind()
    totals = torch.ops.vaekit.log_aggregate(mu, 4 * logvar, eps, 0, -1.3)
    found = torch.ops.vaekit.log_aggregate_backward(eps[:, 0], eps, *totals, mu, 4 * logvar, eps, 0, -1.3)
    for tensor in (*totals, *found):
        bits.update(tensor.numpy().tobytes())
seen = bits.hexdigest()
"""


@needs_kernel
@pytest.mark.skipif("x86-64-v4" not in vaekit.build_info()["cpu kernel"], reason="this processor has no wider instruction set")
def test_instruction_sets_with_fused_multiply_adds_give_the_same_bits(tmp_path):
    exec(SHOWS_BITS, here := {})
    environment = {**os.environ, "VAEKIT_CPU_CAPABILITY": "x86-64-v3"}
    program = [sys.executable, "-c", f"{SHOWS_BITS}print(seen)"]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here["seen"]


@needs_kernel
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["mu", "logvar", "eps"])
def test_what_is_not_finite_does_to_values_what_it_does_in_the_specification(place, value):
    operands = {name: torch.randn(40, 3) for name in ("mu", "logvar", "eps")}
    operands[place][7, 1] = value
    ours, theirs = (f(*operands.values(), 0, OWN) for f in (OPERATOR, forward))
    for got, want in zip(ours, theirs, strict=True):
        assert_close(got, want, equal_nan=True)


@needs_kernel
@pytest.mark.parametrize("eps_at", [1.0, 1e3, 1e15])
def test_a_row_far_from_all_examples_keeps_the_pair_with_its_own(eps_at):
    mu, logvar, eps = torch.zeros(40, 2), torch.full((40, 2), -150.0), torch.full((40, 2), eps_at)
    joint, marginals = OPERATOR(mu + torch.arange(40.0)[:, None], logvar, eps, 0, OWN)
    log_density = -0.5 * (eps.double().square() - 150.0 + math.log(2 * math.pi)) + OWN
    assert_close(marginals.double(), log_density, rtol=1e-6, atol=0.0)
    assert_close(joint.double(), log_density.sum(1) - OWN, rtol=1e-6, atol=0.0)


def test_rows_and_examples_may_be_none():
    for examples in (0, 3):
        mu = torch.randn(examples, 2, requires_grad=True)
        joint, marginals = log_aggregate(mu, mu, torch.zeros(0, 2), 0, OWN)
        assert (joint.shape, marginals.shape) == ((0,), (0, 2))
        (gradient,) = torch.autograd.grad(joint.sum() + marginals.sum(), mu)
        assert torch.equal(gradient, torch.zeros(examples, 2))


def changed(name, change):
    """The operands of both operators, of which one has been changed."""
    mu, logvar, eps = torch.randn(3, 6, 2).unbind()
    operands = {"mu": mu, "logvar": logvar, "eps": eps[:4], "first": 1}
    gradients = {"of_joint": eps[:4, 0], "of_marginals": eps[:4], "joint": eps[:4, 1], "marginals": eps[:4]}
    given = operands if name in operands else gradients
    given[name] = change(given[name])
    return operands, gradients


def call(operands, gradients):
    return OPERATOR(*operands.values(), OWN), BACKWARD(*gradients.values(), *operands.values(), OWN)


@needs_kernel
@pytest.mark.parametrize(
    "change",
    [lambda t: t[:-1], lambda t: t[..., :-1], lambda t: t.double(), lambda t: t.long(), lambda t: t.unsqueeze(0)],
    ids=range(5),
)
@pytest.mark.parametrize("name", ["mu", "logvar", "eps", "of_joint", "of_marginals", "joint", "marginals"])
def test_operands_that_do_not_fit_are_refused_and_never_read(name, change):
    operands, gradients = changed(name, change)
    if name == "eps" and operands["eps"].shape == (3, 2):  # fewer rows are as good
        operands["first"] = 4
    with pytest.raises(RuntimeError, match="log_aggregate"):
        call(operands, gradients)


@needs_kernel
@pytest.mark.parametrize("first", [-1, 3, 2**62])
def test_rows_that_are_no_examples_are_refused(first):
    operands, _ = changed("first", lambda _: first)
    with pytest.raises(RuntimeError, match="the rows are not examples first"):
        OPERATOR(*operands.values(), OWN)
