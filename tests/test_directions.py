"""The laws of a direction's height: normalisers, means and divergences against mpmath and scipy, draws and their gradients."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.testing import assert_close

from vaekit import make_key
from vaekit.directions import PowerSphericalLaw, VonMisesFisherLaw, height_slopes, heights, log_area, moments

FISHER, POWER = VonMisesFisherLaw(), PowerSphericalLaw()
LAWS = pytest.mark.parametrize("law", [FISHER, POWER], ids=["von_mises_fisher", "power_spherical"])
SIZES = pytest.mark.parametrize("size", [2, 3, 4, 10, 31, 32, 101, 600])
KAPPAS = [0.0, 1e-6, 1e-3, 0.1, 1.0, 7.0, 60.0, 700.0, 1e4, 1e6]
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def fisher_exactly(kappa, size):
    """log C_D(kappa), A_D(kappa) and the divergence from the uniform law, by Bessel functions of 60 digits."""
    with mpmath.workdps(60):
        kappa, half = mpmath.mpf(kappa), mpmath.mpf(size) / 2
        log_surface = mpmath.log(2) + half * mpmath.log(mpmath.pi) - mpmath.loggamma(half)
        if kappa == 0:
            return float(-log_surface), 0.0, 0.0
        bessel, next_bessel = mpmath.besseli(half - 1, kappa), mpmath.besseli(half, kappa)
        log_normalizer = (half - 1) * mpmath.log(kappa) - half * mpmath.log(2 * mpmath.pi) - mpmath.log(bessel)
        mean = next_bessel / bessel
        return float(log_normalizer), float(mean), float(kappa * mean + log_normalizer + log_surface)


def power_exactly(kappa, size):
    """The same of the power spherical law, by its closed forms; the mean is that of log((1 + m z) / 2)."""
    with mpmath.workdps(60):
        kappa, b = mpmath.mpf(kappa), mpmath.mpf(size - 1) / 2
        a = b + kappa
        log_surface = mpmath.log(2) + (b + 0.5) * mpmath.log(mpmath.pi) - mpmath.loggamma(b + mpmath.mpf(1) / 2)
        log_n = (a + b) * mpmath.log(2) + b * mpmath.log(mpmath.pi) + mpmath.loggamma(a) - mpmath.loggamma(a + b)
        mean = mpmath.digamma(a) - mpmath.digamma(a + b)
        return float(-log_n), float(mean), float(-log_n + kappa * (mpmath.log(2) + mean) + log_surface)


@SIZES
@pytest.mark.parametrize("kappa", KAPPAS)
def test_normaliser_mean_and_divergence_are_those_of_bessel_functions(kappa, size):
    found = moments(FISHER, torch.tensor([kappa], dtype=torch.float64), size)
    log_normalizer, mean, divergence = fisher_exactly(kappa, size)
    # exp(kappa m z) is exp(kappa) exp(-kappa v).
    assert_close(-found.log_normalizer.item() - kappa - log_area(size - 1), log_normalizer, rtol=1e-11, atol=1e-10)
    assert_close(1.0 + found.statistic.item(), mean, rtol=0.0, atol=1e-12)
    assert_close(found.divergence.item(), divergence, **EXACT)
    if divergence > 0:
        assert_close(found.divergence.item(), divergence, rtol=1e-8, atol=0.0)


@SIZES
@pytest.mark.parametrize("kappa", KAPPAS)
def test_normaliser_mean_and_divergence_are_those_of_gamma_functions(kappa, size):
    found = moments(POWER, torch.tensor([kappa], dtype=torch.float64), size)
    log_normalizer, mean, divergence = power_exactly(kappa, size)
    # (1 + m z)^kappa is 2^kappa (1 - v / 2)^kappa.
    own = -found.log_normalizer.item() - kappa * math.log(2.0) - log_area(size - 1)
    assert_close(own, log_normalizer, rtol=1e-11, atol=1e-10)
    assert_close(found.statistic.item(), mean, rtol=1e-10, atol=1e-13)
    assert_close(found.divergence.item(), divergence, **EXACT)
    if divergence > 1e-20:
        assert_close(found.divergence.item(), divergence, rtol=1e-8, atol=0.0)


@pytest.mark.parametrize("size", [2, 3, 20])
@pytest.mark.parametrize("kappa", [0.5, 30.0, 500.0])
def test_scipy_says_the_same(kappa, size):
    found = moments(FISHER, torch.tensor([kappa], dtype=torch.float64), size)
    half = size / 2
    ratio = special.ive(half, kappa) / special.ive(half - 1, kappa)
    assert_close(1.0 + found.statistic.item(), float(ratio), rtol=1e-10, atol=0.0)
    fisher = stats.vonmises_fisher(np.eye(size)[0], kappa)
    assert_close(found.divergence.item(), log_area(size) - float(fisher.entropy()), rtol=1e-8, atol=1e-8)


@LAWS
@SIZES
def test_the_divergence_has_its_derivative(law, size):
    """kappa Var(s), which is kappa times the derivative of the mean."""
    kappa = torch.tensor([1e-4, 0.3, 2.0, 50.0, 3e4], dtype=torch.float64, requires_grad=True)
    found = moments(law, kappa, size)
    (by_divergence,) = torch.autograd.grad(found.divergence.sum(), kappa, retain_graph=True)
    (by_mean,) = torch.autograd.grad(found.statistic.sum(), kappa, retain_graph=True)
    (by_normalizer,) = torch.autograd.grad(found.log_normalizer.sum(), kappa)
    assert_close(by_divergence, kappa * by_mean, rtol=1e-8, atol=1e-13)
    assert_close(by_normalizer, found.statistic, rtol=1e-10, atol=0.0)


def density(law, kappa, size):
    """Of v, by scipy's quadrature."""

    def unnormalized(v):
        return float(torch.exp(kappa * law.statistic(torch.tensor(v, dtype=torch.float64)))) * (v * (2 - v)) ** ((size - 3) / 2)

    total = integrate.quad(unnormalized, 0.0, 2.0, limit=200)[0]
    return lambda v: unnormalized(v) / total


