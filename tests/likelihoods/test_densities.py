"""Every likelihood's nll, derivatives and mean against textbook densities in mpmath, scipy and torch.distributions."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from helpers.densities import CASES, DIGITS, OF_SEVERAL, data_in_support, exact, exact_slopes, rounding, table, whole_table
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

from vaekit import likelihoods
from vaekit.likelihoods import (
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Laplace,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    special,
)

F32, F64 = torch.float32, torch.float64
# In units of what rounding the numbers that go in changes. Random searches over the ranges below found at most 8.5 in float32 and
# 12 in float64, in which Stirling's series is cut off at 2e-14.
UNITS = {F32: 16.0, F64: 32.0}


def test_every_registered_likelihood_has_a_textbook_density_here():
    assert (
        sorted([*CASES, "columns", "library_size", *OF_SEVERAL - {"recurrent"}]) == likelihoods.names()
    )  # which are made of the others


def by_formula(likelihood, parameters, x):
    """The nll by the formula of an element, also where a compiled kernel serves `likelihood.nll`."""
    return likelihood.element_nll(parameters, x).flatten(1).sum(1)


def assert_right(case, parameters, x):
    expected = exact(case, parameters, x)
    tolerances = UNITS[parameters.dtype] * torch.finfo(parameters.dtype).eps * rounding(case, parameters, x)
    for nll in (case.likelihood.nll(parameters, x), by_formula(case.likelihood, parameters, x)):
        assert nll.dtype == parameters.dtype
        for row, (value, truth, tolerance) in enumerate(zip(nll.tolist(), expected, tolerances.tolist(), strict=True)):
            assert abs(float(mpf(value) - truth)) <= tolerance, f"{parameters[row]} {x[row]}: {value}, not {float(truth)}"


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", CASES)
def test_nll_is_the_textbooks_to_rounding_at_ordinary_and_extreme_parameters(name, dtype):
    assert_right(CASES[name], *whole_table(CASES[name], dtype))


# Ranges in which float32 holds everything, see the docstrings.
logs = st.one_of(st.floats(-3, 3), st.floats(-16, 16), st.floats(-70, 70))
counts = st.one_of(st.integers(0, 20), st.integers(0, 10**6), st.integers(0, 23).map(lambda n: 2**n)).map(float)
fractions = st.one_of(st.floats(1e-30, 0.99), st.integers(1, 23).map(lambda n: 1 - 2.0**-n))
reals = st.one_of(st.floats(-5, 5), st.floats(-1e8, 1e8))
RANGES = {
    "laplace": ((reals, logs), reals),
    "student_t": ((reals, logs, st.one_of(st.floats(-3, 6), st.floats(-55, 55))), reals),
    "continuous_bernoulli": ((logs,), st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0]))),
    "beta": ((logs, logs), fractions),
    "discretized_logistic": ((*[st.floats(-9, 9)] * 2, *[st.floats(-2, 2)] * 2, logs, st.floats(-9, 3)), st.integers(0, 255)),
    "poisson": ((logs,), counts),
    "negative_binomial": ((logs, logs), counts),
    "zero_inflated_negative_binomial": ((logs, logs, logs), counts),
}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("dtype", [F32, F64])
@given(data=st.data())
def test_nll_is_the_textbooks_to_rounding_anywhere(name, dtype, data):
    parameter_ranges, values = RANGES[name]
    x = data.draw(values) / (255 if name == "discretized_logistic" else 1)
    parameters, x = table([(data.draw(st.tuples(*parameter_ranges)), x)], dtype)
    if abs(exact(CASES[name], parameters, x)[0]) < 1e37:  # float32's range
        assert_right(CASES[name], parameters, x)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_the_textbooks(name):
    case = CASES[name]
    parameters, x = whole_table(case, F64)
    expected = torch.tensor(exact_slopes(case, parameters, x), dtype=F64)
    # A derivative of a count of a million that is 10 is the difference of two millions, each rounded.
    rounded = 1e-15 * x.abs() * parameters[:, :1, 0].detach().abs() if case.likelihood.support.whole else 0.0
    for nll in (case.likelihood.nll(parameters, x), by_formula(case.likelihood, parameters, x)):
        slopes = torch.autograd.grad(nll.sum(), parameters)[0][..., 0]
        wrong = (slopes - expected).abs() > 1e-10 * expected.abs() + rounded + 1e-11
        assert not wrong.any(), f"{parameters[wrong.any(1)][..., 0]} at {x[wrong.any(1)]}: {slopes[wrong]}, not {expected[wrong]}"


@pytest.mark.parametrize("name", CASES)
def test_derivatives_in_float32_are_near_those_in_float64(name):
    case = CASES[name]
    narrow, x = whole_table(case, F32)
    wide = narrow.detach().double().requires_grad_()
    case.likelihood.nll(wide, x.double()).sum().backward()
    expected = wide.grad[..., 0]
    rounded = 4e-7 * x.abs() if case.likelihood.support.whole else 0.0
    for nll in (case.likelihood.nll(narrow, x), by_formula(case.likelihood, narrow, x)):
        slopes = torch.autograd.grad(nll.sum(), narrow)[0][..., 0]
        wrong = ~((slopes - expected).abs() <= 1e-4 * expected.abs().amax(1, keepdim=True) + rounded + 1e-5)
        assert not wrong.any(), f"{narrow[wrong.any(1)][..., 0]} at {x[wrong.any(1)]}: {slopes[wrong]}, not {expected[wrong]}"


@pytest.mark.parametrize("name", [n for n in CASES if n != "bernoulli"])
def test_first_and_second_derivatives_are_those_of_finite_differences(name):
    case = CASES[name]
    parameters = torch.tensor(case.ordinary[-2:], dtype=F64)[:, :, None].repeat(1, 1, 3).requires_grad_()
    x = torch.tensor(case.values * 2, dtype=F64)[:6].clamp(-5, 50).reshape(-1, 3)[: len(parameters)]
    if name == "beta":
        x = x.clamp(0.05)
    torch.autograd.gradcheck(lambda p: case.likelihood.nll(p, x), parameters)
    if name not in ("laplace", "categorical"):  # an absolute value has no second derivative; torch checks its own cross-entropy
        torch.autograd.gradgradcheck(lambda p: case.likelihood.nll(p, x), parameters)


@pytest.mark.parametrize("name", ["beta", "student_t", "negative_binomial", "poisson"])
def test_gradients_of_single_examples_can_be_mapped_over(name):
    likelihood, case = CASES[name].likelihood, CASES[name]
    parameters = torch.tensor(case.ordinary, dtype=F64)[:, :, None]
    x = data_in_support(likelihood, (len(parameters), 1)).double()
    single = torch.func.vmap(torch.func.grad(lambda p, x: likelihood.nll(p[None], x[None]).sum()))(parameters, x)
    parameters.requires_grad_()
    (together,) = torch.autograd.grad(likelihood.nll(parameters, x).sum(), parameters)
    torch.testing.assert_close(single, together)


def of_one(likelihood, parameters, values):
    """nll [N] of values [N] under the same parameters."""
    x = torch.as_tensor(np.asarray(values, dtype=np.float64))[:, None]
    return likelihood.nll(torch.tensor(parameters, dtype=F64).reshape(1, -1, 1).expand(len(x), -1, 1), x).detach().numpy()


def mean_of(likelihood, parameters):
    return float(likelihood.mean(torch.tensor(parameters, dtype=F64).reshape(1, -1, 1)))


EXP = math.exp
SCIPY = {
    "laplace": (Laplace("element"), lambda m, s: scipy.stats.laplace(m, EXP(s)), [(0.5, -1.0), (-3.0, 2.0)]),
    "laplace fixed": (Laplace(b=0.3), lambda m: scipy.stats.laplace(m, 0.3), [(0.5,)]),
    "laplace shared": (Laplace("shared", b=0.3).double(), lambda m: scipy.stats.laplace(m, np.float32(math.log(0.3))), []),
    "student_t": (StudentT(), lambda m: scipy.stats.t(4.0, m, 1.0), [(0.5,), (-3.0,)]),
    "student_t element": (
        StudentT("element", freedom="element"),
        lambda m, s, n: scipy.stats.t(EXP(n), m, EXP(s)),
        [(0.5, -1.0, 0.3), (-3.0, 2.0, 5.0)],
    ),
    "student_t scale": (StudentT("element", df=7.0), lambda m, s: scipy.stats.t(7.0, m, EXP(s)), [(0.5, -1.0)]),
    "student_t freedom": (StudentT(sigma=2.0, freedom="element"), lambda m, n: scipy.stats.t(EXP(n), m, 2.0), [(0.5, 1.0)]),
    "beta": (Beta(), lambda a, b: scipy.stats.beta(EXP(a), EXP(b)), [(0.7, -0.5), (2.0, 3.0), (-1.0, -2.0)]),
    "poisson": (Poisson(), lambda r: scipy.stats.poisson(EXP(r)), [(0.5,), (3.0,), (-2.0,)]),
    "negative_binomial": (
        NegativeBinomial(),
        lambda m, t: scipy.stats.nbinom(EXP(t), EXP(t) / (EXP(t) + EXP(m))),
        [(0.5, 1.0), (3.0, -1.0), (2.0, 4.0)],
    ),
    "negative_binomial fixed": (
        NegativeBinomial("fixed", theta=2.5),
        lambda m: scipy.stats.nbinom(2.5, 2.5 / (2.5 + EXP(m))),
        [(0.5,)],
    ),
}


@pytest.mark.parametrize("name", SCIPY)
def test_nll_and_mean_are_scipys(name):
    likelihood, distribution, rows = SCIPY[name]
    for parameters in rows:
        frozen = distribution(*parameters)
        x = np.unique(frozen.ppf(np.linspace(0.001, 0.999, 41)))
        x = x[x < 1.0] if name == "beta" else x
        log_density = frozen.logpmf(x) if likelihood.support.whole else frozen.logpdf(x)
        np.testing.assert_allclose(of_one(likelihood, parameters, x), -log_density, rtol=1e-9, atol=1e-9)
        assert math.isclose(mean_of(likelihood, parameters), frozen.mean(), rel_tol=1e-12)


@pytest.mark.parametrize(
    ("name", "option", "value"), [("laplace", "b", 0.3), ("student_t", "sigma", 2.0), ("negative_binomial", "theta", 2.5)]
)
def test_a_shared_parameter_starts_from_its_value_and_learns(name, option, value):
    how = "dispersion" if name == "negative_binomial" else "scale"
    fixed = likelihoods.create(name, **{how: "fixed", option: value})
    shared = likelihoods.create(name, **{how: "shared", option: value})
    x = data_in_support(fixed, (5, 3))
    parameters = torch.randn(5, 1, 3)
    torch.testing.assert_close(shared.nll(parameters, x), fixed.nll(parameters, x))
    (learned,) = shared.parameters()
    shared.nll(parameters, x).sum().backward()
    step = 1e-2
    with torch.no_grad():
        learned += step
        above = shared.nll(parameters, x).sum()
        learned -= 2 * step
        below = shared.nll(parameters, x).sum()
    assert math.isclose(learned.grad, (above - below) / (2 * step), rel_tol=1e-2)
    assert not list(fixed.parameters())


def test_continuous_bernoulli_is_that_of_torch_away_from_its_flat_middle():
    t = torch.tensor([-6.0, -2.0, -0.7, 0.9, 3.0], dtype=F64)
    x = torch.linspace(0, 1, 5, dtype=F64)
    expected = torch.distributions.ContinuousBernoulli(logits=t, lims=(0.4999, 0.5001))
    torch.testing.assert_close(ContinuousBernoulli().nll(t[:, None, None], x[:, None]), -expected.log_prob(x))
    torch.testing.assert_close(ContinuousBernoulli().mean(t[:, None, None])[:, 0], expected.mean)


@pytest.mark.parametrize("t", [0.0, 1e-30, -1e-8, 1e-4, -0.01, 0.499999, 0.500001, -0.5, 3.0, -30.0, 88.0, 1e5])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_mean_of_a_continuous_bernoulli_is_right_everywhere(t, dtype):
    parameters = torch.tensor([[[t]]], dtype=dtype)
    with mpmath.workdps(100):
        exact_t = mpf(parameters.item())
        expected = 1 / (1 - mpmath.exp(-exact_t)) - 1 / exact_t if t else mpf(0.5)
    assert math.isclose(ContinuousBernoulli().mean(parameters), expected, rel_tol=4 * torch.finfo(dtype).eps)


def test_categorical_is_that_of_torch():
    logits, x = torch.randn(4, 5, 2, 3, dtype=F64), torch.randint(0, 5, (4, 2, 3)).double()
    distribution = torch.distributions.Categorical(logits=logits.movedim(1, -1))
    torch.testing.assert_close(Categorical(5).nll(logits, x), -distribution.log_prob(x).sum((1, 2)))
    assert torch.equal(Categorical(5).mean(logits), distribution.probs.argmax(-1).double())


# Densities integrate to 1, and their first moment is the mean.


def integrals(likelihood, parameters, x, slope, grid):
    """0th and 1st moment by the trapezoidal rule in a variable of which the density's tails are exponential, or faster."""
    density = np.exp(-of_one(likelihood, parameters, x)) * slope
    return np.trapezoid(density, grid), np.trapezoid(density * x, grid)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("laplace", (0.4, -0.7)),
        ("laplace", (-2.0, 2.0)),
        ("student_t", (0.4, -0.7, 0.7)),
        ("student_t", (0.0, 1.0, 2.0)),
        ("gaussian", (0.4, -0.7)),
    ],
)
def test_densities_on_the_real_line_integrate_to_1_and_have_their_mean(name, parameters):
    likelihood, y = CASES[name].likelihood, np.linspace(-45, 45, 90_001)
    total, first_moment = integrals(likelihood, parameters, parameters[0] + np.sinh(y), np.cosh(y), y)
    assert math.isclose(total, 1.0, rel_tol=1e-6)  # a Laplace density has a corner
    assert math.isclose(first_moment, mean_of(likelihood, parameters), rel_tol=1e-6, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *(("continuous_bernoulli", (t,)) for t in (0.0, 1e-5, 0.3, 0.6, -4.0, 50.0)),
        ("beta", (0.7, -0.5)),
        ("beta", (3.0, 4.0)),
        ("beta", (-0.3, -0.4)),
        ("beta", (0.0, 0.0)),
    ],
)
def test_densities_between_0_and_1_integrate_to_1_and_have_their_mean(name, parameters):
    likelihood, y = CASES[name].likelihood, np.linspace(-36, 36, 7_201)
    x = scipy.special.expit(y)  # of the logit, in which the poles of a beta density are tails
    total, first_moment = integrals(likelihood, parameters, x, x * (1.0 - x), y)
    assert math.isclose(total, 1.0, rel_tol=1e-9)
    assert math.isclose(first_moment, mean_of(likelihood, parameters), rel_tol=1e-9)


