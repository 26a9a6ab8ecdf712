"""The operator's laws, in both directions, against formulas in float64, torch.distributions and numerical derivatives."""

import ast
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.strategies import DTYPES, gaussians, keys, shapes
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit import make_key, reparameterize_kl
from vaekit.ops import philox
from vaekit.ops.operands import Operands

OPERATOR = torch.ops.vaekit.reparameterize_kl.default
BACKWARD = torch.ops.vaekit.reparameterize_kl_backward.default
# (atol, rtol) of z and kl against float64 on the same inputs: a few units in the last place of what each is computed in
TOLERANCE = {
    torch.float64: (1e-13, 1e-13),
    torch.float32: (2e-6, 2e-6),
    torch.bfloat16: (2e-6, 2**-8),
    torch.float16: (1e-6, 2**-10),
}


def formula(mu, logvar, eps):
    """z and elementwise kl in float64, in the textbook's order, with expm1 against the worst of its cancellation."""
    mu, logvar, eps = mu.double(), logvar.double(), eps.double()
    return mu + torch.exp(logvar / 2) * eps, (mu.square() + torch.expm1(logvar) - logvar) / 2


def noise_of(mu, key):
    return philox.normal(key, mu.shape, torch.float64 if mu.dtype == torch.float64 else torch.float32)


