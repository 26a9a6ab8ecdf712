"""Laws of likelihoods that learn a positive number for each feature of the data: a scale or a dispersion."""

import math

import mpmath
import pytest
import torch
from helpers.densities import CASES, DIGITS, data_in_support
from helpers.strategies import DTYPES
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf
from torch import Tensor

import vaekit
from vaekit import likelihoods
from vaekit.decoders import MLPDecoder
from vaekit.encoders import MLPEncoder
from vaekit.likelihoods import Columns, Likelihood
from vaekit.ops import native
from vaekit.ops.reference import compute_dtype

LEARNED = {  # the option that says where the number comes from, what holds its logarithm, and the option for its start
    "gaussian": ("variance", "logvar", "sigma"),
    "laplace": ("scale", "log_scale", "b"),
    "student_t": ("scale", "log_scale", "sigma"),
    "negative_binomial": ("dispersion", "log_theta", "theta"),
    "zero_inflated_negative_binomial": ("dispersion", "log_theta", "theta"),
}
NATIVE = ("gaussian", "negative_binomial", "zero_inflated_negative_binomial")

every_likelihood = pytest.mark.parametrize("name", LEARNED)
every_kernel = pytest.mark.parametrize("name", NATIVE)
needs_kernel = pytest.mark.skipif("cpu" not in native.LOADED, reason="no compiled CPU kernel is loaded")
SHAPES = st.lists(st.sampled_from([1, 2, 3, 17]), min_size=2, max_size=4).map(tuple)


def made(name: str, shape, dtype=torch.float32, missing="refuse") -> Likelihood:
    """With a number of its own for each feature."""
    likelihood = likelihoods.create(name, **{LEARNED[name][0]: "feature", "missing": missing})
    likelihood.set_data_shape(shape)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    return likelihood.to(torch.float64 if dtype == torch.float64 else torch.float32)


def element_form(name: str, missing="refuse") -> Likelihood:
    return likelihoods.create(name, **{LEARNED[name][0]: "element", "missing": missing})


def operands(likelihood: Likelihood, shape, dtype, seed=0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(shape[0], likelihood.parameters_per_element, *shape[1:], generator=generator, dtype=torch.float64)
    return parameters.to(dtype).requires_grad_(), data_in_support(likelihood, shape, seed).to(compute_dtype(dtype))


def of_element(parameters: Tensor, learned: Tensor) -> Tensor:
    """The parameters of the element form: the learned number of each feature behind the first, for each example."""
    first, rest = parameters[:, :1], parameters[:, 1:]
    return torch.cat([first, learned.expand_as(first[:, 0]).unsqueeze(1), rest], 1)


@every_likelihood
@given(
    shape=SHAPES,
    dtype=st.sampled_from(DTYPES),
    missing=st.sampled_from(["refuse", "ignore"]),
    layout=st.sampled_from(["packed", "transposed", "strided"]),
    seed=st.integers(0, 999),
)
def test_it_is_the_element_form_with_the_number_of_each_feature(name, shape, dtype, missing, layout, seed):
    likelihood = made(name, shape[1:], dtype, missing)
    parameters, x = operands(likelihood, shape, dtype, seed)
    if missing == "ignore":
        x = x.masked_fill(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3, math.nan)
    (learned,) = likelihood.parameters()
    if layout == "transposed":
        learned.data = learned.data.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided":
        learned.data = learned.data.repeat_interleave(2, -1)[..., ::2]
    grad = torch.linspace(-1.0, 1.0, shape[0], dtype=x.dtype)
    rows = likelihood.nll(parameters, x)
    got = torch.autograd.grad(rows, [parameters, learned], grad)
    wide, wide_learned = parameters.detach().double().requires_grad_(), learned.detach().double().requires_grad_()
    expected = element_form(name, missing).nll(of_element(wide, wide_learned), x.double())
    wanted = torch.autograd.grad(expected, [wide, wide_learned], grad.double())
    assert [g.shape for g in got] == [g.shape for g in wanted]
    tolerance = 1e-11 if rows.dtype == torch.float64 else 1e-5
    size = 1.0 + x.nan_to_num().abs().sum().item()
    torch.testing.assert_close(rows.double(), expected, rtol=tolerance, atol=tolerance * size)
    for have, want in zip(got, wanted, strict=True):
        rounding = max(tolerance, {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(have.dtype, 0.0))
        torch.testing.assert_close(have.double(), want, rtol=rounding, atol=tolerance * size + rounding * 1e-2)


@every_likelihood
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2)])
def test_derivatives_of_both_orders_are_those_of_differences(name, shape):
    likelihood = made(name, shape[1:], torch.float64)
    parameters, x = operands(likelihood, shape, torch.float64)
    inputs = (parameters, *likelihood.parameters())
    assert torch.autograd.gradcheck(lambda p, learned: likelihood.nll(p, x), inputs)
    assert torch.autograd.gradgradcheck(lambda p, learned: likelihood.nll(p, x), inputs)


