"""The wrapped normal, prior and posterior: densities over hyperbolic space, draws, and models."""

import math

import pytest
import torch
from helpers.whole_models import assert_it_learns_and_is_saved_and_drawn
from torch.testing import assert_close

import vaekit
from vaekit import make_key, poincare
from vaekit.posteriors import WrappedNormalPosterior
from vaekit.priors import WrappedNormal

KEY = make_key(1)
BALL = {"posterior": "wrapped_normal", "prior": "wrapped_normal"}
CURVATURES = pytest.mark.parametrize("c", [0.5, 1.0, 2.0])


def posterior(shape, c=1.0, dtype=torch.float64, grad=False):
    torch.manual_seed(0)
    raw, logvar = (
        torch.randn(shape, dtype=dtype, requires_grad=grad),
        (torch.randn(shape, dtype=dtype) - 1.0).requires_grad_(grad),
    )
    return WrappedNormalPosterior(poincare.reached(torch.zeros_like(raw), raw, c, 1), logvar, c), (raw, logvar)


@CURVATURES
def test_the_densities_integrate_to_1_over_hyperbolic_space(c):
    """In polar coordinates around the centre, where the volume is sinh(sqrt(c) r) / sqrt(c) dr dphi."""
    q, _ = posterior((2, 2), c)
    radii, angles = torch.linspace(1e-4, 12, 1500).double(), torch.linspace(0, 2 * math.pi, 301).double()[:-1]
    r, phi = torch.meshgrid(radii, angles, indexing="ij")
    u = torch.stack([r * phi.cos(), r * phi.sin()], -1).reshape(-1, 2)
    z = poincare.reached(torch.zeros_like(u), u, c, 1)
    volume = (torch.sinh(math.sqrt(c) * r) / math.sqrt(c)).flatten() * (radii[1] - radii[0]) * (angles[1] - angles[0])
    of_q = (q.log_prob(z.unsqueeze(1)).exp() * volume[:, None]).sum(0)
    of_p = (WrappedNormal((2,), c).log_prob(z).exp() * volume).sum()
    assert_close(of_q, torch.ones(2, dtype=torch.float64), rtol=0.0, atol=5e-3)
    assert_close(of_p.item(), 1.0, rtol=0.0, atol=1e-3)


@CURVATURES
@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (3, 2, 2, 2)])
@pytest.mark.parametrize("samples", [None, 3])
def test_the_density_of_a_draw_is_the_density_at_the_draw(c, shape, samples):
    q, _ = posterior(shape, c)
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=samples, row_start=2)
    assert_close(q.log_prob(z), log_q, rtol=1e-6, atol=1e-6)
    assert (z.norm(dim=-len(shape) + 1) < 1 / math.sqrt(c)).all()
    every = q.log_prob(z.reshape(-1, 1, *shape[1:]))
    own = torch.arange(shape[0]).repeat(samples or 1)
    assert_close(every[torch.arange(len(every)), own], log_q.flatten(), rtol=1e-6, atol=1e-6)


@CURVATURES
def test_at_the_centre_with_variance_1_it_is_the_prior(c):
    q = WrappedNormalPosterior(torch.zeros(50, 3, dtype=torch.float64), torch.zeros(50, 3, dtype=torch.float64), c)
    z, kl = q.rsample_kl(WrappedNormal((3,), c), key=KEY)
    assert_close(kl, torch.zeros_like(kl), rtol=0.0, atol=1e-8)
    assert_close(z, WrappedNormal((3,), c).sample((50, 3), key=KEY, dtype=torch.float64))


def test_a_ball_of_little_curvature_is_flat():
    q, _ = posterior((5, 3), 1e-8)
    z, log_ratio = q.rsample_log_ratio(WrappedNormal((3,), 1e-8), key=KEY)
    flat = vaekit.DiagonalGaussian(2.0 * q.mean, q.logvar)  # lengths are twice those of the coordinates at the centre
    expected_z, expected = flat.rsample_log_ratio(vaekit.StandardNormal(), key=KEY)
    assert_close(2.0 * z, expected_z, rtol=1e-5, atol=1e-5)
    assert_close(log_ratio, expected, rtol=1e-4, atol=1e-4)


