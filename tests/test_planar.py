"""Planar and radial maps: their determinants against automatic Jacobians, their inverses, and that they are invertible at all."""

import math

import mpmath
import pytest
import torch
from torch.testing import assert_close

from vaekit.planar import Planar, Radial, _above_minus_one, _log_between, _share_above

MAPS = pytest.mark.parametrize("maps", [Planar, Radial])
TOLD = pytest.mark.parametrize("is_told", [False, True])
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def made(maps, size, transforms=3, is_told=False, scale=1.0, rows=5, positions=1, seed=0):
    """A network whose maps are no longer the identity, some rows, and the context that it is told."""
    torch.manual_seed(seed)
    network = maps(size, transforms, is_told).double()
    if not is_told:
        network.numbers.data = scale * torch.randn_like(network.numbers)
    context = scale * torch.randn(rows, transforms * network.per_map * positions, dtype=torch.float64) if is_told else None
    return network, torch.randn(rows, size * positions, dtype=torch.float64), context


def jacobians(network, x, context):
    return torch.stack(
        [
            torch.autograd.functional.jacobian(
                lambda row, told=None if context is None else context[i : i + 1]: network(row[None], told)[0][0], x[i]
            )
            for i in range(len(x))
        ]
    )


@MAPS
@TOLD
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_change_of_volume_is_the_determinant_of_the_jacobian_and_positive(maps, is_told, size, scale):
    network, x, context = made(maps, size, is_told=is_told, scale=scale)
    _, log_slope = network(x, context)
    determinants = jacobians(network, x, context).det()
    assert (determinants > 0).all(), "it could not be inverted"
    assert_close(log_slope, determinants.log(), rtol=1e-7, atol=1e-7)


@MAPS
@TOLD
@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_the_inverse_leads_back_and_has_the_gradient_of_one(maps, is_told, positions, scale):
    network, x, context = made(maps, 2, is_told=is_told, scale=scale, positions=positions)
    y, _ = network(x, context)
    assert_close(network.inverse(y, context), x, rtol=1e-6, atol=1e-6)
    back = torch.autograd.functional.jacobian(lambda y: network.inverse(y, context).sum(0), y).permute(1, 0, 2)
    assert_close(back, torch.linalg.inv(jacobians(network, x, context)), rtol=1e-4, atol=1e-4)
    if is_told and scale < 1.0:
        assert torch.autograd.gradcheck(lambda told: network.inverse(y.detach(), told), context.requires_grad_(), atol=1e-4)


@MAPS
@TOLD
def test_positions_are_vectors_of_their_own_laid_out_as_the_latents_are(maps, is_told):
    network, x, context = made(maps, 2, is_told=is_told, positions=4)
    y, log_slope = network(x, context)
    apart = [network(x.view(5, 2, 4)[:, :, p], None if context is None else context.view(5, -1, 4)[:, :, p]) for p in range(4)]
    assert_close(y.view(5, 2, 4), torch.stack([each for each, _ in apart], 2))
    assert_close(log_slope, sum(slope for _, slope in apart))


@MAPS
@TOLD
@pytest.mark.parametrize("size", [1, 3])
def test_the_gradient_of_a_density_at_the_image(maps, is_told, size):
    """Against the derivative, by the inverse, of log p(x(y)) - log |det dy/dx| with p = N(0, I)."""
    network, x, context = made(maps, size, is_told=is_told, scale=0.7)
    got = network.gradient_at_image(x, context, -x)
    y = network(x, context)[0].detach().requires_grad_()
    back = network.inverse(y, context)
    log_density = -0.5 * (back * back).sum(1) - network(back, context)[1]
    (expected,) = torch.autograd.grad(log_density.sum(), y)
    assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert not got.requires_grad


@MAPS
def test_a_new_one_is_the_identity_and_every_number_of_it_can_move(maps):
    torch.manual_seed(0)
    network, x = maps(3, 2, is_told=False).double(), torch.randn(50, 3, dtype=torch.float64)
    y, log_slope = network(x)
    assert_close(y, x)
    assert_close(log_slope, torch.zeros(50, dtype=torch.float64))
    (y.cos().sum() + log_slope.square().sum()).backward()
    assert (network.numbers.grad[:, network.moving] != 0).all()