@every_likelihood
def test_the_nll_is_the_textbooks(name):
    case, values = CASES[name], torch.tensor(CASES[name].values, dtype=torch.float64)
    likelihood = made(name, values.shape, torch.float64)
    parameters, _ = operands(likelihood, (3, len(values)), torch.float64)
    rows = likelihood.nll(parameters, values.expand(3, -1))
    others = [math.log(4.0)] if name == "student_t" else []  # the degrees of freedom, by default
    (learned,) = likelihood.parameters()
    for row, numbers in zip(rows.tolist(), of_element(parameters, learned).tolist(), strict=True):
        with mpmath.workdps(DIGITS):
            each = zip(zip(*numbers, strict=True), values.tolist(), strict=True)
            exact = mpmath.fsum(case.nll([mpf(v) for v in (*own, *others)], mpf(value)) for own, value in each)
        assert abs(row - float(exact)) <= 1e-12 * float(exact)


@needs_kernel
@every_kernel
@pytest.mark.parametrize("shape", [(1, 1), (2000, 30), (64, 3000), (40, 3, 17, 19), (5, 30_001)])
def test_threads_change_no_bit_and_the_kernel_is_the_formula(name, shape):
    likelihood = made(name, shape[1:])
    parameters, x = operands(likelihood, shape, torch.float32)
    (learned,) = likelihood.parameters()
    grad, results = torch.linspace(-1, 1, shape[0]), []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        rows = likelihood.nll(parameters, x)
        assert type(rows.grad_fn).__name__ == "_NativeBackward"
        results.append((rows, *torch.autograd.grad(rows, [parameters, learned], grad)))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
    wide, wide_learned = parameters.detach().double().requires_grad_(), learned.detach().double().requires_grad_()
    expected = likelihood.operator.specification(wide, x.double(), wide_learned, 0.0, False)
    wanted = torch.autograd.grad(expected, [wide, wide_learned], grad.double())
    for have, want in zip(results[0], (expected, *wanted), strict=True):
        torch.testing.assert_close(have.double(), want, rtol=1e-5, atol=1e-5 * (1.0 + x.abs().max().item()))


@needs_kernel
@pytest.mark.parametrize("logvar", [torch.ones(3), torch.ones(4), torch.ones(2, 4), torch.ones(5, 1), torch.ones(3, 4, 5)])
def test_a_direct_call_with_numbers_of_other_features_is_refused(logvar):
    parameters, x = torch.zeros(3, 1, 4, 5), torch.zeros(3, 4, 5)
    with pytest.raises(RuntimeError, match="one for each feature"):
        likelihoods.Gaussian.operator.forward(parameters, x, logvar, 0.0, False)


# --- how the shape is learned --------------------------------------------------------------------------------------------


@every_likelihood
def test_a_model_tells_the_shape_and_has_the_numbers_again_when_it_is_loaded(name, tmp_path):
    option, parameter, start = LEARNED[name]
    spec = {"name": name, option: "feature", start: 0.3}
    vae = vaekit.create_vae(input_shape=(2, 3), latent_dim=2, likelihood=spec)
    learned = getattr(vae.likelihood, parameter)
    power = 2.0 if name == "gaussian" else 1.0
    torch.testing.assert_close(learned.detach(), torch.full((2, 3), power * math.log(0.3)))
    assert any(learned is p for p in vae.parameters())
    with torch.no_grad():
        learned.add_(torch.randn(2, 3))
    again = vaekit.load(vae.save(tmp_path))
    assert torch.equal(getattr(again.likelihood, parameter), learned)
    assert vaekit.saving.config_of(vae)["likelihood"] == spec