@given(gaussians(), keys)
def test_forward_is_the_formula_for_every_shape_dtype_and_stride(parameters, key):
    mu, logvar = parameters
    key = make_key(*key)
    z, kl = reparameterize_kl(mu, logvar, key=key)
    expected_z, expected_kl = formula(mu, logvar, noise_of(mu, key))
    atol, rtol = TOLERANCE[mu.dtype]
    assert z.dtype == mu.dtype
    assert z.shape == mu.shape
    assert kl.dtype == (torch.float64 if mu.dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(z.double(), expected_z, atol=atol * max(1.0, float(expected_z.abs().max())), rtol=rtol)
    torch.testing.assert_close(kl.double(), expected_kl.sum(-1), atol=1e-7, rtol=3e-6)


@given(gaussians(), keys)
def test_backward_is_the_formula_for_every_shape_dtype_and_stride(parameters, key):
    mu, logvar = parameters
    key = make_key(*key)
    mu, logvar = mu.detach().requires_grad_(), logvar.detach().requires_grad_()
    z, kl = reparameterize_kl(mu, logvar, key=key)
    grad_z, grad_kl = torch.randn(z.shape).to(z.dtype), torch.randn(kl.shape).to(kl.dtype)
    torch.autograd.backward((z, kl), (grad_z, grad_kl))
    eps, g, G = noise_of(mu, key).double(), grad_z.double(), grad_kl.double()[..., None]
    mu_, logvar_ = mu.detach().double(), logvar.detach().double()
    expected_mu = g + G * mu_
    expected_logvar = 0.5 * torch.exp(logvar_ / 2) * eps * g + 0.5 * G * torch.expm1(logvar_)
    _, rtol = TOLERANCE[mu.dtype]
    for gradient, expected in ((mu.grad, expected_mu), (logvar.grad, expected_logvar)):
        assert gradient.dtype == mu.dtype
        largest = max(1.0, float(expected.abs().max()))
        finite = gradient.isfinite()
        torch.testing.assert_close(gradient.double()[finite], expected[finite], atol=largest * max(rtol, 4e-6), rtol=rtol)
        # only float16 may overflow, and only where the true gradient does
        assert (expected[~finite].abs() > 65000).all()


@given(gaussians(dtype=torch.float32), keys)
def test_strides_change_no_bit(parameters, key):
    mu, logvar = parameters
    key = make_key(*key)
    strided, packed = (reparameterize_kl(m, v, key=key) for m, v in ((mu, logvar), (mu.contiguous(), logvar.contiguous())))
    assert all(map(torch.equal, strided, packed))


@given(gaussians(min_ndim=2), keys, st.data())
def test_rows_from_row_start_are_the_rows_of_the_whole(parameters, key, data):
    mu, logvar = parameters
    mu, logvar = mu.flatten(0, -2), logvar.flatten(0, -2)
    first = data.draw(st.integers(0, len(mu)))
    last = data.draw(st.integers(first, len(mu)))
    key = make_key(*key)
    whole = reparameterize_kl(mu, logvar, key=key)
    part = reparameterize_kl(mu[first:last], logvar[first:last], key=key, row_start=first)
    assert all(torch.equal(p, w[first:last]) for p, w in zip(part, whole, strict=True))


@given(gaussians(), keys, st.integers(1, 4))
def test_sample_k_is_a_call_with_its_offset(parameters, key, count):
    mu, logvar = parameters
    z, kl = reparameterize_kl(mu, logvar, key=make_key(*key), num_samples=count)
    assert z.shape == (count, *mu.shape)
    for k in range(count):
        one, one_kl = reparameterize_kl(mu, logvar, key=make_key(key[0], (key[1] + k * 2**40) % 2**64))
        assert torch.equal(z[k], one)
        assert torch.equal(kl, one_kl)


@given(gaussians(), keys, st.data())
def test_event_dims_only_says_how_far_to_sum(parameters, key, data):
    mu, logvar = parameters
    event_dims = data.draw(st.integers(1, mu.ndim))
    key = make_key(*key)
    z, kl = reparameterize_kl(mu, logvar, key=key, event_dims=event_dims)
    same_z, elements = reparameterize_kl(mu, logvar, key=key, reduce="none", event_dims=event_dims)
    assert torch.equal(z, same_z)
    assert elements.shape == mu.shape
    assert kl.shape == mu.shape[: mu.ndim - event_dims]
    torch.testing.assert_close(kl, elements.flatten(mu.ndim - event_dims).sum(-1), atol=0, rtol=1e-5)


@given(gaussians(), keys)
def test_given_eps_is_the_same_as_its_key(parameters, key):
    mu, logvar = parameters
    key = make_key(*key)
    zeros = torch.zeros(mu.shape, dtype=torch.float64 if mu.dtype == torch.float64 else torch.float32)
    eps, _ = reparameterize_kl(zeros, zeros, key=key)
    (z, kl), (z_by_eps, kl_by_eps) = (reparameterize_kl(mu, logvar, **noise) for noise in ({"key": key}, {"eps": eps}))
    assert torch.equal(z, z_by_eps)
    torch.testing.assert_close(kl, kl_by_eps, atol=0, rtol=1e-6)  # another kernel may sum in another order


@given(gaussians(dtype=torch.float64), st.data())
def test_kl_from_a_prior_is_that_of_torch_distributions(parameters, data):
    mu, logvar = parameters
    prior_shape = data.draw(st.sampled_from([mu.shape, mu.shape[-1:], (1,) * mu.ndim, (1,)]))
    prior_mu, prior_logvar = (torch.randn(prior_shape, dtype=torch.float64) for _ in range(2))
    _, kl = reparameterize_kl(mu, logvar, key=make_key(0), prior=(prior_mu, prior_logvar), reduce="none")
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mu, torch.exp(logvar / 2), validate_args=False),
        normal(prior_mu, torch.exp(prior_logvar / 2)).expand(mu.shape),
    )
    # torch's own formula cancels where the two distributions nearly agree
    torch.testing.assert_close(kl, expected, atol=1e-12, rtol=1e-9)


@given(gaussians(), keys)
def test_a_standard_normal_given_as_a_prior_changes_nothing(parameters, key):
    mu, logvar = parameters
    zero = torch.zeros_like(mu)
    (z, kl), (z_with, kl_with) = (reparameterize_kl(mu, logvar, key=make_key(*key), prior=p) for p in (None, (zero, zero)))
    assert torch.equal(z, z_with)
    torch.testing.assert_close(kl, kl_with, atol=0, rtol=1e-6)  # another kernel may sum in another order


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("reduce", ["event", "none"])
@pytest.mark.parametrize("event_dims", [1, 2])
@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("given_eps", [False, True])
def test_first_and_second_derivatives_are_numerical_ones(num_samples, reduce, event_dims, with_prior, given_eps):
    def double(*shape):
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    mu, logvar = double(2, 3), double(2, 3)
    priors = (double(3), double(2, 1)) if with_prior else ()
    samples = () if num_samples is None else (num_samples,)
    noise = {"eps": torch.randn(*samples, 2, 3, dtype=torch.float64)} if given_eps else {"key": make_key(7)}

    def operator(mu, logvar, *prior):
        return reparameterize_kl(
            mu, logvar, **noise, num_samples=num_samples, prior=prior or None, reduce=reduce, event_dims=event_dims
        )

    assert torch.autograd.gradcheck(operator, (mu, logvar, *priors))
    assert torch.autograd.gradgradcheck(operator, (mu, logvar, *priors))


