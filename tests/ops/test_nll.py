"""The operators `vaekit::*_nll`: the compiled kernels against the formulas in PyTorch, and what only a kernel can get wrong.

That the formulas are right, native or not, is for tests/likelihoods: there mpmath is the witness.
"""

import hashlib
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.densities import data_in_support
from helpers.memory import LargestTensor
from helpers.strategies import DTYPES
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import vaekit
from vaekit.likelihoods import (
    Bernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from vaekit.ops import native
from vaekit.ops.reference import compute_dtype

LIKELIHOODS = {
    "bernoulli": Bernoulli(),
    "gaussian of a fixed variance": Gaussian(sigma=0.5),
    "gaussian of a shared variance": Gaussian("shared", 0.5),
    "gaussian": Gaussian("element"),
    "discretized_logistic": DiscretizedLogistic(components=3),
    "discretized_logistic of one component": DiscretizedLogistic(components=1, levels=5),
    "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(),
    "negative_binomial of a shared dispersion": NegativeBinomial("shared", 3.0),
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial(),
}
# The largest error of a sum, in units of its elements' sizes, and of a gradient in units of 1 and its own size.
TOLERANCE = {torch.float32: 4e-6, torch.float64: 2e-12, torch.bfloat16: 8.0e-3, torch.float16: 1.0e-3}

needs_kernel = pytest.mark.skipif("cpu" not in native.LOADED, reason="no compiled CPU kernel is loaded")
every_likelihood = pytest.mark.parametrize("name", LIKELIHOODS)


def made(name: str, dtype=torch.float32) -> Likelihood:
    return LIKELIHOODS[name].to(torch.float64 if dtype == torch.float64 else torch.float32)


def operands(likelihood: Likelihood, shape, dtype=torch.float32, seed=0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(shape[0], likelihood.parameters_per_element, *shape[1:], generator=generator, dtype=torch.float64)
    return (2 * parameters).to(dtype), data_in_support(likelihood, shape, seed).to(compute_dtype(dtype))


def derivatives(likelihood: Likelihood, rows: Tensor, parameters: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Of the parameters and of what the likelihood has learned."""
    return torch.autograd.grad(rows, [parameters, *likelihood.parameters()], grad)


def options_of(likelihood: Likelihood, parameters: Tensor) -> list:
    """What a direct call takes between x and ignore_missing."""
    return [o.detach() if isinstance(o, Tensor) else o for o in likelihood._operator_options(parameters)]


def by_formula(likelihood: Likelihood, parameters: Tensor, x: Tensor) -> Tensor:
    options = likelihood._operator_options(parameters)
    return likelihood.operator.specification(parameters, x, *options, likelihood.missing == "ignore")


def assert_like_the_formula(likelihood: Likelihood, parameters: Tensor, x: Tensor, grad: Tensor) -> None:
    """Value and gradients against the formula's in float64."""
    parameters = parameters.detach().requires_grad_()
    rows = likelihood.nll(parameters, x)
    got = derivatives(likelihood, rows, parameters, grad)
    assert rows.dtype == compute_dtype(parameters.dtype)
    assert [g.dtype for g in got] == [t.dtype for t in (parameters, *likelihood.parameters())]
    wide, wide_x = parameters.detach().double().requires_grad_(), x.double()
    expected = by_formula(likelihood, wide, wide_x)
    wanted = derivatives(likelihood, expected, wide, grad.double())
    seen = ~x.isnan() if likelihood.missing == "ignore" else torch.ones_like(x, dtype=torch.bool)
    elements = likelihood.element_nll(wide, wide_x).abs().masked_fill(~seen, 0.0).flatten(1).sum(1) + seen.flatten(1).sum(1)
    tolerance = TOLERANCE[rows.dtype]
    assert ((rows - expected).abs() <= tolerance * elements).all()
    tolerance = TOLERANCE[parameters.dtype]
    # Where a gradient is a small difference of large terms, the formula in the same dtype says what can be asked for.
    narrow = parameters.detach().to(rows.dtype).requires_grad_()
    same = torch.autograd.grad(by_formula(likelihood, narrow, x.to(rows.dtype)), narrow, grad)[0]
    unavoidable = float((same - wanted[0]).abs().max()) if same.numel() else 0.0
    tolerances = {"rtol": tolerance, "atol": tolerance * float(grad.abs().max() + 1) + 2.0 * unavoidable}
    torch.testing.assert_close(got[0].double(), wanted[0], **tolerances)
    for have, want in zip(got[1:], wanted[1:], strict=True):
        torch.testing.assert_close(have.double(), want.double(), rtol=1e-5, atol=1e-5 * float(grad.abs().sum() + 1))


@st.composite
def layouts(draw, likelihood: Likelihood):
    """Parameters and x of one shape, each in one of several memory layouts, with values missing or not, and a gradient."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5, 41]), min_size=2, max_size=4)))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 999))
    parameters, x = operands(likelihood, shape, dtype, seed)
    layout = draw(st.sampled_from(["packed", "columns first", "strided", "channels last", "expanded"]))
    if layout == "columns first":
        parameters, x = parameters.movedim(1, -1).contiguous().movedim(-1, 1), x.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided":
        parameters, x = parameters.repeat_interleave(2, -1)[..., ::2], x.repeat_interleave(3, 0)[::3]
    elif layout == "channels last":
        parameters = parameters.transpose(1, -1).contiguous().transpose(1, -1)
    elif layout == "expanded":
        parameters, x = parameters[:1].expand(parameters.shape), x[:1].expand(x.shape)
    if draw(st.booleans()) and dtype != torch.float64:
        x = x.to(torch.bfloat16)  # narrower than what is computed in
    grad = torch.randn(shape[0], dtype=compute_dtype(dtype), generator=torch.Generator().manual_seed(seed))
    if draw(st.booleans()):
        grad = grad[:1].expand(shape[0])  # what the gradient of a sum looks like
    return parameters, x, grad


@needs_kernel
@every_likelihood
@given(data=st.data())
def test_any_layout_and_dtype_is_that_of_the_formula(name, data):
    parameters, x, grad = data.draw(layouts(LIKELIHOODS[name]))
    assert_like_the_formula(made(name, parameters.dtype), parameters, x, grad)


@needs_kernel
@every_likelihood
@pytest.mark.parametrize("shape", [(1, 255), (3, 1023), (2, 1024), (2, 1025), (1, 300_001), (5000, 3), (1, 2_200_000)])
def test_rows_of_any_length_are_those_of_the_formula(name, shape):
    likelihood = made(name)
    parameters, x = operands(likelihood, shape)
    assert_like_the_formula(likelihood, parameters, x, torch.rand(shape[0]))


@needs_kernel
@every_likelihood
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (2, 0, 4)])
def test_nothing_has_an_nll_of_nothing(name, shape):
    likelihood = made(name)
    parameters, x = operands(likelihood, shape)
    parameters.requires_grad_()
    rows = likelihood.nll(parameters, x)
    assert torch.equal(rows, torch.zeros(shape[0]))
    gradients = derivatives(likelihood, rows, parameters, torch.ones(shape[0]))
    assert gradients[0].shape == parameters.shape
    assert all(gradient == 0 for gradient in gradients[1:])


@needs_kernel
@every_likelihood
@pytest.mark.parametrize("size", [2, 16, 784, 5000, 40_000])
def test_a_row_is_the_exact_sum_of_its_elements(name, size):
    likelihood = made(name)
    parameters, x = operands(likelihood, (3, size))
    rows = likelihood.nll(parameters, x)
    one_by_one = likelihood.nll(parameters.transpose(1, 2).reshape(-1, parameters.shape[1], 1), x.reshape(-1, 1))
    for row, elements in zip(rows.tolist(), one_by_one.view(3, size).tolist(), strict=True):
        assert abs(row - math.fsum(elements)) <= torch.finfo(torch.float32).eps * abs(row)


@needs_kernel
@every_likelihood
def test_missing_elements_add_nothing_and_are_found_in_every_tile(name):
    likelihood = made(name)
    parameters, x = operands(likelihood, (3, 2500))
    gone = torch.rand(x.shape) < 0.5
    gone[1] = True
    likelihood.missing = "ignore"
    try:
        assert_like_the_formula(likelihood, parameters, x.masked_fill(gone, math.nan), torch.ones(3))
        parameters.requires_grad_()
        rows = likelihood.nll(parameters.masked_fill(gone.unsqueeze(1), math.inf), x.masked_fill(gone, math.nan))
        assert rows.isfinite().all()
        assert rows[1] == 0
    finally:
        likelihood.missing = "refuse"


@needs_kernel
@every_likelihood
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_row(name, bad):
    likelihood = made(name)
    parameters, x = operands(likelihood, (4, 100))
    expected = likelihood.nll(parameters, x)
    for spoiled in (parameters, x):
        kept = spoiled[2].clone()
        spoiled[2, ..., 7] = bad
        rows = likelihood.nll(parameters, x)
        spoiled[2] = kept
        assert bad == -math.inf or not rows[2].isfinite()  # where a mean of 0 is nothing out of the way
        assert torch.equal(rows[[0, 1, 3]], expected[[0, 1, 3]])


@needs_kernel
@every_likelihood
def test_a_row_has_the_same_bits_alone_and_in_any_batch(name):
    likelihood = made(name)
    for shape in ((9, 7), (5, 784), (3, 3000)):
        parameters, x = operands(likelihood, shape)
        rows = likelihood.nll(parameters, x)
        alone = [likelihood.nll(parameters[i : i + 1], x[i : i + 1]) for i in range(len(x))]
        assert torch.equal(rows, torch.cat(alone))


@needs_kernel
@every_likelihood
@pytest.mark.parametrize("shape", [(1, 1_500_000), (63, 9000), (512, 784), (50_000, 5)])
def test_threads_change_no_bit_forward_or_backward(name, shape):
    likelihood = made(name)
    parameters, x = operands(likelihood, shape)
    parameters.requires_grad_()
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        rows = likelihood.nll(parameters, x)
        results.append((rows, *derivatives(likelihood, rows, parameters, torch.linspace(-1, 1, shape[0]))))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def digest() -> str:
    """Of values and gradients of every likelihood, ordinary and extreme, in every dtype."""
    torch.set_num_threads(1)  # the operands are torch's, which computes the end of each thread's part otherwise
    bits = hashlib.sha256()
    for name in LIKELIHOODS:
        for dtype in DTYPES:
            likelihood = made(name, dtype)
            for scale in (1e-4, 1.0, 60.0):
                parameters, x = operands(likelihood, (7, 1300), dtype, seed=int(scale))
                parameters = (scale * parameters.double()).to(dtype).requires_grad_()
                rows = likelihood.nll(parameters, x)
                for tensor in (rows, *derivatives(likelihood, rows, parameters, torch.ones_like(rows))):
                    bits.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    return bits.hexdigest()


@needs_kernel
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="there is one instruction set on this machine")
def test_instruction_sets_with_fused_multiply_adds_give_the_same_bits(tmp_path):
    wide = native.build_info()["cpu kernel"]
    if "x86-64-v4" not in wide:
        pytest.skip(f"this machine has one such instruction set at most: {wide}")
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (Path(vaekit.__file__).parents[1], here, here.parent)))
    environment = {**os.environ, "PYTHONPATH": path, "VAEKIT_CPU_CAPABILITY": "x86-64-v3", "VAEKIT_REQUIRE_NATIVE": "1"}
    program = [sys.executable, "-c", "import test_nll; print(test_nll.digest())"]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


# --- derivatives and transforms ------------------------------------------------------------------------------------------


@every_likelihood
def test_derivatives_of_both_orders_are_those_of_differences(name):
    likelihood = made(name, torch.float64)
    parameters, x = operands(likelihood, (3, 4), torch.float64)
    inputs = (parameters.requires_grad_(), *likelihood.parameters())
    assert torch.autograd.gradcheck(lambda p, *learned: likelihood.nll(p, x), inputs)
    assert torch.autograd.gradgradcheck(lambda p, *learned: likelihood.nll(p, x), inputs)


@every_likelihood
def test_a_gradient_that_is_to_be_differentiated_is_the_same_gradient(name):
    likelihood = made(name)
    parameters, x = operands(likelihood, (3, 50))
    parameters.requires_grad_()
    inputs = [parameters, *likelihood.parameters()]
    plain = torch.autograd.grad(likelihood.nll(parameters, x).sum(), inputs)
    recorded = torch.autograd.grad(likelihood.nll(parameters, x).sum(), inputs, create_graph=True)
    for have, want in zip(recorded, plain, strict=True):
        assert have.requires_grad
        torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-5)


@every_likelihood
def test_x_has_a_gradient_where_it_asks_for_one(name):
    likelihood = made(name, torch.float64)
    if isinstance(likelihood, DiscretizedLogistic):
        pytest.skip("its nll is a function of steps")
    parameters, x = operands(likelihood, (3, 4), torch.float64)
    assert torch.autograd.gradcheck(lambda data: likelihood.nll(parameters, data), x.clamp(0.1, 0.9).requires_grad_())


@every_likelihood
def test_transforms_and_forward_mode_are_those_of_the_formula(name):
    likelihood = made(name, torch.float64)
    parameters, x = operands(likelihood, (3, 4), torch.float64)
    tangent = torch.randn_like(parameters)

    def total(function):
        return lambda p: function(p, x).sum()

    both = [total(likelihood.nll), total(lambda p, data: by_formula(likelihood, p, data))]
    transforms = [torch.func.grad, lambda f: torch.func.jacrev(torch.func.grad(f))]
    if isinstance(likelihood, (Bernoulli, Gaussian)):  # the formulas of counts have no rule for forward mode
        transforms += [torch.func.hessian, lambda f: lambda p: torch.func.jvp(f, (p,), (tangent,))[1]]
    for transform in transforms:
        got, expected = (transform(function)(parameters) for function in both)
        torch.testing.assert_close(got, expected)
    each = torch.vmap(lambda p, data: likelihood.nll(p[None], data[None])[0])(parameters, x)
    torch.testing.assert_close(each, likelihood.nll(parameters, x))


@every_likelihood
@pytest.mark.compile
def test_compiled_it_is_one_graph_with_the_same_numbers(name):
    likelihood = made(name)
    parameters, x = operands(likelihood, (3, 50))
    parameters.requires_grad_()

    def step(p):
        return likelihood.nll(p, x)

    torch.compiler.reset()  # each likelihood is another program
    got, expected = torch.compile(step, fullgraph=True, backend="aot_eager")(parameters), step(parameters)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
    gradients = (torch.autograd.grad(rows.sum(), parameters)[0] for rows in (got, expected))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@needs_kernel
@every_likelihood
@pytest.mark.compile
def test_compiled_a_dear_formula_is_left_to_its_kernels(name):
    likelihood = made(name)
    parameters, x = operands(likelihood, (3, 5))
    called = set()

    def backend(graph, inputs):
        called.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    torch.compile(lambda p: likelihood.nll(p, x), fullgraph=True, backend=backend)(parameters)
    dear = isinstance(likelihood, (DiscretizedLogistic, NegativeBinomial, ZeroInflatedNegativeBinomial))
    assert (f"vaekit.{likelihood.operator.name}.default" in called) == dear
    exported = torch.export.export(_Nll(likelihood), (parameters, x))
    assert not [node for node in exported.graph.nodes if "vaekit" in str(node.target)]


class _Nll(torch.nn.Module):
    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.likelihood = likelihood

    def forward(self, parameters: Tensor, x: Tensor) -> Tensor:
        return self.likelihood.nll(parameters, x)


@every_likelihood
def test_the_operators_pass_torchs_own_checks(name):
    likelihood = made(name, torch.float64)
    parameters, x = operands(likelihood, (3, 4), torch.float64)
    options = options_of(likelihood, parameters)
    operator = likelihood.operator
    for ignore_missing in (False, True):
        torch.library.opcheck(operator.forward, (parameters.clone().requires_grad_(), x, *options, ignore_missing))
        if native.has_kernel("cpu", operator.name):  # they cannot look into torch.func, by which the fallback finds gradients
            torch.library.opcheck(operator.backward, (torch.rand(3).double(), parameters, x, *options, ignore_missing))


@every_likelihood
def test_without_a_kernel_the_operators_give_the_same_numbers(name):
    likelihood = made(name)
    parameters, x = operands(likelihood, (5, 300))
    options, grad = options_of(likelihood, parameters), torch.rand(5)
    operator = likelihood.operator
    torch.testing.assert_close(
        operator.specification(parameters, x, *options, False), operator.forward(parameters, x, *options, False)
    )
    fallback = operator.default_backward(grad, parameters, x, *options, False)
    kernels = operator.backward(grad, parameters, x, *options, False)
    torch.testing.assert_close(fallback, kernels, rtol=1e-5, atol=1e-5)


# --- what is kept, and what a direct call may bring -----------------------------------------------------------------------


@needs_kernel
@every_likelihood
def test_only_the_inputs_are_kept_and_nothing_else_of_the_datas_size_is_made(name):
    likelihood = made(name)
    parameters, x = operands(likelihood, (4, 3000))
    parameters.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t), LargestTensor() as largest:
        rows = likelihood.nll(parameters, x)
    learned = [p.data_ptr() for p in likelihood.parameters()]
    assert [t.data_ptr() for t in saved] == [parameters.data_ptr(), x.data_ptr(), *learned]
    assert largest.elements == 4
    with LargestTensor() as largest:
        rows.sum().backward()
    assert largest.elements == parameters.numel()


@needs_kernel
def test_a_formula_of_ones_own_is_used():
    class Doubled(Bernoulli):
        def element_nll(self, parameters, x):
            return 2.0 * super().element_nll(parameters, x)

    parameters, x = operands(Bernoulli(), (3, 50))
    torch.testing.assert_close(Doubled().nll(parameters, x), 2.0 * Bernoulli().nll(parameters, x))


@needs_kernel
@every_likelihood
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, x: (p.int(), x), "float16, bfloat16, float32 or float64"),
        (lambda p, x: (p[:, 0, 0], x), "not .batch, parameters of an element"),
        (lambda p, x: (p[:, :0], x), "another number of parameters"),
        (lambda p, x: (p, x[:, :-1]), "x has a shape"),
        (lambda p, x: (p, x[:1]), "x has a shape"),
        (lambda p, x: (p, x[..., None]), "x has a shape"),
        (lambda p, x: (p, x.double()), "x is of another dtype"),
        (lambda p, x: (p.double(), x), "x is of another dtype"),
        (lambda p, x: (p, x.to("meta")), "one device"),
        (lambda p, x: (without_memory(p), x), "parameters has lost its memory"),
        (lambda p, x: (p, without_memory(x)), "x has lost its memory"),
    ],
)
def test_a_direct_call_with_what_does_not_fit_is_refused(name, change, message):
    likelihood = made(name)
    parameters, x = operands(likelihood, (3, 20))
    options = options_of(likelihood, parameters)
    changed = change(parameters, x)
    with pytest.raises(RuntimeError, match=message):
        likelihood.operator.forward(*changed, *options, False)
    with pytest.raises(RuntimeError, match=message):
        likelihood.operator.backward(torch.ones(3), *changed, *options, False)


def without_memory(tensor):
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


@needs_kernel
@every_likelihood
@pytest.mark.parametrize("grad", [torch.ones(2), torch.ones(3).double(), torch.ones(()), torch.ones(3, 1)])
def test_a_direct_call_with_a_gradient_of_another_kind_is_refused(name, grad):
    likelihood = made(name)
    parameters, x = operands(likelihood, (3, 20))
    options = options_of(likelihood, parameters)
    with pytest.raises(RuntimeError, match="the gradient is not like the result"):
        likelihood.operator.backward(grad, parameters, x, *options, False)


@needs_kernel
@pytest.mark.parametrize("shared", [torch.ones(1), torch.ones(()).double()])
def test_a_shared_parameter_that_is_not_one_number_is_refused(shared):
    parameters, x = operands(Gaussian("shared"), (3, 20))
    with pytest.raises(RuntimeError, match="not one number"):
        torch.ops.vaekit.gaussian_nll(parameters, x, shared, 0.0, False)


@needs_kernel
def test_the_library_has_kernels_of_what_is_declared_and_of_nothing_else():
    declared = {kind.operator.name for kind in (type(likelihood) for likelihood in LIKELIHOODS.values())}
    assert {name for name in native.operators("cpu") if name.endswith("_nll")} == declared
    assert not native._declared - native.operators("cpu")
    assert "but the reference for" not in native.build_info()["cpu kernel"]


def test_an_operator_without_a_kernel_is_named(monkeypatch):
    monkeypatch.setattr(native, "_declared", {"planted_nll", *native.operators("cpu")})
    state = native.build_info()["cpu kernel"]
    assert state.endswith(", but the reference for planted_nll") == ("cpu" in native.LOADED)