def test_counts_inside_of_a_library_size_are_told_the_shape():
    counts = {"name": "negative_binomial", "dispersion": "feature"}
    vae = vaekit.create_vae(input_shape=(5,), latent_dim=2, likelihood={"name": "library_size", "counts": counts})
    vae(torch.ones(3, 5)).total.backward()
    assert vae.likelihood.counts.log_theta.grad.shape == (5,)


@every_likelihood
def test_a_model_that_is_made_double_starts_from_the_float64_number(name):
    option, parameter, start = LEARNED[name]
    for cast in (lambda v: v.double(), lambda v: v.half().double()):
        likelihood = cast(likelihoods.create(name, **{option: "feature", start: 0.3}))
        likelihood.set_data_shape((3,))
        again = likelihoods.create(name, **{option: "feature", start: 0.3})
        again.set_data_shape((3,))
        assert torch.equal(getattr(likelihood, parameter), getattr(cast(again), parameter))
        assert getattr(likelihood, parameter).tolist() == [likelihood._positives[parameter].start] * 3


@every_likelihood
def test_without_the_shape_the_error_says_what_to_do(name):
    likelihood = likelihoods.create(name, **{LEARNED[name][0]: "feature"})
    parameters, x = operands(likelihood, (3, 4), torch.float32)
    for use in (lambda: likelihood.nll(parameters, x), lambda: likelihood.sample(parameters, key=vaekit.make_key(0))):
        with pytest.raises(ValueError, match=rf'{LEARNED[name][0]}="feature" .*set_data_shape'):
            use()


def test_numbers_of_one_shape_are_not_those_of_another():
    likelihood = likelihoods.Gaussian("feature")
    vaekit.VAE(MLPEncoder((4,), 2), MLPDecoder(2, (4,)), likelihood=likelihood)
    vaekit.VAE(MLPEncoder((4,), 2), MLPDecoder(2, (4,)), likelihood=likelihood)  # the same shape, the same numbers
    with pytest.raises(ValueError, match=r"\(4,\).* \(5,\)"):
        likelihood.set_data_shape((5,))
    with pytest.raises(ValueError, match=r"\(4,\).* \(5,\)"):
        vaekit.VAE(MLPEncoder((5,), 2), MLPDecoder(2, (5,)), likelihood=likelihood)


@every_likelihood
def test_in_a_table_every_column_has_a_number_of_its_own(name):
    spec = {"name": name, LEARNED[name][0]: "feature"}
    for columns in ([spec], [spec] * 3, [spec, "bernoulli", spec]):
        table = Columns(columns)
        (learned,) = table.parameters()
        assert learned.shape == (sum(column == spec for column in columns),)


@pytest.mark.parametrize("how", ["fixed", "shared", "feature", "element"])
@every_likelihood
def test_a_table_of_equal_columns_is_one_likelihood_of_all(name, how):
    option, parameter, _ = LEARNED[name]
    alone, table = (likelihoods.create(name, **{option: how}), Columns([{"name": name, option: how}] * 7))
    if how in ("shared", "feature"):
        alone = made(name, (7,))
        with torch.no_grad():
            getattr(table.groups[0].likelihood, parameter).copy_(getattr(alone, parameter))
    parameters, x = operands(alone, (50, 7), torch.float32)
    in_columns = parameters.detach().mT.reshape(50, 1, -1).requires_grad_()
    results = []
    for likelihood, given_parameters in ((alone, parameters), (table, in_columns)):
        rows = likelihood.nll(given_parameters, x)
        results.append((rows, *torch.autograd.grad(rows.sum(), [given_parameters, *likelihood.parameters()])))
    (rows, slope, *learned), (other_rows, other_slope, *other_learned) = results
    assert torch.equal(rows, other_rows)
    assert torch.equal(slope.mT.reshape(50, 1, -1), other_slope)
    assert all(map(torch.equal, learned, other_learned))
    assert torch.equal(alone.mean(parameters), table.mean(in_columns))
    assert torch.equal(alone.encoder_input(x), table.encoder_input(x))
    assert torch.equal(table.statistics(x).flatten(1), alone.statistics(x).flatten(1))
    start = alone.parameters_of_mean(alone.statistics(x).mean(0))
    assert torch.equal(start.mT.reshape(1, -1), table.parameters_of_mean(table.statistics(x).mean(0)))