def all_values(likelihood):
    """Every value, or every one up to where the tested parameters leave less than 1e-12."""
    if isinstance(likelihood, DiscretizedLogistic):
        return torch.arange(likelihood.levels, dtype=F64) / (likelihood.levels - 1)
    return torch.arange(min(likelihood.support.highest + 1, 60_000), dtype=F64)


@pytest.mark.parametrize(
    ("likelihood", "parameters"),
    [
        (Categorical(4), (1.0, -2.0, 0.5, 30.0)),
        (DiscretizedLogistic(2), (0.3, -0.2, -0.5, 0.7, -2.0, -4.0)),
        (DiscretizedLogistic(1), (0.0, 5.0, 0.5)),
        (DiscretizedLogistic(3, levels=2), (0.3, -0.2, 1.0, -0.5, 0.7, 0.0, -2.0, -4.0, 1.0)),
        (DiscretizedLogistic(2, levels=17), (0.0, 0.0, 0.13, -1.3, -60.0, 60.0)),
        (Poisson(), (-3.0,)),
        (Poisson(), (7.0,)),
        (NegativeBinomial(), (2.0, -1.0)),
        (NegativeBinomial(), (5.0, 20.0)),
        (NegativeBinomial(), (5.0, 2.3)),
        (ZeroInflatedNegativeBinomial(), (2.0, -1.0, 0.5)),
        (ZeroInflatedNegativeBinomial(), (3.0, 1.0, -3.0)),
        (ZeroInflatedNegativeBinomial("fixed", theta=3.0), (3.0, 5.0)),
    ],
    ids=repr,
)
def test_probabilities_sum_to_1_and_have_their_mean(likelihood, parameters):
    values = all_values(likelihood)
    probabilities = np.exp(-of_one(likelihood, parameters, values))
    assert math.isclose(probabilities.sum(), 1.0, rel_tol=1e-9)
    if not isinstance(likelihood, Categorical):
        assert math.isclose((probabilities * values.numpy()).sum(), mean_of(likelihood, parameters), rel_tol=1e-9)