def test_third_derivatives_exist_and_are_right():
    logvar = torch.randn(4, dtype=torch.float64, requires_grad=True)
    mu = torch.zeros(4, dtype=torch.float64)
    value = reparameterize_kl(mu, logvar, key=make_key(0))[1]
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), logvar, create_graph=True)
    torch.testing.assert_close(value, 0.5 * torch.exp(logvar))


def cases():
    """Every two of dtype, samples and prior together. kl comes in the one dtype and not in the other."""
    torch.manual_seed(0)
    for dtype, num_samples, with_prior in (
        (torch.float32, None, False),
        (torch.float32, 2, True),
        (torch.bfloat16, None, True),
        (torch.bfloat16, 2, False),
    ):
        tensors = [torch.randn(3, 5).to(dtype).requires_grad_() for _ in range(4)]
        priors = tensors[2:] if with_prior else (None, None)
        yield Operands(*tensors[:2], make_key(1), None, *priors, num_samples=num_samples, row_start=4)


@pytest.mark.parametrize(
    "arguments", list(cases()), ids=lambda o: f"{o.mu.dtype}-{o.num_samples}-{'none' if o.prior_mu is None else 'prior'}"
)
def test_opcheck(arguments):
    torch.library.opcheck(OPERATOR, arguments)
    z, kl = OPERATOR(*arguments)
    gradients = torch.randn_like(z).requires_grad_(), torch.randn_like(kl).requires_grad_()
    torch.library.opcheck(BACKWARD, (*gradients, *arguments))


@pytest.mark.parametrize("num_samples", [None, 2])
@pytest.mark.parametrize("with_prior", [False, True])
def test_vmap_and_per_example_gradients_are_a_loop(num_samples, with_prior):
    mu, logvar, prior_mu, prior_logvar = (torch.randn(5, 3, dtype=torch.float64) for _ in range(4))
    keys = torch.stack([make_key(seed) for seed in range(5)])

    def loss(mu, logvar, key, prior_mu, prior_logvar):
        prior = (prior_mu, prior_logvar) if with_prior else None
        z, kl = reparameterize_kl(mu, logvar, key=key, num_samples=num_samples, prior=prior)
        return (z.sin().sum() + kl.square()).sum()

    arguments = (mu, logvar, keys, prior_mu, prior_logvar)
    per_example = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(*arguments)
    values = torch.func.vmap(loss)(*arguments)
    for i in range(5):
        row = tuple(a[i] for a in arguments)
        torch.testing.assert_close(values[i], loss(*row))
        for mapped, single in zip(per_example, torch.func.grad(loss, argnums=(0, 1))(*row), strict=True):
            torch.testing.assert_close(mapped[i], single)


def test_vmap_with_one_key_gives_every_slice_the_same_noise():
    mu, logvar = torch.randn(4, 3), torch.randn(4, 3)
    z = torch.func.vmap(lambda m, v: reparameterize_kl(m, v, key=make_key(9))[0])(mu, logvar)
    assert torch.equal(z, torch.stack([reparameterize_kl(m, v, key=make_key(9))[0] for m, v in zip(mu, logvar, strict=True)]))


def test_torch_func_nests_to_second_derivatives():
    mu, logvar = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    hessian = torch.func.jacrev(torch.func.jacrev(lambda v: reparameterize_kl(mu, v, key=make_key(0))[1]))(logvar)
    torch.testing.assert_close(hessian, torch.diag(0.5 * torch.exp(logvar)))


COMPILER = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "cl"))), None)
BACKENDS = [
    "aot_eager",
    pytest.param("inductor", marks=pytest.mark.skipif(COMPILER is None, reason="torch.compile's inductor needs a C++ compiler")),
]


@pytest.mark.compile
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_in_one_graph_it_is_the_eager_operator(dynamic, backend):
    def loss(mu, logvar, key):
        z, kl = reparameterize_kl(mu, logvar, key=key)
        return (z.sin().sum(-1) + kl).mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend=backend)
    for rows in (4, 7):
        mu, logvar = torch.randn(rows, 3, requires_grad=True), torch.randn(rows, 3, requires_grad=True)
        results = []
        for function in (loss, compiled):
            value = function(mu, logvar, make_key(5))
            results.append((value, *torch.autograd.grad(value, (mu, logvar))))
        torch.testing.assert_close(results[0], results[1], rtol=2e-6, atol=2e-6)


