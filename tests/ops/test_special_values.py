"""What is not finite stays in its row, and a divergence loses no digits near zero and overflows only where float does."""

import math

import mpmath
import pytest
import torch
from helpers.strategies import logvars, means
from hypothesis import example, given

from vaekit import make_key, reparameterize_kl
from vaekit.ops.reference import excess

INF, NAN = math.inf, math.nan


def exact_kl(mu: float, logvar: float) -> float:
    with mpmath.workdps(120):
        mu, logvar = mpmath.mpf(mu), mpmath.mpf(logvar)
        return float((mu**2 + mpmath.exp(logvar) - 1 - logvar) / 2)


def is_right(value: torch.Tensor, expected: float, tolerance: float) -> bool:
    """Relative error within the tolerance, or, among the subnormal numbers, whose spacing is fixed, within two of them."""
    info = torch.finfo(value.dtype)
    return abs(float(value) - expected) <= tolerance * abs(expected) + 2 * info.smallest_normal * info.eps


@given(logvars)
@example(1e-4)
@example(1e-6)
@example(-1e-6)
@example(0.5)
@example(-0.5)
@example(0.49999997)
@example(1e-20)
@example(0.0)
def test_kl_is_right_to_a_millionth_for_every_logvar(logvar):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        value = torch.tensor([logvar], dtype=dtype)
        _, kl = reparameterize_kl(torch.zeros_like(value), value, key=make_key(0))
        assert is_right(kl, exact_kl(0.0, float(value)), tolerance)


def test_kl_on_a_fine_grid_of_every_magnitude():
    magnitudes = torch.logspace(-19, 1.9, 4000)
    for logvar in (magnitudes, -magnitudes):
        _, kl = reparameterize_kl(torch.zeros_like(logvar), logvar, key=make_key(0), reduce="none")
        expected = torch.tensor([exact_kl(0.0, v) for v in logvar.tolist()], dtype=torch.float64)
        assert ((kl.double() - expected).abs() <= 1e-6 * expected).all()


@given(means, logvars)
def test_kl_of_any_gaussian_against_mpmath(mu, logvar):
    _, kl = reparameterize_kl(torch.tensor([mu]), torch.tensor([logvar]), key=make_key(0))
    assert is_right(kl, exact_kl(mu, logvar), 1e-6)


@given(logvars)
def test_the_gradient_is_half_expm1(logvar):
    value = torch.tensor([logvar], requires_grad=True)
    _, kl = reparameterize_kl(torch.zeros(1), value, key=make_key(0))
    kl.sum().backward()
    assert is_right(value.grad, float(mpmath.expm1(mpmath.mpf(logvar)) / 2), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("mu", "logvar", "expected_kl", "expected_z"),
    [
        (1.0, INF, INF, "infinite"),
        (1.0, -INF, INF, 1.0),
        (INF, 0.0, INF, INF),
        (-INF, 0.0, INF, -INF),
        (NAN, 0.0, NAN, NAN),
        (0.0, NAN, NAN, NAN),
    ],
)
def test_one_special_value_gives_what_the_convention_says_and_leaves_other_rows_alone(mu, logvar, expected_kl, expected_z, dtype):
    mus, logvars = torch.full((3, 4), 0.5, dtype=dtype), torch.full((3, 4), -0.25, dtype=dtype)
    clean_z, clean_kl = reparameterize_kl(mus, logvars, key=make_key(3))
    mus[1, 2], logvars[1, 2] = mu, logvar
    z, kl = reparameterize_kl(mus, logvars, key=make_key(3))
    torch.testing.assert_close(kl[1].double(), torch.tensor(expected_kl).double(), equal_nan=True)
    if expected_z == "infinite":
        assert z[1, 2].isinf()
    else:
        torch.testing.assert_close(z[1, 2].double(), torch.tensor(expected_z).double(), equal_nan=True)
    untouched = torch.ones(3, 4, dtype=torch.bool)
    untouched[1, 2] = False
    assert torch.equal(z[untouched], clean_z[untouched])
    assert torch.equal(kl[[0, 2]], clean_kl[[0, 2]])


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@pytest.mark.parametrize("position", ["mu", "logvar"])
def test_gradients_of_other_rows_do_not_see_a_special_value(position, value):
    def gradients(mu, logvar):
        mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
        z, kl = reparameterize_kl(mu, logvar, key=make_key(1))
        (z.sum() + kl.sum()).backward()
        return torch.stack((mu.grad, logvar.grad))

    mu, logvar = torch.randn(3, 5), torch.randn(3, 5)
    clean = gradients(mu, logvar)
    {"mu": mu, "logvar": logvar}[position][1, 0] = value
    assert torch.equal(gradients(mu, logvar)[:, [0, 2]], clean[:, [0, 2]])


def test_exponentials_overflow_where_float32_does_and_not_before():
    below, above = torch.tensor([88.72]), torch.tensor([88.73])
    assert reparameterize_kl(torch.zeros(1), below, key=make_key(0))[1].isfinite()
    assert reparameterize_kl(torch.zeros(1), above, key=make_key(0))[1] == INF
    z, _ = reparameterize_kl(torch.zeros(1), above, key=make_key(0))
    assert z.isfinite()  # sigma = exp(44) still fits: nothing is clamped


def test_excess_is_exact_zero_only_at_zero():
    values = torch.tensor([0.0, 1e-18, -1e-18])
    assert (excess(values) == 0).tolist() == [True, False, False]


@pytest.mark.parametrize("prior_logvar", [-80.0, -90.0, -100.0, -120.0])
def test_a_narrow_prior_gives_finite_gradients_where_the_divergence_is_finite(prior_logvar):
    values = [torch.tensor([v], requires_grad=True) for v in (0.0, prior_logvar, 0.0, prior_logvar)]
    mu, logvar, *prior = values
    _, kl = reparameterize_kl(mu, logvar, key=make_key(0), prior=tuple(prior))
    gradients = torch.autograd.grad(kl.sum(), values, create_graph=True)
    assert kl == 0
    assert all(float(g) == 0 for g in gradients)
