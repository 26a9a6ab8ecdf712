"""The compiled kernels of the likelihoods of counts: a dispersion for each column, and counts that are mostly 0, or never.

What they have in common with every compiled likelihood is in tests/ops/test_nll.py; here the formula in float64 is the witness,
and mpmath is the formula's in test_densities.py.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vaekit.likelihoods import Likelihood, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.ops import native
from vaekit.ops.reference import compute_dtype

pytestmark = pytest.mark.skipif("cpu" not in native.LOADED, reason="no compiled CPU kernel is loaded")

DISPERSED = [NegativeBinomial, ZeroInflatedNegativeBinomial]
ALL = {
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "negative_binomial, fixed": lambda: NegativeBinomial("fixed", 0.4),
    "zero_inflated": ZeroInflatedNegativeBinomial,
    "zero_inflated, shared": lambda: ZeroInflatedNegativeBinomial("shared", 2.5),
}
every_likelihood = pytest.mark.parametrize("name", ALL)


def by_column(kind, columns: int, dtype=torch.float32) -> Likelihood:
    likelihood = kind("shared").to(dtype)
    likelihood.learn_by_column(columns)
    with torch.no_grad():
        likelihood.log_theta.copy_(torch.randn(columns, generator=torch.Generator().manual_seed(1)))
    return likelihood


def counts(shape, zeros: float, seed: int) -> Tensor:
    """Counts of which a share is 0, small ones and large ones."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(shape, generator=generator) ** 6 * 9.0  # float16 has their gradients
    return (1.0 + size.exp()).floor().masked_fill(torch.rand(shape, generator=generator) < zeros, 0.0)


def parameters_of(likelihood: Likelihood, shape, dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape[0], likelihood.parameters_per_element, *shape[1:], generator=generator, dtype=torch.float64)
    return (2.0 * drawn).to(dtype).requires_grad_()


def derivatives(rows: Tensor, parameters: Tensor, learned: list[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(rows, [parameters, *learned], grad)


def assert_like_the_formula(likelihood: Likelihood, parameters: Tensor, x: Tensor) -> None:
    """The value, its gradient and that of what was learned against the formula's in float64."""
    operator, learned = likelihood.operator, list(likelihood.parameters())
    rows = likelihood.nll(parameters, x)
    assert type(rows.grad_fn).__name__ == "_NativeBackward"
    grad = torch.linspace(-1.0, 1.0, len(x), dtype=rows.dtype)
    got = derivatives(rows, parameters, learned, grad)
    wide, wide_learned = parameters.detach().double().requires_grad_(), [p.detach().double().requires_grad_() for p in learned]
    shared, start = likelihood._operator_options(parameters) if hasattr(likelihood, "log_theta") else (None, 0.0)
    options = () if isinstance(likelihood, Poisson) else (wide_learned[0] if shared is not None else None, start)
    expected = operator.specification(wide, x.double(), *options, likelihood.missing == "ignore")
    wanted = derivatives(expected, wide, wide_learned, grad.double())
    tolerance = 2e-6 if compute_dtype(parameters.dtype) == torch.float32 else 1e-12
    torch.testing.assert_close(rows.double(), expected, rtol=tolerance, atol=tolerance * x.nan_to_num().max().item())
    narrow = {torch.bfloat16: 8e-3, torch.float16: 1e-3}.get(parameters.dtype, tolerance)
    # A derivative of a count of a thousand is the difference of two thousands, each rounded.
    near = narrow * (1.0 + wanted[0].abs()) + tolerance * x.nan_to_num().unsqueeze(1)
    assert ((got[0].double() - wanted[0]).abs() <= near).all()
    for have, want in zip(got[1:], wanted[1:], strict=True):
        torch.testing.assert_close(have.double(), want, rtol=10 * tolerance, atol=tolerance * x.nan_to_num().sum().item())


@every_likelihood
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 17]), min_size=2, max_size=3).map(tuple),
    zeros=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    missing=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 999),
)
def test_whatever_share_of_the_counts_is_0_it_is_the_formula(name, shape, zeros, dtype, missing, seed):
    likelihood = ALL[name]()
    likelihood.missing = "ignore" if missing else "refuse"
    if dtype == torch.float64:
        likelihood.double()
    x = counts(shape, zeros, seed).to(compute_dtype(dtype))
    x = x.masked_fill(torch.rand(shape, generator=torch.Generator().manual_seed(seed + 1)) < missing, math.nan)
    assert_like_the_formula(likelihood, parameters_of(likelihood, shape, dtype, seed), x)


