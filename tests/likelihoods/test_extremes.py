"""Laws of parameters far out: what a network gives before it has learned anything, or once it has run away, is never NaN."""

import itertools
import math

import pytest
import torch
from helpers import densities
from helpers.densities import CASES, exact, exact_slopes, rounding

from vaekit import make_key
from vaekit.likelihoods import DiscretizedLogistic
from vaekit.ops.reference import compute_dtype

FAR = [-1e4, -200.0, -150.0, -104.0, -90.0, -85.0, -40.0, 0.0, 16.0, 40.0, 85.0, 88.5, 90.0, 104.0, 150.0, 200.0, 1e4]
ONE_COMPONENT = CASES["discretized_logistic"]._replace(
    likelihood=DiscretizedLogistic(components=1), ordinary=[(0.0, 0.0, 0.0), (0.0, 0.3, -2.0)], extreme=[]
)
ALL = {**CASES, "discretized_logistic of one component": ONE_COMPONENT}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def one_far(case, far):
    """Parameters of which one is far out."""
    for ordinary, (place, value) in itertools.product(case.ordinary[:2], itertools.product(range(len(case.ordinary[0])), far)):
        yield (*ordinary[:place], value, *ordinary[place + 1 :])


def two_far(case):
    """Parameters of which two are far out."""
    for places in itertools.combinations(range(len(case.ordinary[0])), 2):
        for values in itertools.product([-1e4, -200.0, -90.0, 90.0, 200.0, 1e4], repeat=2):
            parameters = list(case.ordinary[0])
            for place, value in zip(places, values, strict=True):
                parameters[place] = value
            yield tuple(parameters)


def rows_of(case, parameters, dtype):
    """Natural parameters [N, P, 1] and x [N, 1]: each of the parameters with each value of the support that the dtype has."""
    support = case.likelihood.support
    values = torch.tensor(case.values, dtype=dtype)
    inside = values.isfinite() if support.bounds_included else (values > support.lowest) & (values < support.highest)
    pairs = list(itertools.product(parameters, values[inside].tolist()))
    natural = torch.tensor([row for row, _ in pairs], dtype=dtype)[..., None].requires_grad_()
    return natural, torch.tensor([value for _, value in pairs], dtype=dtype)[:, None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_neither_an_nll_nor_its_gradient_is_nan(name, dtype):
    case = ALL[name]
    parameters, x = rows_of(case, [*one_far(case, FAR), *two_far(case)], dtype)
    assert_no_nan(parameters, x, case.likelihood.nll(parameters, x))
    wide = compute_dtype(dtype)
    assert_no_nan(
        parameters, x, case.likelihood.element_nll(parameters.to(wide), x.to(wide))[:, 0]
    )  # also where a kernel serves nll


def assert_no_nan(parameters, x, nll):
    (gradient,) = torch.autograd.grad(nll.sum(), parameters)
    for number in ((nll.isnan() | nll.isneginf())[:, None, None] | gradient.isnan()).nonzero()[:1, 0].tolist():
        row = parameters[number].flatten().tolist(), x[number].item()
        pytest.fail(f"at {row} the nll is {nll[number].item()} and its gradient {gradient[number].flatten().tolist()}")


@pytest.mark.parametrize("name", ALL)
def test_the_nll_and_its_gradient_are_the_textbooks_where_float32_has_them(name, monkeypatch):
    monkeypatch.setattr(densities, "DIGITS", 200)  # differences of log-gamma functions of 1e87, divided by 1e-30
    case, dtype = ALL[name], torch.float32
    case = case._replace(ordinary=case.ordinary[1:2])
    parameters, x = rows_of(case, one_far(case, [-200.0, -104.0, -90.0, -85.0, 85.0, 88.5, 90.0, 200.0]), dtype)
    nll = case.likelihood.nll(parameters, x)
    (gradient,) = torch.autograd.grad(nll.sum(), parameters)
    values, scales = exact(case, parameters, x), rounding(case, parameters, x).tolist()
    slopes = torch.tensor(exact_slopes(case, parameters, x), dtype=torch.float64)
    largest = torch.finfo(dtype).max
    for number, (value, scale) in enumerate(zip(values, scales, strict=True)):
        got, row = nll[number].item(), f"{name} at {parameters[number].flatten().tolist()}, {x[number].item()}"
        if abs(value) < 0.1 * largest:
            assert abs(got - float(value)) <= 16 * torch.finfo(dtype).eps * scale, f"{row}: {got} instead of {float(value)}"
        else:
            assert got > 0.01 * largest, f"{row}: {got} instead of {float(value)}"
        expected = slopes[number]
        has_slopes = expected.abs() < 0.1 * largest
        tolerance = 1e-4 * expected[has_slopes].abs().amax() if has_slopes.any() else 0.0
        rounded = 4e-7 * x[number] if case.likelihood.support.whole else 0.0
        off = (gradient[number, :, 0] - expected).abs()[has_slopes] - tolerance - rounded
        assert (off <= 1e-5).all(), f"{row}: the gradient is {gradient[number, :, 0].tolist()} instead of {expected.tolist()}"
        same_way = gradient[number, :, 0].sign() == expected.sign()
        assert same_way[~has_slopes].all(), f"{row}: the gradient is {gradient[number, :, 0].tolist()}, not {expected.tolist()}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_means_and_draws_far_out_end_and_are_not_nan(name, dtype):
    case = ALL[name]
    parameters = torch.tensor([*one_far(case, FAR), *two_far(case)], dtype=dtype)[..., None]
    assert not case.likelihood.mean(parameters).isnan().any()
    assert not case.likelihood.sample(parameters, key=make_key(0)).isnan().any()


def test_draws_far_out_are_as_their_distributions_say():
    n = 4000
    logs = torch.tensor([-1e4, -1e4 + math.log(3.0)]).reshape(1, 2, 1).expand(n, 2, 1)
    drawn = CASES["beta"].likelihood.sample(logs, key=make_key(1))  # 0 or 1, of which 1 with the probability a / (a + b)
    assert abs((drawn > 0.5).double().mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
    far = torch.tensor([110.0, 1e4], dtype=torch.float64).reshape(1, 2, 1).expand(n, 2, 1)
    counts = CASES["negative_binomial"].likelihood.sample(far, key=make_key(1))  # a Poisson's, whose deviation is its mean's root
    torch.testing.assert_close(counts, torch.full_like(counts, math.exp(110.0)), rtol=1e-12, atol=0.0)