def test_every_number_has_its_gradient():
    _, (raw, logvar) = posterior((3, 2), grad=True)

    def terms(raw, logvar):
        q = WrappedNormalPosterior(poincare.reached(torch.zeros_like(raw), raw, 1.0, 1), logvar, 1.0)
        return *q.rsample_kl(WrappedNormal((2,)), key=KEY), q.log_prob(torch.full((3, 2), 0.3, dtype=torch.float64))

    assert torch.autograd.gradcheck(terms, (raw, logvar))
    q, numbers = posterior((3, 2), grad=True)
    z, _ = q.rsample_log_prob(key=KEY)
    _, stopped = q.rsample_log_prob(key=KEY, stop_parameters=True)
    fixed, _ = posterior((3, 2))
    expected = torch.autograd.grad(fixed.log_prob(z).sum(), numbers, retain_graph=True)
    assert_close(torch.autograd.grad(stopped.sum(), numbers), expected, rtol=1e-7, atol=1e-9)


def test_rows_half_precision_and_empty_batches():
    q, _ = posterior((7, 3), dtype=torch.float32)
    part = WrappedNormalPosterior(q.mean[4:], q.logvar[4:], 1.0)
    assert_close(part.rsample(key=KEY, num_samples=2, row_start=4), q.rsample(key=KEY, num_samples=2)[:, 4:])
    half = WrappedNormalPosterior(q.mean.bfloat16(), q.logvar.bfloat16(), 1.0)
    z, log_q = half.rsample_log_prob(key=KEY)
    assert (z.dtype, log_q.dtype) == (torch.bfloat16, torch.float32)
    empty = WrappedNormalPosterior(q.mean[:0], q.logvar[:0], 1.0)
    assert empty.rsample_kl(WrappedNormal((3,)))[1].shape == (0,)


def test_points_at_the_edge_have_finite_terms():
    family = vaekit.posteriors.create("wrapped_normal", latent_shape=(2,))
    numbers = torch.tensor([[200.0, 0.0, 5.0, 5.0], [0.0, 0.0, -90.0, -90.0]], requires_grad=True)
    z, kl = family(numbers).rsample_kl(WrappedNormal((2,)), key=KEY)
    assert (z.norm(dim=1) < 1).all()
    assert kl.isfinite().all()
    (z.sum() + kl.sum()).backward()
    assert numbers.grad.isfinite().all()


@pytest.mark.parametrize("spatial", [False, True])
def test_a_model_with_it_trains_saves_loads_and_is_drawn(spatial, tmp_path):
    convolutions, small = {"name": "conv", "channels": (4,)}, {"name": "mlp", "hidden": (16,)}
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=2, seed=0, **BALL,
        encoder={**convolutions, "spatial": True} if spatial else small, decoder=convolutions if spatial else small,
    )  # fmt: skip
    pictures = ["reconstructions", "samples", *([] if spatial else ["latent_space"])]
    assert_it_learns_and_is_saved_and_drawn(vae, tmp_path, pictures)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"prior": "standard_normal"},
            ValueError,
            "are points of a hyperbolic ball; for those take another prior: .*wrapped_normal",
        ),
        ({"posterior": "diagonal_gaussian"}, ValueError, "WrappedNormal is a prior .* or another posterior: wrapped_normal$"),
        ({"prior": {"name": "wrapped_normal", "curvature": 2.0}}, ValueError, "over a ball of curvature 2.0, .* over one of 1.0"),
        ({"posterior": {"name": "wrapped_normal", "curvature": 0.0}}, ValueError, "curvature has to be a finite number above 0"),
        ({"loss": "beta_tc"}, ValueError, "BetaTC is a loss .* are points of a hyperbolic ball"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        vaekit.create_vae(**{"input_shape": (4,), "latent_dim": 3, **BALL, **options})


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="mean and logvar have to have one shape"):
        WrappedNormalPosterior(torch.zeros(2, 3), torch.zeros(2, 2), 1.0)