@every_likelihood
@pytest.mark.parametrize("zeros", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(2, 1023), (2, 1025), (3, 5000), (700, 3)])
def test_tiles_and_blocks_of_any_size_are_the_formula(name, shape, zeros):
    likelihood = ALL[name]()
    assert_like_the_formula(likelihood, parameters_of(likelihood, shape, torch.float32, 0), counts(shape, zeros, 0))


@pytest.mark.parametrize("shape", [(1, 1), (4, 7), (3, 2, 5), (2, 3, 4, 5), (130, 2000), (4000, 3), (5, 30_001)])
@pytest.mark.parametrize("kind", DISPERSED)
def test_a_dispersion_for_each_column_is_the_formula_and_threads_change_no_bit(kind, shape):
    likelihood = by_column(kind, shape[-1])
    parameters, x = parameters_of(likelihood, shape, torch.float32, 0), counts(shape, 0.8, 0)
    assert_like_the_formula(likelihood, parameters, x)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        rows = likelihood.nll(parameters, x)
        results.append((rows, *derivatives(rows, parameters, list(likelihood.parameters()), torch.linspace(-1, 1, shape[0]))))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("kind", DISPERSED)
def test_columns_that_are_missing_or_strided_have_the_formulas_gradient(kind):
    likelihood = by_column(kind, 6, torch.float64)
    likelihood.missing = "ignore"
    with torch.no_grad():
        likelihood.log_theta.set_(torch.linspace(-1, 1, 12, dtype=torch.float64)[::2])
    x = counts((9, 6), 0.5, 0).double()
    x[:, 2], x[3] = math.nan, math.nan
    parameters = parameters_of(likelihood, (9, 6), torch.float64, 0)
    assert_like_the_formula(likelihood, parameters, x)
    (by_log_theta,) = torch.autograd.grad(likelihood.nll(parameters, x).sum(), list(likelihood.parameters()))
    assert by_log_theta[2] == 0.0


@pytest.mark.parametrize("kind", DISPERSED)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_columns_of_nothing_have_a_gradient_of_0(kind, shape):
    likelihood = by_column(kind, shape[-1])
    parameters, x = parameters_of(likelihood, shape, torch.float32, 0), torch.zeros(shape)
    rows = likelihood.nll(parameters, x)
    assert torch.equal(rows, torch.zeros(shape[0]))
    _, by_log_theta = derivatives(rows, parameters, list(likelihood.parameters()), torch.ones(shape[0]))
    assert torch.equal(by_log_theta, torch.zeros(shape[-1]))


@pytest.mark.parametrize("kind", DISPERSED)
@pytest.mark.parametrize("log_theta", [torch.ones(1), torch.ones(4), torch.ones(5, 1), torch.ones(5).double()])
def test_a_direct_call_with_a_dispersion_of_another_kind_is_refused(kind, log_theta):
    likelihood = kind("shared")
    parameters, x = parameters_of(likelihood, (3, 5), torch.float32, 0), counts((3, 5), 0.5, 0)
    with pytest.raises(RuntimeError, match="the shared parameter is not"):
        likelihood.operator.forward(parameters, x, log_theta, 0.0, False)


@pytest.mark.parametrize("kind", DISPERSED)
def test_a_direct_call_with_two_dispersions_is_refused(kind):
    parameters, x = parameters_of(kind(), (3, 5), torch.float32, 0), counts((3, 5), 0.5, 0)
    with pytest.raises(RuntimeError, match="given for each element and once more"):
        kind.operator.forward(parameters, x, torch.ones(()), 0.0, False)


@every_likelihood
def test_a_count_that_is_missing_has_no_part_in_value_or_gradient_even_where_its_parameters_are_not_finite(name):
    likelihood = ALL[name]()
    likelihood.missing = "ignore"
    x = counts((4, 50), 0.8, 0)
    parameters = parameters_of(likelihood, (4, 50), torch.float32, 0)
    expected = likelihood.nll(parameters[..., 10:], x[:, 10:])
    spoiled = parameters.detach().clone()
    spoiled[..., :5], spoiled[..., 5:10] = math.nan, math.inf
    spoiled.requires_grad_()
    rows = likelihood.nll(spoiled, torch.cat([torch.full((4, 10), math.nan), x[:, 10:]], 1))
    torch.testing.assert_close(rows, expected)
    rows.sum().backward()
    assert (spoiled.grad[..., :10] == 0.0).all()
    torch.testing.assert_close(spoiled.grad[..., 10:], torch.autograd.grad(expected.sum(), parameters)[0][..., 10:])