@pytest.mark.parametrize("log_theta", [8.0, 14.0, 20.0, 75.0])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_negative_binomial_tends_to_a_poisson_without_cancellation(log_theta, dtype):
    x = torch.tensor([[0.0, 1.0, 9.0, 100.0, 1000.0]], dtype=dtype)
    log_mean = torch.tensor([[[0.5, 0.5, 2.0, 4.5, 6.9]]], dtype=dtype)
    difference = NegativeBinomial("fixed", theta=EXP(log_theta)).nll(log_mean, x) - Poisson().nll(log_mean, x)
    # log p differs by ((x - m)^2 - x) / (2 theta) and smaller terms
    expected = -(((x - log_mean[0].exp()) ** 2 - x).sum() / (2 * EXP(log_theta)))
    assert abs(difference - expected) < (2e-5 if dtype == F32 else 1e-12) + 0.2 * abs(expected)


@pytest.mark.parametrize("logit", [0.5, 8.0, 20.0, 60.0])
def test_a_zero_that_is_surely_a_lost_count_costs_next_to_nothing_and_not_rounding(logit):
    parameters, x = table([((1.0, 0.5, logit), 0.0)], F32)
    nll = ZeroInflatedNegativeBinomial().nll(parameters, x)
    expected = exact(CASES["zero_inflated_negative_binomial"], parameters, x)[0]
    assert math.isclose(nll.item(), expected, rel_tol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    case = CASES[name]
    parameters = torch.tensor(case.ordinary)[:, :, None].expand(-1, -1, 7).to(dtype)
    x = data_in_support(case.likelihood, (len(parameters), 7)).to(dtype)
    if not case.likelihood.support.bounds_included:
        x = x.clamp(0.01, 0.98)
    nll = case.likelihood.float().nll(parameters, x)
    assert nll.dtype == F32
    assert torch.equal(nll, case.likelihood.nll(parameters.float(), x.float()))
    mean = case.likelihood.mean(parameters)
    assert mean.dtype == dtype
    torch.testing.assert_close(mean, case.likelihood.mean(parameters.float()).to(dtype))


@pytest.mark.parametrize("name", CASES)
def test_nll_sums_over_the_elements_of_each_example(name):
    likelihood, p = CASES[name].likelihood, CASES[name].likelihood.parameters_per_element
    parameters = torch.randn(3, p, 2, 4, 5, dtype=F64)
    x = data_in_support(likelihood, (3, 2, 4, 5)).double()
    nll = likelihood.nll(parameters, x)
    one_by_one = [
        likelihood.nll(parameters[:, :, i, j, k, None], x[:, i, j, k, None]) for i in range(2) for j in range(4) for k in range(5)
    ]
    torch.testing.assert_close(nll, torch.stack(one_by_one).sum(0))
    assert likelihood.nll(parameters[:0], x[:0]).shape == (0,)


@pytest.mark.compile
@pytest.mark.parametrize("name", CASES)
def test_it_compiles_in_one_graph(name):
    case = CASES[name]
    likelihood = likelihoods.create(name, missing="ignore", **({"classes": 3} if name == "categorical" else {}))
    p = likelihood.parameters_per_element
    parameters, x = torch.randn(3, p, 4, requires_grad=True), data_in_support(likelihood, (3, 4))
    x[0, 1] = math.nan
    torch._dynamo.reset()
    compiled = torch.compile(likelihood.nll, backend="eager", fullgraph=True)
    nll = compiled(parameters, x)
    torch.testing.assert_close(nll, likelihood.nll(parameters, x))
    gradients = [torch.autograd.grad(f(parameters, x).sum(), parameters)[0] for f in (compiled, likelihood.nll)]
    torch.testing.assert_close(*gradients)
    assert case.likelihood.missing == "refuse"


# The functions behind them


@given(st.floats(-60, 60))
def test_stirlings_remainders_are_those_of_mpmath(log_z):
    log = torch.tensor(log_z, dtype=F64)
    z = log.exp()
    with mpmath.workdps(DIGITS):
        exact_z = mpmath.exp(mpf(log_z))
        excess = mpmath.loggamma(exact_z + 1) - exact_z * mpf(log_z) + exact_z
        step = mpmath.loggamma(exact_z + 0.5) - mpmath.loggamma(exact_z) - mpf(log_z) / 2
    assert math.isclose(special.factorial_excess(z, log), excess, rel_tol=4e-14, abs_tol=4e-14)
    assert math.isclose(special.half_step(z, log), step, rel_tol=4e-14, abs_tol=4e-14)


@given(st.floats(-300, 300, width=32))
def test_softplus_and_excess_are_right_in_the_tails(x):
    with mpmath.workdps(400):
        softplus, excess = mpmath.log1p(mpmath.exp(mpf(x))), mpmath.expm1(mpf(x)) - mpf(x)
    value = torch.tensor(x, dtype=F64)
    assert math.isclose(special.softplus(value), softplus, rel_tol=1e-14)
    assert math.isclose(special.excess(value), excess, rel_tol=1e-14)


@pytest.mark.parametrize("deviance", [special.binomial_deviance, special.beta_deviance])
def test_deviances_have_the_derivatives_of_finite_differences_by_all_three_arguments(deviance):
    logs = torch.tensor([[0.3, -1.0, 2.0, -2.0], [1.0, -0.5, -1.5, 2.0], [0.4, -0.8, 2.5, -3.0]], dtype=F64)
    arguments = [row.clone().requires_grad_() for row in logs]

    def of_logs(log_first, log_second, third):
        if deviance is special.beta_deviance:
            return deviance(log_first, log_second, third)
        return deviance(log_first.exp(), log_second.exp(), log_first, log_second, third)

    torch.autograd.gradcheck(of_logs, arguments)
    torch.autograd.gradgradcheck(of_logs, arguments)