@pytest.mark.compile
@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_without_a_key_it_draws_afresh(backend):
    compiled = torch.compile(lambda mu: reparameterize_kl(mu, mu)[0], fullgraph=True, backend=backend)
    first, second = compiled(torch.zeros(4, 3)), compiled(torch.zeros(4, 3))
    assert not torch.equal(first, second)


def test_manual_seed_and_generator_fix_the_noise_and_calls_differ():
    mu = torch.zeros(4, 3)

    def twice(**options):
        return reparameterize_kl(mu, mu, **options)[0], reparameterize_kl(mu, mu, **options)[0]

    torch.manual_seed(3)
    first = twice()
    torch.manual_seed(3)
    again = twice()
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(*first)
    assert torch.equal(twice(generator=torch.Generator().manual_seed(1))[0], twice(generator=torch.Generator().manual_seed(1))[0])


@pytest.mark.parametrize("shape", [(1, 100_000), (3, 50_000), (2000, 130), (1, 5000), (70_000, 2)])
def test_threads_change_no_bit(shape):
    mu, logvar = torch.randn(shape), torch.randn(shape)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(reparameterize_kl(mu, logvar, key=make_key(0)))
    for z, kl in results[1:]:
        assert torch.equal(z, results[0][0])
        assert torch.equal(kl, results[0][1])


@pytest.mark.parametrize("length", [4095, 4096, 4097, 8193, 3 * 4096])
def test_long_rows_lose_no_element(length):
    mu = torch.rand(2, length, dtype=torch.float64)
    _, kl = reparameterize_kl(mu, torch.zeros_like(mu), key=make_key(0))
    expected = [math.fsum((row**2 / 2).tolist()) for row in mu]
    torch.testing.assert_close(kl, torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


@given(shapes.filter(lambda s: len(s) > 1), st.sampled_from(DTYPES), st.data())
def test_zero_sized_dimensions_give_empty_results_and_gradients(shape, dtype, data):
    shape = list(shape)
    shape[data.draw(st.integers(0, len(shape) - 1))] = 0
    mu = torch.zeros(shape, dtype=dtype, requires_grad=True)
    z, kl = reparameterize_kl(mu, mu, key=make_key(0))
    assert z.shape == mu.shape
    assert torch.equal(kl, torch.zeros(shape[:-1], dtype=kl.dtype))
    (z.sum() + kl.sum()).backward()
    assert mu.grad.shape == mu.shape


def test_a_uint64_key_is_read_by_its_bits():
    mu = torch.zeros(8)
    key = torch.tensor([2**64 - 1, 2**63], dtype=torch.uint64)
    assert torch.equal(reparameterize_kl(mu, mu, key=key)[0], reparameterize_kl(mu, mu, key=make_key(2**64 - 1, 2**63))[0])


def test_one_gradient_alone_is_enough():
    mu, logvar = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    for output in (0, 1):
        result = reparameterize_kl(mu, logvar, key=make_key(0))[output]
        assert all(g.isfinite().all() for g in torch.autograd.grad(result.sum(), (mu, logvar)))


def test_autocast_keeps_the_divergence_in_float32():
    layer = torch.nn.Linear(4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, kl = reparameterize_kl(*layer(torch.randn(5, 4)).chunk(2, -1), key=make_key(0))
    assert (z.dtype, kl.dtype) == (torch.bfloat16, torch.float32)


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, [0.0]), {}, TypeError, "have to be tensors, got Tensor and list"),
        ((X.int(), X.int()), {}, TypeError, r"floating-point tensor of float16, .* got torch.int32; convert it"),
        ((X, X.double()), {}, TypeError, "share a dtype, got torch.float32 and torch.float64"),
        ((X, X[:1]), {}, ValueError, r"same shape, got \(2, 3\) and \(1, 3\)"),
        ((X, X), {"event_dims": 3}, ValueError, "between 1 and the 2 dimensions"),
        ((X, X), {"event_dims": 0}, ValueError, "between 1 and the 2 dimensions"),
        ((X, X), {"reduce": "mean"}, ValueError, '"event" or "none", got \'mean\''),
        ((X, X), {"num_samples": 0}, ValueError, "at least 1, got 0"),
        ((X, X), {"row_start": -1}, ValueError, "at least 0, got -1"),
        ((X, X), {"key": 3}, TypeError, "int64 tensor .* got int; vaekit.make_key"),
        ((X, X), {"key": torch.zeros(2)}, TypeError, "got torch.float32"),
        ((X, X), {"key": torch.zeros(3, dtype=torch.int64)}, ValueError, r"shape \(2,\)"),
        ((X, X), {"key": make_key(0), "generator": torch.Generator()}, ValueError, "a key or a generator, not both"),
        ((X, X), {"key": make_key(0), "eps": X}, ValueError, "without a key and without a generator"),
        ((X, X), {"eps": X[:1]}, ValueError, r"shape \(2, 3\), got \(1, 3\)"),
        ((X, X), {"eps": X, "num_samples": 2}, ValueError, r"shape \(2, 2, 3\), got \(2, 3\)"),
        ((X, X), {"eps": X.double()}, TypeError, "got torch.float64"),
        ((X, X), {"eps": X.clone().requires_grad_()}, ValueError, r"eps.detach\(\)"),
        ((X, X), {"prior": (X, 0.0)}, TypeError, "prior's logvar has to be a tensor"),
        ((X, X), {"prior": (torch.zeros(2), X)}, ValueError, r"shape \(2,\) does not broadcast to mu's \(2, 3\)"),
    ],
)
def test_mistakes_are_told(arguments, options, error, message):
    with pytest.raises(error, match=message):
        reparameterize_kl(*arguments, **options)


