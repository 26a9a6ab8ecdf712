"""The CUDA kernels of `vaekit::*_nll`, run on the CPU: against the formulas in float64 and the CPU's kernels, and their laws."""

import math
import os

import pytest
import torch
from helpers.cuda_on_cpu import CPU_FUSES, NATURAL, REVERSED, SHUFFLED
from helpers.nll_calls import LIKELIHOODS, NEAR, Call, assert_like_the_formula, by_formula, call_of, gradient_of
from helpers.strategies import DTYPES
from torch import Tensor

from vaekit.ops import native

NAMESPACE = "vaekit_cuda_on_cpu"
every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)
# Its components are read one after another, where the CPU keeps them: the last digits differ.
KEEPS_NOTHING = "discretized_logistic"


def both(call: Call, grad: Tensor) -> list[Tensor]:
    return call.both(grad, NAMESPACE)


def assert_like_the_cpu_kernel(call: Call, grad: Tensor, *, bits: bool = True) -> None:
    """Gradients to the bit, rows within a rounding of the last digit, where the processor rounds as often."""
    if not native.has_kernel("cpu", call.operator) or not CPU_FUSES:
        return
    (rows, gradient, *shared), (cpu_rows, cpu_gradient, *cpu_shared) = both(call, grad), call.both(grad)
    bits = bits and not call.operator.startswith(KEEPS_NOTHING)
    last = 1e-14 if rows.dtype == torch.float64 else torch.finfo(rows.dtype).eps
    torch.testing.assert_close(rows, cpu_rows, rtol=last if bits else NEAR[rows.dtype], atol=0.0, equal_nan=True)
    if not bits:
        torch.testing.assert_close(gradient, cpu_gradient, rtol=NEAR[gradient.dtype], atol=NEAR[gradient.dtype], equal_nan=True)
    else:
        assert torch.equal(gradient.nan_to_num(nan=7.0), cpu_gradient.nan_to_num(nan=7.0))
    torch.testing.assert_close(shared, cpu_shared, rtol=1e-5, atol=1e-4, equal_nan=True)


# Rows for every group of threads (1 to 32, the block), of several steps and segments; 16 bytes at a time and not; more rows than
# blocks.
SHAPES = [
    *[(3, n) for n in (1, 2, 3, 4, 5, 8, 12, 20, 33, 64, 129, 200, 512, 1000, 1001, 2049, 4096)],
    *[
        (2, 4097),
        (2, 4104),
        (9000, 2),
        (2100, 4),
        (600, 65),
        (40, 1500),
        (3, 2, 5),
        (2, 3, 4, 8),
    ],
]
# More segments than blocks; in the deep profile of every dtype.
LONG_ROWS = [(1, 40 * 4096), (1, 33 * 4096 + 5)]


@every_likelihood
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_shape_is_the_formula_and_the_cpu_kernel(launches, name, dtype):
    has_long_rows = dtype == torch.float32 or os.environ.get("HYPOTHESIS_PROFILE") == "deep"
    for shape in SHAPES + LONG_ROWS * has_long_rows:
        call = call_of(name, shape, dtype)
        assert_like_the_formula(call, gradient_of(call), both(call, gradient_of(call)))
        assert_like_the_cpu_kernel(call, gradient_of(call))


@every_likelihood
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-4, 60.0])
def test_extreme_parameters_are_the_cpu_kernels(launches, name, dtype, scale):
    call = call_of(name, (7, 256), dtype, scale)
    assert_like_the_cpu_kernel(call, gradient_of(call))


def shifted(tensor: Tensor, how: str) -> Tensor:
    """The same numbers where 16 bytes cannot be taken at a time, or at other strides."""
    if how == "base":
        other = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].view(tensor.shape)
    elif how == "rows":
        size = tensor[0].numel() + 1
        other = torch.empty(len(tensor) * size, dtype=tensor.dtype).as_strided(tensor.shape, (size, *tensor.stride()[1:]))
    elif how == "columns":
        other = torch.empty(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)[..., ::2]
    else:
        other = torch.empty_like(tensor.movedim(1, -1)).contiguous().movedim(-1, 1)
    return other.copy_(tensor)


@every_likelihood
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", ["base", "rows", "columns", "channels last"])
def test_where_operands_lie_changes_no_gradient(launches, name, dtype, how):
    call = call_of(name, (4, 3, 16), dtype)
    grad = gradient_of(call)
    rows, *gradients = both(call, grad)
    for changed in (
        call._replace(parameters=shifted(call.parameters, how)),
        call._replace(x=shifted(call.x, how)),
        call._replace(parameters=shifted(call.parameters, how), x=shifted(call.x, how)),
    ):
        got = both(changed, shifted(grad[:, None], "rows")[:, 0])
        torch.testing.assert_close(
            got[0], rows, rtol=2 * torch.finfo(rows.dtype).eps, atol=0.0
        )  # other threads may add the row up
        assert torch.equal(got[1], gradients[0])
        assert got[1].is_contiguous()
        torch.testing.assert_close(got[2:], gradients[1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("features", [(4, 5), (3, 4, 5)])
@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name.endswith("each feature")])
def test_features_may_have_several_dimensions_and_strides(launches, name, features):
    call = call_of(name, (20, 3, 4, 5))
    shared = torch.linspace(-2.0, 3.0, math.prod(features)).view(features).mT.contiguous().mT
    call = call._replace(options=(shared, *call.options[1:]))
    assert_like_the_formula(call, gradient_of(call), both(call, gradient_of(call)))
    assert_like_the_cpu_kernel(call, gradient_of(call))


