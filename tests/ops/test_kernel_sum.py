"""Kernels summed over all pairs: the compiled kernel against scipy, its specification, and what only a kernel gets wrong."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.memory import LargestTensor
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch.testing import assert_close

import vaekit
from vaekit.ops import kernel_sum as module
from vaekit.ops import native, pairwise
from vaekit.ops.kernel_sum import kernel_sum, specification

OPERATOR, BACKWARD = torch.ops.vaekit.kernel_sum.default, torch.ops.vaekit.kernel_sum_backward.default
needs_kernel = pytest.mark.skipif(not native.has_kernel("cpu", "kernel_sum"), reason="no compiled CPU kernel is loaded")
BANDWIDTHS = [0.7, 3.0, 40.0]


@st.composite
def samples(draw, dtype):
    """x [I, D] and y [J, D], or None for x itself, in several layouts: sizes next to those of vectors and tiles."""
    latents = draw(st.sampled_from([1, 2, 3, 4, 5, 9]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale, shift = draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0])), draw(st.sampled_from([0.0, 100.0]))

    def points():
        count = draw(st.sampled_from([1, 2, 3, 5, 31, 32, 33, 65]))
        layout = draw(st.sampled_from(["contiguous", "transposed", "strided", "expanded"]))
        if layout == "transposed":
            return (torch.randn(latents, count, generator=generator) * scale + shift).to(dtype).T
        if layout == "strided":
            return (torch.randn(count, 2 * latents, generator=generator) * scale + shift).to(dtype)[:, ::2]
        if layout == "expanded":
            return (torch.randn(latents, generator=generator) * scale + shift).to(dtype).expand(count, latents)
        return (torch.randn(count, latents, generator=generator) * scale + shift).to(dtype)

    return points(), points() if draw(st.booleans()) else None


def by_numpy(x, y, is_gaussian):
    """The sum and its gradient in x, in float64, by all differences."""
    x, y = x.double().numpy(), (x if y is None else y).double().numpy()
    squared, differences = cdist(x, y, "sqeuclidean"), x[:, None] - y
    total, slopes = 0.0, np.zeros_like(squared)
    for c in BANDWIDTHS:
        values = np.exp(-squared / c) if is_gaussian else c / (c + squared)
        total += values.sum()
        slopes += values / c if is_gaussian else values**2 / c
    terms = -2.0 * slopes[:, :, None] * differences
    return total, terms.sum(1), np.abs(terms).sum(1)


@needs_kernel
@pytest.mark.parametrize("is_gaussian", [False, True], ids=["imq", "gaussian"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 3e-6), (torch.float64, 1e-14)], ids=str)
@given(data=st.data())
def test_sums_and_gradients_are_those_of_all_differences(data, dtype, near, is_gaussian):
    x, y = data.draw(samples(dtype))
    total, gradient, size = by_numpy(x, y, is_gaussian)
    assert OPERATOR(x, y, BANDWIDTHS, is_gaussian).item() == pytest.approx(total, rel=near)
    sides = 2.0 if y is None else 1.0  # within one sample a point is on both sides
    ours = BACKWARD(torch.tensor(0.3, dtype=torch.float64), x, y, BANDWIDTHS, is_gaussian)
    assert ours.dtype == dtype
    assert (np.abs(ours.double().numpy() - 0.3 * sides * gradient) <= near * sides * size + 1e-30).all()


@needs_kernel
@pytest.mark.parametrize("is_gaussian", [False, True], ids=["imq", "gaussian"])
@pytest.mark.parametrize(("points", "others", "latents"), [(1100, 700, 3), (300, None, 70), (1301, None, 2), (5, 2000, 600)])
def test_many_chunks_and_long_rows_are_the_specification(points, others, latents, is_gaussian):
    x = torch.randn(points, latents, dtype=torch.float64, requires_grad=True)
    y = None if others is None else torch.randn(others, latents, dtype=torch.float64, requires_grad=True)
    inputs = [t for t in (x, y) if t is not None]
    ours, right = (f(x, y, [2.0 * latents], is_gaussian) for f in (kernel_sum, specification))
    assert_close(ours, right, rtol=1e-13, atol=0.0)
    for got, want in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(right, inputs), strict=True):
        assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_gaussian", [False, True], ids=["imq", "gaussian"])
def test_first_and_second_derivatives_are_those_of_differences(is_gaussian):
    x, y = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 5))
    for function, inputs in (
        (lambda x, y: kernel_sum(x, y, BANDWIDTHS, is_gaussian), (x, y)),
        (lambda x: kernel_sum(x, y.detach(), BANDWIDTHS, is_gaussian), (x,)),
        (lambda y: kernel_sum(x.detach(), y, BANDWIDTHS, is_gaussian), (y,)),
        (lambda x: kernel_sum(x, None, BANDWIDTHS, is_gaussian), (x,)),
        (lambda x: kernel_sum(x, x, BANDWIDTHS, is_gaussian), (x,)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("has_others", [True, False])
def test_second_and_third_derivatives_in_blocks_are_those_of_the_specification_at_once(has_others, monkeypatch):
    inputs = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in ((5, 7) if has_others else (7,))]

    def derivatives(function):
        first = torch.autograd.grad(function(*inputs).sin(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs, create_graph=True)
        return *second, *torch.autograd.grad(sum(gradient.square().sum() for gradient in second), inputs)

    at_once = derivatives(lambda x, y=None: specification(x, y, BANDWIDTHS, False, every_order=True))
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", 8 * 7 * 3 * 2)  # two rows
    for got, want in zip(derivatives(lambda x, y=None: kernel_sum(x, y, BANDWIDTHS, False)), at_once, strict=True):
        assert_close(got, want, rtol=1e-10, atol=1e-12)


@needs_kernel  # without one torch.func finds gradients, into which the mode that counts cannot look
def test_second_derivatives_hold_no_pairs_of_all_rows(monkeypatch):
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", 1)
    x, y = (torch.randn(48, 6, requires_grad=True) for _ in range(2))
    with LargestTensor() as largest:
        first = torch.autograd.grad(kernel_sum(x, y, BANDWIDTHS, False), (x, y), create_graph=True)
        torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (x, y))
    assert largest.elements == 48 * 6


@pytest.mark.parametrize("is_gaussian", [False, True], ids=["imq", "gaussian"])
def test_transforms_of_torch_func_give_what_a_loop_gives(is_gaussian):
    x, y = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 5, 2, dtype=torch.float64)

    def total(x, y):
        return kernel_sum(x, y, BANDWIDTHS, is_gaussian) + kernel_sum(x, None, BANDWIDTHS, is_gaussian)

    mapped = torch.func.vmap(torch.func.grad(total))(x, y)
    for k in range(3):
        one = x[k].clone().requires_grad_()
        assert_close(mapped[k], torch.autograd.grad(total(one, y[k]), one)[0])
    _, tangent = torch.func.jvp(lambda x: total(x, y[0]), (x[0],), (x[1],))
    assert_close(tangent, (mapped[0] * x[1]).sum())


@pytest.mark.parametrize("every_order", [False, True])
@pytest.mark.parametrize("elements", [1, 200], ids=["row by row", "blocks"])
def test_blocks_change_nothing_in_the_specification(elements, every_order, monkeypatch):
    x, y = torch.randn(9, 3, dtype=torch.float64, requires_grad=True), torch.randn(7, 3, dtype=torch.float64)
    at_once = specification(x, y, BANDWIDTHS, False)
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", elements)
    total = specification(x, y, BANDWIDTHS, False, every_order=every_order)
    assert_close(total, at_once, rtol=1e-13, atol=0.0)
    assert_close(*(torch.autograd.grad(t, x)[0] for t in (total, at_once)))


def test_opcheck():
    x, y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    for other in (y, None):
        torch.library.opcheck(OPERATOR, (x, other, BANDWIDTHS, True))
        if "cpu" in module._KERNELS:  # these checks cannot look into torch.func, by which the fallback finds gradients
            grad = torch.ones((), dtype=torch.float64)
            torch.library.opcheck(BACKWARD, (grad, x.detach(), None if other is None else y.detach(), BANDWIDTHS, False))


@pytest.mark.compile
@pytest.mark.parametrize("kernels", [module._KERNELS, frozenset()], ids=["with what there is", "without a kernel"])
def test_compiled_it_is_one_graph_of_the_same_value_and_gradient(kernels, monkeypatch):
    monkeypatch.setattr(module, "_KERNELS", kernels)
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", 200)
    torch.compiler.reset()
    x, y = torch.randn(9, 3, dtype=torch.float64, requires_grad=True), torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def total(x, y):
        return kernel_sum(x, y, BANDWIDTHS, True) - kernel_sum(x, None, BANDWIDTHS, False)

    ours, right = torch.compile(total, fullgraph=True, backend="aot_eager")(x, y), total(x, y)
    assert_close(ours, right)
    for got, want in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(right, (x, y)), strict=True):
        assert_close(got, want)


# What only a kernel gets wrong.


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("others", [None, 900])
def test_threads_change_no_bit(others, dtype):
    x, y, seen = torch.randn(1001, 5, dtype=dtype), None if others is None else torch.randn(others, 5, dtype=dtype), []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        grad = torch.ones((), dtype=torch.float64)
        seen.append((OPERATOR(x, y, BANDWIDTHS, True), BACKWARD(grad, x, y, BANDWIDTHS, False)))
    for other in seen[1:]:
        assert all(map(torch.equal, other, seen[0]))


SHOWS_BITS = """
import hashlib, torch, vaekit
torch.manual_seed(0)
bits = hashlib.sha256()
for dtype in (torch.float32, torch.float64):
    x, y = torch.randn(2, 600, 9, dtype=dtype).unbind()
    for is_gaussian in (False, True):
        total = torch.ops.vaekit.kernel_sum(x, y, [0.5, 20.0], is_gaussian)
        gradient = torch.ops.vaekit.kernel_sum_backward(total, x, y, [0.5, 20.0], is_gaussian)
        bits.update(total.numpy().tobytes() + gradient.numpy().tobytes())
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
@pytest.mark.parametrize("is_gaussian", [False, True], ids=["imq", "gaussian"])
def test_points_whose_squared_distance_overflows_add_nothing(is_gaussian):
    x = torch.tensor([[1e30, 0.0], [0.0, 0.0], [0.0, -1e25]])
    assert OPERATOR(x, None, BANDWIDTHS, is_gaussian) == 3 * len(BANDWIDTHS)
    grad = torch.ones((), dtype=torch.float64)
    assert torch.equal(BACKWARD(grad, x, None, BANDWIDTHS, is_gaussian), torch.zeros(3, 2))