# With tensors that say they are on a GPU, and have no memory.
WITHOUT_A_CUDA_KERNEL = """
import warnings, torch, vaekit
from torch._subclasses.fake_tensor import FakeTensorMode

with FakeTensorMode():
    mu = torch.zeros(3, 2, device="cuda")
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            vaekit.reparameterize_kl(mu, mu, eps=mu)
        print([(w.category.__name__, str(w.message), w.filename) for w in caught])
"""


@pytest.mark.skipif(vaekit.has_native("cuda"), reason="there is a CUDA kernel")
def test_a_cuda_tensor_without_a_cuda_kernel_is_told_once(tmp_path):
    def run(**environment):
        program = [sys.executable, "-c", WITHOUT_A_CUDA_KERNEL]
        done = subprocess.run(
            program, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=True
        )
        return [ast.literal_eval(line) for line in done.stdout.splitlines()]

    (told,), again = run(VAEKIT_NO_NATIVE="")
    category, message, file = told
    assert (category, file) == ("RuntimeWarning", "<string>")
    assert "no compiled CUDA kernel" in message
    assert "VAEKIT_CUDA=0 silences" in message
    assert again == []


@pytest.mark.parametrize("option", ["num_samples", "row_start", "event_dims"])
@pytest.mark.parametrize("value", [2.5, 2.0, True, "2", np.float32(2.0), np.bool_(True), torch.tensor(2.0)], ids=repr)
def test_a_number_that_is_not_whole_is_refused_by_name(option, value):
    mu = torch.zeros(3, 4)
    with pytest.raises(TypeError, match=f"{option} has to be a whole number"):
        reparameterize_kl(mu, mu, key=make_key(0), **{option: value})


@pytest.mark.parametrize("option", ["num_samples", "row_start", "event_dims"])
def test_a_whole_number_of_numpys_or_torchs_is_one(option):
    mu = torch.randn(3, 4)
    expected = reparameterize_kl(mu, mu, key=make_key(0), **{option: 2})
    for two in (np.int64(2), np.uint8(2), torch.tensor(2)):
        assert all(map(torch.equal, reparameterize_kl(mu, mu, key=make_key(0), **{option: two}), expected))


@pytest.mark.compile
def test_a_number_from_a_traced_shape_is_whole():
    def draw(mu, others):
        return reparameterize_kl(mu, mu, key=make_key(0), num_samples=others.shape[0], row_start=others.shape[1])[0]

    compiled = torch.compile(draw, fullgraph=True, dynamic=True, backend="aot_eager")
    mu = torch.randn(3, 4)
    for shape in ((2, 3), (5, 7)):
        torch.testing.assert_close(compiled(mu, torch.zeros(shape)), draw(mu, torch.zeros(shape)))
