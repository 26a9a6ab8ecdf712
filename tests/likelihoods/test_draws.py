"""Draws against the distributions of scipy, and as a pure function of the key."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from helpers.densities import CASES

from vaekit import make_key
from vaekit.likelihoods import Beta, Categorical, DiscretizedLogistic, StudentT, draws
from vaekit.ops.draw import Draw

N = 20_000
E = math.exp


def continuous_bernoulli(t):
    """A frozen distribution with a cdf and moments: exp(x t) over its integral."""

    class Frozen:
        def cdf(self, x):
            return np.expm1(t * x) / np.expm1(t)

        def mean(self):
            return 1 / -np.expm1(-t) - 1 / t

        def var(self):
            return 1 / t**2 - 1 / (4 * np.sinh(t / 2) ** 2)

    return Frozen()


def negative_binomial(m, t):
    return scipy.stats.nbinom(E(t), 1 / (1 + E(m - t)))


# name -> scipy's distribution for rows of parameters
CONTINUOUS = {
    "gaussian": (lambda m, v: scipy.stats.norm(m, E(v / 2)), [(0.3, -1.0), (-5.0, 4.0)]),
    "laplace": (lambda m, s: scipy.stats.laplace(m, E(s)), [(0.3, -1.0), (-5.0, 4.0)]),
    "student_t": (
        lambda m, s, n: scipy.stats.t(E(n), m, E(s)),
        [(0.3, -1.0, 0.0), (-5.0, 2.0, 1.6), (1.0, 0.0, 6.0), (0.0, 0.0, -1.0)],
    ),
    "continuous_bernoulli": (continuous_bernoulli, [(1e-3,), (-2.0,), (30.0,), (-400.0,)]),
    "beta": (lambda a, b: scipy.stats.beta(E(a), E(b)), [(0.0, 0.0), (1.0, 2.0), (-1.5, -1.0), (-2.0, 3.0), (9.0, 8.0)]),
}
DISCRETE = {
    "bernoulli": (lambda t: scipy.stats.bernoulli(scipy.special.expit(t)), [(0.0,), (-2.0,)]),
    "poisson": (lambda r: scipy.stats.poisson(E(r)), [(-3.0,), (0.0,), (2.2,), (2.31,), (4.0,), (9.0,), (20.0,)]),
    "negative_binomial": (negative_binomial, [(0.0, 0.0), (2.0, -2.0), (4.0, 2.0), (3.0, 20.0), (7.0, 0.5)]),
}


def drawn(name, parameters, seed=1, n=N):
    """n draws of one element, float64 [n]."""
    rows = torch.tensor(parameters, dtype=torch.float64).reshape(1, -1, 1).expand(n, -1, 1)
    return CASES[name].likelihood.sample(rows, key=make_key(seed)).flatten().numpy()


def assert_moments(values, mean, variance):
    """Mean and variance within four standard errors of the expected ones; the variance's from the draws' fourth moment."""
    assert abs(values.mean() - mean) <= 4 * math.sqrt(variance / len(values))
    squares = (values - mean) ** 2
    assert abs(squares.mean() - variance) <= 4 * squares.std() / math.sqrt(len(values))


@pytest.mark.parametrize(("name", "parameters"), [(n, p) for n, (_, rows) in CONTINUOUS.items() for p in rows])
def test_continuous_draws_have_the_distribution_function_and_moments_of_scipys(name, parameters):
    frozen, values = CONTINUOUS[name][0](*parameters), drawn(name, parameters)
    assert scipy.stats.kstest(values, frozen.cdf).pvalue > 1e-3
    if name != "student_t" or parameters[2] > 1.5:  # otherwise there is no variance, or none of the squares
        assert_moments(values, frozen.mean(), frozen.var())


def assert_frequencies(values, probability, support):
    """A chi-square test on the values of the support, the rare ones together."""
    probabilities, counted = probability(support), np.array([(values == v).sum() for v in support])
    frequent = probabilities * len(values) >= 8
    expected = np.append(probabilities[frequent], max(1 - probabilities[frequent].sum(), 1e-12)) * len(values)
    observed = np.append(counted[frequent], len(values) - counted[frequent].sum())
    if expected[-1] < 5:  # too few for the test: no more than they may be
        assert scipy.stats.poisson.sf(observed[-1] - 1, expected[-1]) > 1e-4
        expected, observed = expected[:-1] * observed[:-1].sum() / expected[:-1].sum(), observed[:-1]
    if len(expected) > 1:
        assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize(("name", "parameters"), [(n, p) for n, (_, rows) in DISCRETE.items() for p in rows])
def test_discrete_draws_have_the_frequencies_and_moments_of_scipys(name, parameters):
    frozen, values = DISCRETE[name][0](*parameters), drawn(name, parameters)
    assert np.array_equal(values, np.round(values))
    assert_moments(values, frozen.mean(), frozen.var())
    if frozen.mean() < 100:
        assert_frequencies(values, frozen.pmf, np.arange(frozen.ppf(1 - 1e-9) + 1))
    else:  # too many values to count each: by their distribution function, made continuous
        u = np.random.default_rng(0).uniform(size=len(values))
        assert scipy.stats.kstest(frozen.cdf(values - 1) + u * frozen.pmf(values), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("log_rate", [2.303, 3.0, 4.0])
def test_half_a_million_poisson_draws_by_rejection_have_the_right_frequencies(log_rate):
    frozen, values = scipy.stats.poisson(E(log_rate)), drawn("poisson", (log_rate,), seed=7, n=500_000)
    assert_frequencies(values, frozen.pmf, np.arange(frozen.ppf(1 - 1e-9) + 1))


@pytest.mark.parametrize("parameters", [(0.5, 1.0, -1.0), (2.0, -1.0, 0.5), (3.0, 1.0, -30.0)])
def test_zero_inflated_draws_are_a_mixture(parameters):
    log_mean, log_theta, logit = parameters
    lost, counted = scipy.special.expit(logit), negative_binomial(log_mean, log_theta)
    values = drawn("zero_inflated_negative_binomial", parameters)
    mean = (1 - lost) * counted.mean()
    assert_moments(values, mean, (1 - lost) * (counted.var() + counted.mean() ** 2) - mean**2)
    assert_frequencies(values, lambda k: lost * (k == 0) + (1 - lost) * counted.pmf(k), np.arange(counted.ppf(1 - 1e-9) + 1))


@pytest.mark.parametrize(
    ("likelihood", "parameters"),
    [
        (Categorical(4), (1.0, -2.0, 0.5, 0.0)),
        (Categorical(2), (0.0, 300.0)),
        (DiscretizedLogistic(2), (0.3, -0.2, -0.5, 0.7, -2.0, -4.0)),
        (DiscretizedLogistic(1, levels=5), (0.0, 0.2, 0.5)),
        (DiscretizedLogistic(3, levels=2), (0.3, -0.2, 1.0, -0.5, 0.7, 0.0, -2.0, -4.0, 1.0)),
    ],
    ids=repr,
)
def test_draws_of_classes_and_levels_have_the_frequencies_that_the_nll_gives_them(likelihood, parameters):
    rows = torch.tensor(parameters, dtype=torch.float64).reshape(1, -1, 1)
    values = likelihood.sample(rows.expand(N, -1, 1), key=make_key(1)).flatten().numpy()
    steps = 1 if isinstance(likelihood, Categorical) else likelihood.levels - 1
    support = np.arange(likelihood.support.highest * steps + 1) / steps
    assert np.isin(values, support).all()
    probabilities = torch.exp(-likelihood.nll(rows.expand(len(support), -1, 1), torch.from_numpy(support)[:, None])).numpy()
    assert_frequencies(values, lambda _: probabilities, support)


@pytest.mark.parametrize("log_shape", [-30.0, -3.0, -0.01, 0.0, 0.01, 1.0, 7.0, 7.1, 15.0, 40.0])
def test_logarithms_of_gamma_draws_have_gammas_distribution_function(log_shape):
    values = draws.log_gamma(Draw(make_key(2)), torch.full((N,), log_shape, dtype=torch.float64)).numpy()
    shape = E(log_shape)
    if log_shape < -20:  # a gamma^shape is uniform as the shape tends to 0
        assert scipy.stats.kstest(np.exp(shape * values), "uniform").pvalue > 1e-3
    elif log_shape > 30:  # and a normal as it tends to infinity
        assert scipy.stats.kstest((values - log_shape) * math.sqrt(shape), "norm").pvalue > 1e-3
    else:
        assert scipy.stats.kstest(np.exp(values), scipy.stats.gamma(shape).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_draws_repeat_with_the_key_and_differ_with_another(name):
    likelihood = CASES[name].likelihood
    parameters = torch.tensor(CASES[name].ordinary)[:, :, None].repeat(20, 1, 30)
    one = likelihood.sample(parameters, key=make_key(3))
    assert torch.equal(one, likelihood.sample(parameters, key=make_key(3)))
    assert not torch.equal(one, likelihood.sample(parameters, key=make_key(4)))
    assert not torch.equal(one[:1], one[1:2])


@pytest.mark.parametrize("name", CASES)
def test_a_draw_depends_on_its_own_parameters_and_position_alone(name):
    likelihood = CASES[name].likelihood
    parameters = torch.tensor(CASES[name].ordinary, dtype=torch.float64)[:, :, None].repeat(1, 1, 8)
    hard = torch.tensor(CASES[name].extreme[0], dtype=torch.float64)[:, None].expand(-1, 8)[None]
    for others in (parameters[1:], hard):
        together = likelihood.sample(torch.cat((parameters[:1], others)), key=make_key(3))
        # To the last bits: vectorised logarithms round differently at the end of an array.
        torch.testing.assert_close(together[:1], likelihood.sample(parameters[:1], key=make_key(3)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_rows_are_drawn_alike_however_they_are_split(name):
    """A row has an odd number of elements, so that most parts begin within a block of the noise."""
    likelihood, rows = CASES[name].likelihood, torch.tensor(CASES[name].ordinary, dtype=torch.float64)
    parameters = rows.repeat(11, 1)[:11, :, None, None].expand(-1, -1, 3, 5)
    whole = likelihood.sample(parameters, key=make_key(3))
    for size in (1, 4):
        parts = [likelihood.sample(parameters[i : i + size], key=make_key(3), row_start=i) for i in range(0, 11, size)]
        # To the last bits: vectorised logarithms round differently at the end of an array.
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_draws_lie_in_the_support_in_every_dtype(name, dtype):
    likelihood = CASES[name].likelihood
    rows = CASES[name].ordinary + (CASES[name].extreme if dtype == torch.float64 else [])
    if name == "student_t":  # e^-50 degrees of freedom: almost all draws are beyond float64's range
        rows = [row for row in rows if row[2] > -20]
    parameters = torch.tensor(rows)[:, :, None].repeat(1, 1, 500).to(dtype)
    values = likelihood.sample(parameters, key=make_key(5))
    assert values.dtype == dtype
    assert values.shape == (len(rows), 500)
    assert values.isfinite().all()
    likelihood.check(values)
    assert likelihood.sample(parameters[:0], key=make_key(5)).shape == (0, 500)


def test_beta_draws_next_to_the_ends_stay_inside():
    parameters = torch.tensor([[-8.0, -8.0]])[:, :, None].repeat(1, 1, 1000)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        values = Beta().sample(parameters.to(dtype), key=make_key(0))
        assert 0 < values.min() < 1e-4
        assert 0.99 < values.max() < 1
        Beta().check(values)


@pytest.mark.parametrize("name", CASES)
def test_draws_of_parameters_that_are_no_numbers_end(name):
    likelihood = CASES[name].likelihood
    parameters = torch.full((2, likelihood.parameters_per_element, 3), math.nan)
    assert likelihood.sample(parameters, key=make_key(0)).shape == (2, 3)


def test_a_shared_scale_scales_draws():
    near, far = (StudentT("fixed", sigma=s).sample(torch.zeros(2, 1, 50), key=make_key(0)) for s in (1.0, 10.0))
    torch.testing.assert_close(far, 10 * near)
