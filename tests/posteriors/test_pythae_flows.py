"""Planar and radial flows against pythae's: the same numbers where its maps can be inverted.

Skipped where pythae is not installed: `pip install pythae==0.1.2`. Its numbers are weights, not the encoder's. Where they differ:

- its planar map takes any u, so that it may fold space over: then it is no density that comes out, but a number;
- its planar log |det| has 10^-4 added to the determinant.
"""

import functools
import math

import pytest
import torch
from helpers.pythae_networks import pythae as pythae
from torch.testing import assert_close

from vaekit.planar import Planar, Radial

flows = pytest.importorskip("pythae.models.normalizing_flows")
X = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def theirs(kind, seed=0):
    torch.manual_seed(seed)
    config = (
        flows.PlanarFlowConfig(input_dim=(3,), activation="tanh") if kind == "planar" else flows.RadialFlowConfig(input_dim=(3,))
    )
    return (flows.PlanarFlow if kind == "planar" else flows.RadialFlow)(config).double()


def unsoftplus(value):
    """What `vaekit.planar` makes `value` of."""
    return torch.log(torch.expm1(value)) - math.log(math.e - 1)


def test_the_radial_map_and_its_determinant_are_pythaes():
    model, ours = theirs("radial"), Radial(3, 1, is_told=False).double()
    output = model(X)
    alpha = model.log_alpha.exp()
    more = torch.nn.functional.softplus(model.beta) / alpha  # 1 + beta / alpha
    ours.numbers.data = torch.cat([model.x0[0], unsoftplus(alpha), unsoftplus(more)]).detach()[None]
    y, log_slope = ours(X)
    assert_close(y, output.out)
    assert_close(log_slope, output.log_abs_det_jac)


def planar_of(model):
    """Our map with their v, which has to be one that can be inverted."""
    v, w = model.u[0].detach(), model.w[0].detach()
    along = float(v @ w)
    a = math.log(math.expm1(along + 1)) - math.log(math.e - 1)  # m(a) = along
    ours = Planar(3, 1, is_told=False).double()
    ours.numbers.data = torch.cat([v * a / along, w, model.b.detach().view(1)])[None]
    return ours


def test_the_planar_map_is_pythaes_and_its_determinant_without_the_constant_that_pythae_adds():
    model = next(model for model in map(functools.partial(theirs, "planar"), range(20)) if float(model.u[0] @ model.w[0]) > -0.9)
    output, (y, log_slope) = model(X), planar_of(model)(X)
    assert_close(y, output.out)
    assert_close((log_slope.exp() + 1e-4).log(), output.log_abs_det_jac)
    exact = torch.stack([torch.autograd.functional.jacobian(lambda x: model(x[None]).out[0], x) for x in X]).det().log()
    assert_close(log_slope, exact)
    assert (output.log_abs_det_jac - exact).abs().max() > 1e-5


def test_pythaes_planar_map_may_fold_space_over():
    model = next(model for model in map(functools.partial(theirs, "planar"), range(40)) if float(model.u[0] @ model.w[0]) < -1.5)
    # Along w: two points with one image.
    line = torch.linspace(-20, 20, 4001, dtype=torch.float64)[:, None] * model.w.detach() / model.w.norm()
    along = (model(line).out @ model.w[0]).detach()
    assert (along.diff() < 0).any()
    assert (along.diff() > 0).any()
