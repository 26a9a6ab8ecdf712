"""The geometry of the Poincare ball against what defines it: distances, volumes by automatic Jacobians, ways there and back."""

import math

import mpmath
import pytest
import torch
from torch.testing import assert_close

from vaekit import poincare

CURVATURES = pytest.mark.parametrize("c", [0.3, 1.0, 4.0])


def points(c, count=20, size=3, seed=0):
    torch.manual_seed(seed)
    z = torch.randn(count, size, dtype=torch.float64)
    return 0.9 / math.sqrt(c) * torch.rand(count, 1, dtype=torch.float64) * z / z.norm(dim=1, keepdim=True)


@CURVATURES
def test_the_distance_is_that_of_the_closed_form(c):
    x, y = points(c), points(c, seed=1)
    ratio = 2 * c * (x - y).square().sum(1) / ((1 - c * x.square().sum(1)) * (1 - c * y.square().sum(1)))
    assert_close(poincare.distance(x, y, c, 1)[:, 0], torch.acosh(1 + ratio) / math.sqrt(c), rtol=1e-8, atol=1e-8)


@CURVATURES
def test_a_way_is_as_long_as_it_says_and_leads_back(c):
    x, u = points(c), 1.5 * torch.randn(20, 3, dtype=torch.float64)
    z = poincare.reached(x, u, c, 1)
    assert (z.norm(dim=1) < 1 / math.sqrt(c)).all()
    assert_close(poincare.distance(x, z, c, 1), u.norm(dim=1, keepdim=True), rtol=1e-7, atol=1e-9)
    assert_close(poincare.led_to(x, z, c, 1), u, rtol=1e-6, atol=1e-7)
    start = poincare.reached(x, 1e-6 * u, c, 1)  # at first it goes in u's direction, scaled by the metric
    assert_close((start - x) / 1e-6, u * (1 - c * x.square().sum(1, keepdim=True)) / 2, rtol=1e-4, atol=1e-6)


@CURVATURES
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_volume_is_the_jacobian_times_the_metrics(c, size):
    torch.manual_seed(0)
    mean = points(c, 6, size)
    u = torch.randn(6, size, dtype=torch.float64)
    for m, way in zip(mean, u, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda w, m=m: poincare.reached(m[None], w[None], c, 1)[0], way)
        z = poincare.reached(m[None], way[None], c, 1)
        metric = size * torch.log(2 / (1 - c * z.square().sum()))  # lambda^D
        assert_close(poincare.log_volume(way[None], c, 1)[0], jacobian.det().abs().log() + metric, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("s", [0.0, 1e-8, 1e-3, 0.05, 0.0999, 0.1, 0.1001, 1.0, 30.0, 800.0])
def test_the_room_at_a_distance_keeps_its_digits(s):
    u = torch.tensor([[s, 0.0, 0.0]], dtype=torch.float64)
    with mpmath.workdps(50):
        exact = 0.0 if s == 0 else float(2 * mpmath.log(mpmath.sinh(s) / s))
    assert_close(poincare.log_volume(u, 1.0, 1).item(), exact, rtol=1e-11, atol=1e-30)


def test_the_centre_and_the_edge_have_finite_gradients():
    for dtype in (torch.float32, torch.float64):
        for length in (0.0, 1e-12, 40.0, 1e4):
            u = torch.tensor([[length, 0.0]], dtype=dtype, requires_grad=True)
            z = poincare.reached(torch.zeros(1, 2, dtype=dtype), u, 1.0, 1)
            assert z.norm() < 1.0
            back = poincare.led_to(torch.zeros(1, 2, dtype=dtype), z, 1.0, 1)
            (z.sum() + back.sum() + poincare.log_volume(u, 1.0, 1).sum()).backward()
            assert back.isfinite().all()
            assert u.grad.isfinite().all()