@LAWS
@pytest.mark.parametrize("size", [2, 3, 5, 40])
@pytest.mark.parametrize("kappa", [0.0, 0.7, 20.0, 3000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_of_the_law(law, kappa, size, dtype):
    v = heights(law, torch.full((4000, 1), kappa, dtype=torch.float64), size, make_key(3)[None], dtype, 0)[0, :, 0]
    if law is POWER:
        below = stats.beta((size - 1) / 2 + kappa, (size - 1) / 2).sf(1.0 - v.numpy() / 2.0)
    else:
        grid = np.pi * (np.arange(200_000) + 0.5) / 200_000  # of the angle, in which nothing is singular
        log_heights = (size - 2) * np.log(np.sin(grid)) - 2 * kappa * np.sin(grid / 2) ** 2
        shares = np.exp(log_heights - log_heights.max()).cumsum()
        below = np.interp(2 * np.arcsin(np.sqrt(v.numpy() / 2)), grid, shares / shares[-1])
    assert stats.kstest(below, "uniform").pvalue > 1e-4


@LAWS
@pytest.mark.parametrize("size", [2, 3, 8, 200])
@pytest.mark.parametrize("kappa", [1e-3, 1.0, 30.0, 1e4])
def test_the_slope_of_a_draw_is_that_of_the_inverse_distribution_function(law, size, kappa):
    """-(dF/dkappa) / (dF/dv) by sums over a fine grid of the angle, at draws from one end of the law to the other."""
    of = torch.tensor([[kappa]], dtype=torch.float64)
    v = heights(law, of.expand(200, 1), size, make_key(5)[None], torch.float64, 0)[0].sort(0).values[[0, 20, 100, 180, 199]]
    mean = moments(law, of, size).statistic
    got = height_slopes(law, of.expand_as(v), size, v, mean.expand_as(v))
    last = torch.full((1, 1), torch.pi, dtype=torch.float64)
    for each, slope in zip(v[:, 0], got[:, 0], strict=True):
        angle = 2 * torch.asin((each / 2).sqrt())
        side = (0.0, float(angle)) if law.statistic(each) >= mean else (float(angle), float(last))
        with torch.no_grad():
            t = torch.linspace(*side, 400_001, dtype=torch.float64)
            middle = (t[1:] + t[:-1]) / 2
            s = law.of_angle(middle)
            log_ratio = (size - 2) * (torch.sin(middle) / torch.sin(angle)).log() + kappa * (s - law.of_angle(angle))
            total = (log_ratio.exp() * (s - mean[0, 0])).sum() * (t[1] - t[0])
        sign = 1.0 if law.statistic(each) >= mean else -1.0
        assert_close(slope, -sign * torch.sin(angle) * total, rtol=1e-5, atol=1e-12)


@LAWS
@pytest.mark.parametrize("size", [2, 3, 20])
def test_the_mean_slope_of_s_is_its_variance(law, size):
    """d/dkappa E s(v) = Var s, of draws: the gradient needs no correction."""
    kappa = torch.full((20_000, 1), 3.0, dtype=torch.float64)
    v = heights(law, kappa, size, make_key(7)[None], torch.float64, 0)[0]
    at = torch.tensor([[3.0]], dtype=torch.float64, requires_grad=True)
    found = moments(law, at, size)
    (variance,) = torch.autograd.grad(found.statistic.sum(), at)
    slopes = law.slope(v) * height_slopes(law, kappa, size, v, found.statistic.detach().expand_as(v))
    assert (slopes.mean() - variance).abs() < 4 * slopes.std() / math.sqrt(len(v))


@LAWS
def test_draws_depend_on_key_and_row_alone(law):
    kappa = torch.tensor([0.1, 3.0, 50.0, 1e3, 1e5, 2.0, 9.0], dtype=torch.float64)[:, None].expand(7, 3)
    keys = torch.stack([make_key(1), make_key(2)])
    whole = heights(law, kappa, 5, keys, torch.float32, 0)
    assert torch.equal(heights(law, kappa[4:], 5, keys, torch.float32, 4), whole[:, 4:])
    assert torch.equal(heights(law, kappa, 5, keys[1:], torch.float32, 0), whole[1:])
    assert torch.equal(heights(law, kappa[:1], 5, keys, torch.float32, 0), whole[:, :1])
    assert (whole[0] != whole[1]).all()


@LAWS
def test_a_kappa_that_is_no_number_ends(law):
    v = heights(law, torch.tensor([[math.nan], [2.0]], dtype=torch.float64), 3, make_key(0)[None], torch.float32, 0)
    assert v[0, 0].isnan().all()
    assert v[0, 1].isfinite().all()