@needs_kernel
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_makes_the_sum_nan_as_in_the_specification(value):
    x, y = torch.randn(40, 3), torch.randn(50, 3)
    x[7, 1] = value
    for other in (None, y):
        ours, right = (f(x, other, BANDWIDTHS, False) for f in (OPERATOR, specification))
        assert_close(ours, right, equal_nan=True)


def test_there_may_be_no_points_or_latents():
    for shape, other, total in (((0, 3), None, 0), ((0, 3), (4, 3), 0), ((4, 3), (0, 3), 0), ((2, 0), (3, 0), 18)):
        x = torch.randn(shape, requires_grad=True)
        ours = kernel_sum(x, None if other is None else torch.randn(other), BANDWIDTHS, False)
        assert ours.item() == total
        assert torch.equal(torch.autograd.grad(ours, x)[0], torch.zeros(shape))


@needs_kernel
@pytest.mark.parametrize(
    "change",
    [lambda t: t[..., :-1], lambda t: t.double(), lambda t: t.long(), lambda t: t.unsqueeze(0), lambda t: t[0]],
    ids=range(5),
)
def test_samples_that_do_not_fit_are_refused_and_never_read(change):
    x, y = torch.randn(6, 2), torch.randn(5, 2)
    for operands in ((change(x), y), (x, change(y))):
        with pytest.raises(RuntimeError, match="kernel_sum"):
            OPERATOR(*operands, BANDWIDTHS, False)
        with pytest.raises(RuntimeError, match="kernel_sum"):
            BACKWARD(torch.ones((), dtype=torch.float64), *operands, BANDWIDTHS, False)
    with pytest.raises(RuntimeError, match="the gradient is not one float64 number"):
        BACKWARD(torch.ones(2, dtype=torch.float64), x, y, BANDWIDTHS, False)
