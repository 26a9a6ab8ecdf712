"""The arithmetic of counts against NumPy in a wider precision and mpmath, with fused multiply-adds and without.

The densities themselves are held against the textbook's in tests/likelihoods; here those in double are the witness of float's.
"""

import mpmath
import numpy as np
import pytest
from helpers.floats import NARROW, PRECISIONS, WIDE, needs_a_wide_long_double, spread, ulp_errors

EPS = {precision: np.finfo(NARROW[precision]).eps for precision in PRECISIONS}
either_arithmetic = pytest.mark.parametrize("fused", [False, True])


@needs_a_wide_long_double
@either_arithmetic
@pytest.mark.parametrize("precision", PRECISIONS)
def test_growth_is_within_four_ulp_everywhere(internals, precision, fused):
    largest = {"float": 88.7, "double": 709.7}[precision]
    tiny = {"float": 1e-30, "double": 1e-300}[precision]
    x = np.concatenate([spread(precision, tiny, largest), -spread(precision, tiny, 2 * largest)])
    x = np.concatenate([x, np.linspace(-1, 1, 400_001).astype(NARROW[precision])])
    x = x[x != 0]
    errors = ulp_errors(getattr(internals, f"growth_{precision}")(x, fused), np.expm1(x.astype(WIDE[precision])), precision)
    assert errors.max() <= 4


@needs_a_wide_long_double
@either_arithmetic
@pytest.mark.parametrize("precision", PRECISIONS)
def test_log_of_one_plus_is_within_three_ulp_from_minus_a_half_to_one(internals, precision, fused):
    tiny = {"float": 1e-30, "double": 1e-300}[precision]
    a = np.concatenate([spread(precision, tiny, 1.0), -spread(precision, tiny, 0.5)])
    a = np.concatenate([a, np.linspace(-0.5, 1, 400_001).astype(NARROW[precision])])
    a = a[a != 0]
    errors = ulp_errors(getattr(internals, f"log_one_plus_{precision}")(a, fused), np.log1p(a.astype(WIDE[precision])), precision)
    assert errors.max() <= 3
    assert getattr(internals, f"log_one_plus_{precision}")(np.zeros(1, NARROW[precision]), fused) == 0.0


def exact_stirling(v):
    """Stirling's remainder and -z^2 times its derivative at z = 1 / v."""
    with mpmath.workdps(60):
        v = mpmath.mpf(float(v))
        if v < 1e-4:  # where a difference of log-gamma functions has lost its digits, the series has them
            series = [mpmath.bernoulli(2 * k) * v ** (2 * k - 2) / (2 * k) for k in range(1, 9)]
            return float(v * sum(term / (2 * k - 1) for k, term in enumerate(series, 1))), float(sum(series))
        z = 1 / v
        remainder = mpmath.loggamma(z + 1) - z * mpmath.log(z) + z - mpmath.log(2 * mpmath.pi * z) / 2
        return float(remainder), float(-z * z * (mpmath.digamma(z + 1) - mpmath.log(z) - v / 2))


@either_arithmetic
@pytest.mark.parametrize("precision", PRECISIONS)
def test_stirlings_remainder_and_its_slope_are_those_of_mpmath_from_one_to_infinity(internals, precision, fused):
    v = np.concatenate([np.linspace(1e-3, 1, 300), 10.0 ** -np.arange(1, 37)]).astype(NARROW[precision])
    remainder, slope = getattr(internals, f"stirling_{precision}")(v, fused)
    expected = np.array([exact_stirling(each) for each in v])
    assert (np.abs(remainder - expected[:, 0]) <= 4 * EPS[precision] * expected[:, 0]).all()
    assert (np.abs(slope - expected[:, 1]) <= 6 * EPS[precision] * expected[:, 1]).all()


def drawn(count):
    """Parameters and counts, ordinary and extreme, and half of them 0."""
    random = np.random.default_rng(0)
    width = random.choice([3.0, 16.0, 70.0], (3, count))
    parameters = random.uniform(-width, width).astype(np.float32)
    x = np.floor(10.0 ** random.uniform(0, 6, count)).astype(np.float32)
    near = random.random(count) < 0.5  # of which the deviance is small
    parameters[0] = np.where(near, np.log(x) + random.standard_normal(count), parameters[0])
    return (*parameters, np.where(random.random(count) < 0.5, 0, x).astype(np.float32))


def sensitivity(log_mean, log_theta, logit, x, results):
    """What a relative change of 1 in each of the numbers, and in log x, changes in an nll to first order, plus its size and 1."""
    log_x = np.log(np.maximum(x, 1))
    sizes = [np.abs(parameter) + log_x + 1 for parameter in (log_mean, log_theta, logit)]
    return np.abs(results[0]) + 1 + sum(size * np.abs(slope) for size, slope in zip(sizes, results[1:], strict=True))


@either_arithmetic
@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated"])
def test_in_float_a_density_and_its_slopes_are_those_in_double(internals, name, fused):
    operands = drawn(200_000)
    wide = [each.astype(np.float64) for each in operands]
    got, expected = getattr(internals, f"{name}_float")(*operands, fused), getattr(internals, f"{name}_double")(*wide, True)
    allowed = EPS["float"] * sensitivity(*wide, expected)
    assert (np.abs(got[0] - expected[0]) <= 4 * allowed).all()
    # A slope may cancel, and then its error is one of what it is the difference of.
    largest = np.abs(expected[1:]).max(0) + wide[3] + 1
    sizes = np.abs(np.stack(wide[:2])).max(0) + 8
    for slope, want in zip(got[1:], expected[1:], strict=True):
        assert (np.abs(slope - want) <= 4 * EPS["float"] * sizes * largest).all()


@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated"])
def test_with_and_without_fused_multiply_adds_a_density_is_the_same_but_for_rounding(internals, name):
    wide = [each.astype(np.float64) for each in drawn(200_000)]
    fused, unfused = (getattr(internals, f"{name}_double")(*wide, each) for each in (True, False))
    assert (np.abs(fused[0] - unfused[0]) <= 4 * EPS["double"] * sensitivity(*wide, fused)).all()


@either_arithmetic
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["poisson", "negative_binomial", "zero_inflated"])
def test_no_finite_parameters_give_nan(internals, name, precision, fused):
    far = [-1e4, -745, -200, -104, -88, -80, -1, 0, 1, 16, 79.9, 80, 80.1, 88.5, 88.9, 104, 200, 699, 701, 709.9, 1e4]
    operands = [each.ravel().astype(NARROW[precision]) for each in np.meshgrid(far, far, far, [0, 1, 2, 1e3, 2**24, 1e30])]
    results = getattr(internals, f"{name}_{precision}")(*operands, fused)
    assert not np.isnan(results).any()
    assert (results[0] >= 0).all()