@every_likelihood
def test_one_row_or_one_number_may_stand_for_all(launches, name):
    call, grad = call_of(name, (4, 16)), torch.ones(()).expand(4)
    alike = call._replace(parameters=call.parameters[:1].expand(call.parameters.shape), x=call.x[:1, :1].expand(4, 16))
    dense = alike._replace(parameters=alike.parameters.contiguous(), x=alike.x.contiguous())
    for have, want in zip(both(alike, grad), both(dense, grad.contiguous()), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-6, atol=1e-6)


@every_likelihood
@pytest.mark.parametrize(
    ("dtype", "narrow"), [(torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16), (torch.float32, torch.float16)]
)
def test_x_may_be_narrower_than_what_is_computed_in(launches, name, dtype, narrow):
    call = call_of(name, (4, 40), dtype)
    call = call._replace(x=call.x.to(narrow))
    grad = gradient_of(call)
    for have, want in zip(both(call, grad), both(call._replace(x=call.x.float()), grad), strict=True):
        assert torch.equal(have, want)


@every_likelihood
@pytest.mark.parametrize("shape", [(600, 8), (33, 20), (5, 1100), (3, 9000)])
def test_the_order_of_threads_and_the_number_of_processors_change_no_bit(launches, name, shape):
    call = call_of(name, shape)
    grad = gradient_of(call)
    expected = both(call, grad)
    for order, seed, processors in ((REVERSED, 0, 1), (SHUFFLED, 1, 1), (SHUFFLED, 2, 3), (NATURAL, 0, 132)):
        launches(order, seed, processors)
        assert all(map(torch.equal, both(call, grad), expected))


@every_likelihood
@pytest.mark.parametrize("size", [1, 7, 20, 1001, 9000])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(launches, name, size):
    call = call_of(name, (5, size))
    rows = call.forward(NAMESPACE)
    for i in range(5):
        one = call._replace(parameters=call.parameters[i:][:1].clone(), x=call.x[i:][:1].clone())
        assert torch.equal(one.forward(NAMESPACE), rows[i:][:1])


@every_likelihood
@pytest.mark.parametrize("size", [2, 16, 784, 5000, 40_001])
def test_a_row_is_the_exact_sum_of_its_elements(launches, name, size):
    call = call_of(name, (2, size))
    alone = call._replace(parameters=call.parameters.transpose(1, 2).reshape(2 * size, -1, 1), x=call.x.reshape(-1, 1))
    if any(isinstance(o, Tensor) and o.ndim == 1 for o in call.options):
        pytest.skip("an element alone is another feature")
    for row, elements in zip(call.forward(NAMESPACE).tolist(), alone.forward(NAMESPACE).view(2, size).tolist(), strict=True):
        assert abs(row - math.fsum(elements)) <= torch.finfo(torch.float32).eps * abs(row)


@every_likelihood
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 4)])
def test_nothing_has_an_nll_of_nothing(launches, name, shape):
    call = call_of(name, shape)
    rows, gradient, *shared = both(call, gradient_of(call))
    assert torch.equal(rows, torch.zeros(shape[0]))
    assert gradient.shape == call.parameters.shape
    assert all((s == 0).all() for s in shared)


@every_likelihood
@pytest.mark.parametrize("size", [12, 2500])
def test_missing_elements_add_nothing(launches, name, size):
    call = call_of(name, (3, size))
    gone = torch.rand(call.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    gone[1] = True
    call = call._replace(x=call.x.masked_fill(gone, math.nan), ignore_missing=True)
    assert_like_the_formula(call, gradient_of(call), both(call, gradient_of(call)))
    wild = call._replace(parameters=call.parameters.masked_fill(gone.unsqueeze(1), math.inf))
    rows, gradient, *shared = both(wild, gradient_of(call))
    assert rows.isfinite().all()
    assert rows[1] == 0
    assert not gradient.masked_select(gone.unsqueeze(1).expand(gradient.shape)).any()
    assert all(s.isfinite().all() for s in shared)


@every_likelihood
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [20, 5000])
def test_what_is_not_finite_stays_in_its_row(launches, name, bad, size):
    call = call_of(name, (3, size))
    call.parameters[1, :, 3] = bad
    rows, gradient, *_ = both(call, torch.ones(3))
    assert rows[[0, 2]].isfinite().all()
    assert gradient[[0, 2]].isfinite().all()
    assert not rows[1].isfinite() or rows[1] == by_formula(call, torch.ones(3))[0][1].float()
    assert_like_the_cpu_kernel(call, torch.ones(3), bits=False)


@every_likelihood
def test_calls_that_do_not_fit_together_are_refused(launches, name):
    call = call_of(name, (3, 20))
    for changed, said in (
        (call._replace(x=call.x[:, :-1]), "x has a shape"),
        (call._replace(x=call.x.double()), "another dtype"),
        (call._replace(parameters=call.parameters[:, :0]), "another number of parameters"),
    ):
        for run in (Call.forward, lambda c, library: c.backward(torch.ones(3), library)):
            with pytest.raises(RuntimeError, match=said):
                run(changed, NAMESPACE)
    with pytest.raises(RuntimeError, match="the gradient is not like the result"):
        call.backward(torch.ones(2), NAMESPACE)
    odd = torch.frombuffer(bytearray(4 * call.x.numel() + 1), dtype=torch.float32, offset=1).view(call.x.shape)
    with pytest.raises(RuntimeError, match="clone"):
        call._replace(x=odd).forward(NAMESPACE)