def test_the_planar_map_is_the_papers_with_the_v_that_it_makes():
    network, x, _ = made(Planar, 3, transforms=1)
    u, w, b = network.numbers[0].split((3, 3, 1))
    y, log_slope = network(x)
    along = float((u @ w).detach())
    v = u * (math.log(1 + (math.e - 1) * math.exp(along)) - 1) / along
    assert w @ v > -1
    assert_close(y, x + v * torch.tanh(x @ w + b)[:, None])
    psi = (1 - torch.tanh(x @ w + b) ** 2)[:, None] * w
    assert_close(log_slope, (1 + psi @ v).abs().log())


def test_the_radial_map_is_the_papers_with_the_alpha_and_beta_that_it_makes():
    network, x, _ = made(Radial, 3, transforms=1)
    centre, a, b = network.numbers[0].split((3, 1, 1))
    alpha = math.log(1 + (math.e - 1) * math.exp(float(a)))
    beta = alpha * (math.log(1 + (math.e - 1) * math.exp(float(b))) - 1)
    r = (x - centre).norm(dim=1)
    h, slope = 1 / (alpha + r), -1 / (alpha + r) ** 2
    y, log_slope = network(x)
    assert_close(y, x + beta * h[:, None] * (x - centre))
    assert_close(log_slope, 2 * torch.log(1 + beta * h) + torch.log(1 + beta * h + beta * slope * r))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "a", [-60.0, -20.0, -1.5, -1.0, -0.3, -1e-2, -1e-3, -1e-5, -1e-9, 1e-12, 1e-4, 1e-3, 0.02, 0.5, 1.0, 2.0, 90.0]
)
def test_what_holds_a_map_invertible_is_right_to_rounding(a, dtype):
    at = torch.tensor(a, dtype=dtype)
    with mpmath.workdps(60):
        exact = mpmath.log(1 + (mpmath.e - 1) * mpmath.exp(mpmath.mpf(at.item()))) - 1
        share = exact / mpmath.mpf(at.item())
    close = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 0.0}
    assert_close(_above_minus_one(at).item(), float(exact), **close)
    assert_close(_share_above(at).item(), float(share), **close)


def test_its_share_is_smooth_at_zero():
    at = torch.tensor([-0.5, -1e-6, 0.0, 1e-6, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_share_above, at)
    assert_close(_share_above(at)[2].item(), 1 - 1 / math.e)


@pytest.mark.parametrize("share", [1.0, 1.0 - 1e-6, 0.7, 1e-3, 1e-20])
@pytest.mark.parametrize("value", [1e-30, 1e-8, 0.3, 1.0, 1.0 + 1e-9, 1e4])
def test_the_logarithm_between_one_and_a_value_keeps_its_digits(share, value):
    share, value = (torch.tensor(v, dtype=torch.float64) for v in (share, value))
    got = _log_between(share, 1.0 - share, value - 1.0, value)
    with mpmath.workdps(60):
        exact = mpmath.log(1 - mpmath.mpf(share.item()) + mpmath.mpf(share.item()) * mpmath.mpf(value.item()))
    assert_close(got.item(), float(exact), rtol=1e-7, atol=1e-16)


@MAPS
def test_extreme_numbers_give_no_nan(maps):
    network = maps(2, 4, is_told=False)
    for scale in (1e-8, 30.0, 300.0):
        torch.manual_seed(0)
        network.numbers.data = scale * torch.randn(4, network.per_map)
        x = (3.0 * torch.randn(200, 2)).requires_grad_()
        y, log_slope = network(x)
        assert y.isfinite().all()
        assert not log_slope.isnan().any()
        if log_slope.isfinite().all():
            (y.sum() + log_slope.sum()).backward()
            assert not x.grad.isnan().any()
            assert not network.numbers.grad.isnan().any()


@MAPS
def test_empty_batches_go_through(maps):
    network = maps(2, 2, is_told=False)
    y, log_slope = network(torch.zeros(0, 2))
    assert (y.shape, log_slope.shape, network.inverse(y).shape) == ((0, 2), (0,), (0, 2))
