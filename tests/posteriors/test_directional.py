"""Posteriors over directions: against scipy's densities, their draws, gradients and models."""

import math

import numpy as np
import pytest
import torch
from helpers.whole_models import assert_it_learns_and_is_saved_and_drawn
from scipy import stats
from torch.testing import assert_close

import vaekit
from vaekit import make_key, plots
from vaekit.posteriors import PowerSpherical, VonMisesFisher
from vaekit.priors import UniformSphere

KEY = make_key(1)
CLASSES = pytest.mark.parametrize("cls", [VonMisesFisher, PowerSpherical])
NAMES = pytest.mark.parametrize("name", ["von_mises_fisher", "power_spherical"])
SMALL = {"encoder": {"name": "mlp", "hidden": (16,)}, "decoder": {"name": "mlp", "hidden": (16,)}}


def posterior(cls, shape, dtype=torch.float64, grad=False, least=0.5):
    torch.manual_seed(0)
    raw = torch.randn(shape, dtype=dtype, requires_grad=grad)
    kappa = (least + 10 * torch.rand(shape[0], 1, *shape[2:], dtype=dtype)).requires_grad_(grad)
    return cls(raw / raw.norm(dim=1, keepdim=True), kappa), (raw, kappa)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_density_of_von_mises_and_fisher_is_scipys(size):
    q, _ = posterior(VonMisesFisher, (4, size))
    z = UniformSphere((size,)).sample((4, size), key=KEY, dtype=torch.float64)
    expected = [
        stats.vonmises_fisher(mean.numpy(), float(kappa)).logpdf(row.numpy())
        for mean, kappa, row in zip(q.mean, q.concentration, z, strict=True)
    ]
    assert_close(q.log_prob(z), torch.tensor(np.array(expected).reshape(4)))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_the_density_of_the_power_spherical_is_the_papers(size):
    q, _ = posterior(PowerSpherical, (4, size))
    z = UniformSphere((size,)).sample((4, size), key=KEY, dtype=torch.float64)
    kappa, b = q.concentration[:, 0], (size - 1) / 2
    log_n = (kappa + 2 * b) * math.log(2) + b * math.log(math.pi) + torch.lgamma(kappa + b) - torch.lgamma(kappa + 2 * b)
    assert_close(q.log_prob(z), kappa * torch.log1p((z * q.mean).sum(1)) - log_n)


@CLASSES
@pytest.mark.parametrize("shape", [(4, 2), (4, 5), (3, 3, 2, 2)])
@pytest.mark.parametrize("samples", [None, 3])
def test_draws_have_length_1_and_the_density_that_is_theirs(cls, shape, samples):
    q, _ = posterior(cls, shape)
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=samples, row_start=2)
    leading = () if samples is None else (samples,)
    assert z.shape == (*leading, *shape)
    assert_close(z.norm(dim=len(leading) + 1), torch.ones(*leading, shape[0], *shape[2:], dtype=z.dtype))
    assert_close(q.log_prob(z), log_q, rtol=1e-9, atol=1e-9)
    every = q.log_prob(z.reshape(-1, 1, *shape[1:]))  # of every draw in every posterior, as a vamp prior asks
    own = torch.arange(shape[0]).repeat(samples or 1)
    assert_close(every[torch.arange(len(every)), own], log_q.flatten(), rtol=1e-9, atol=1e-9)


@CLASSES
def test_the_divergence_is_the_mean_of_the_log_ratio(cls):
    q, _ = posterior(cls, (3, 4))
    prior = UniformSphere((4,))
    _, exact = q.rsample_kl(prior, key=KEY)
    _, log_ratio = q.rsample_log_ratio(prior, key=KEY, num_samples=20_000)
    assert ((log_ratio.mean(0) - exact).abs() < 4 * log_ratio.std(0) / math.sqrt(20_000)).all()


@CLASSES
@pytest.mark.parametrize("size", [2, 3, 6])
def test_draws_have_the_laws_mean_and_are_even_around_it(cls, size):
    q, _ = posterior(cls, (2, size))
    z = q.rsample(key=KEY, num_samples=20_000)
    along = (z * q.mean).sum(-1, keepdim=True)
    across = z - along * q.mean
    assert (across.mean(0).abs() < 4 * across.std(0) / math.sqrt(20_000) + 1e-12).all()
    expected = 1.0 + q._moments.statistic[:, 0] if cls is VonMisesFisher else None
    if expected is None:
        a, b = q.concentration[:, 0] + (size - 1) / 2, (size - 1) / 2
        expected = 2 * a / (a + b) - 1
    assert ((along[..., 0].mean(0) - expected).abs() < 4 * along[..., 0].std(0) / math.sqrt(20_000)).all()


@CLASSES
def test_the_gradient_of_a_mean_over_draws_is_that_of_the_mean(cls):
    """For the direction and for kappa: E z = A(kappa) m, by differences of the law's mean."""
    q, (raw, kappa) = posterior(cls, (1, 3), grad=True)
    weights = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
    z = q.rsample(key=KEY, num_samples=20_000)
    values = z @ weights
    by_raw, by_kappa = torch.autograd.grad(values.mean(), (raw, kappa), retain_graph=True)

    def mean(raw, kappa):
        direction = raw / raw.norm(dim=1, keepdim=True)
        share = 1.0 / torch.tanh(kappa) - 1.0 / kappa if cls is VonMisesFisher else kappa / (kappa + 2.0)
        return (share * direction @ weights).sum()

    exact_raw, exact_kappa = torch.autograd.grad(mean(raw, kappa), (raw, kappa))
    assert_close(by_raw, exact_raw, rtol=0.0, atol=0.02)
    assert_close(by_kappa, exact_kappa, rtol=0.0, atol=0.1 * float(exact_kappa.abs()))


@CLASSES
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 2)])
def test_with_its_parameters_stopped_a_density_has_the_gradient_through_the_draw_alone(cls, shape):
    q, numbers = posterior(cls, shape, grad=True)
    z, plain = q.rsample_log_prob(key=KEY, num_samples=2)
    same_z, stopped = q.rsample_log_prob(key=KEY, num_samples=2, stop_parameters=True)
    assert torch.equal(same_z, z)
    assert_close(stopped, plain)
    fixed, _ = posterior(cls, shape)
    expected = torch.autograd.grad(fixed.log_prob(z).sum(), numbers, retain_graph=True)
    got = torch.autograd.grad(stopped.sum(), numbers)
    assert_close(got, expected, rtol=1e-7, atol=1e-9)


@CLASSES
@pytest.mark.parametrize("kappa", [0.0, 1e-6, 1e3, 1e6])
def test_extreme_concentrations_give_finite_terms_and_gradients(cls, kappa):
    mean = torch.eye(3)[:2].requires_grad_()
    concentration = torch.full((2, 1), kappa, requires_grad=True)
    q = cls(mean, concentration)
    z, kl = q.rsample_kl(UniformSphere((3,)), key=KEY)
    (z.sum() + kl.sum() + q.rsample_log_prob(key=KEY)[1].sum()).backward()
    assert kl.isfinite().all()
    assert (kl >= 0).all()
    assert mean.grad.isfinite().all()
    assert concentration.grad.isfinite().all()


@CLASSES
def test_rows_samples_and_half_precision(cls):
    q, _ = posterior(cls, (7, 3), torch.float32)
    part = cls(q.mean[4:], q.concentration[4:])
    whole, own = q.rsample(key=KEY, num_samples=3), part.rsample(key=KEY, num_samples=3, row_start=4)
    assert_close(own, whole[:, 4:])
    later = KEY + torch.tensor([0, 2 << 40])
    assert_close(q.rsample(key=later), whole[2])
    half = cls(q.mean.bfloat16(), q.concentration.bfloat16())
    z, log_q = half.rsample_log_prob(key=KEY)
    assert (z.dtype, log_q.dtype) == (torch.bfloat16, torch.float32)
    empty = cls(q.mean[:0], q.concentration[:0])
    assert [t.shape for t in empty.rsample_kl(UniformSphere((3,)), num_samples=2)] == [(2, 0, 3), (0,)]


def test_the_uniform_prior_is_uniform_and_knows_what_is_off_the_sphere():
    prior = UniformSphere((3, 2))
    z = prior.sample((5000, 3, 2), key=KEY, dtype=torch.float64)
    assert stats.kstest(z[:, 0].flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-4  # Archimedes
    assert_close(prior.log_prob(z[:2]), torch.full((2,), -2 * math.log(4 * math.pi), dtype=torch.float64))
    assert prior.log_prob(1.1 * z[:1]).item() == -math.inf
    assert prior.log_prob(math.nan * z[:1]).isnan().all()
    with pytest.raises(ValueError, match="unit vectors of at least 2 dimensions"):
        UniformSphere((1,))


@NAMES
@pytest.mark.parametrize("spatial", [False, True])
def test_a_model_with_it_trains_saves_loads_and_is_drawn(name, spatial, tmp_path):
    convolutions = {"name": "conv", "channels": (4,)}
    networks = {"encoder": {**convolutions, "spatial": True}, "decoder": convolutions} if spatial else SMALL
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3, posterior=name, prior="uniform_sphere", seed=0, **networks)
    pictures = ["reconstructions", "samples", *([] if spatial else ["latent_space"])]
    assert_it_learns_and_is_saved_and_drawn(vae, tmp_path, pictures)
    if not spatial:
        files = vaekit.export(vae, tmp_path / "files", to="torch")
        noise = torch.randn(5, 3)
        made = torch.export.load(files["sampler"]).module()(noise)
        assert_close(made, vae.decode(noise / noise.norm(dim=1, keepdim=True)))


def test_a_direction_of_no_length_is_the_first_axis():
    family = vaekit.posteriors.create("von_mises_fisher", latent_shape=(3,))
    numbers = torch.zeros(2, 4, requires_grad=True)
    q = family(numbers)
    assert torch.equal(q.mean.detach(), torch.eye(3)[:1].expand(2, 3))
    assert_close(q.concentration.detach(), torch.full((2, 1), 1 + math.log(2)))
    q.mean.sum().backward()
    assert numbers.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "StandardNormal is a prior .* are unit vectors; for those take another prior: uniform_sphere"),
        ({"prior": "uniform_sphere", "loss": "beta_tc"}, ValueError, "BetaTC is a loss .* are unit vectors; .*elbo"),
        ({"prior": "uniform_sphere", "latent_dim": 1}, ValueError, "unit vectors of at least 2 dimensions"),
        (
            {"prior": "uniform_sphere", "posterior": "diagonal_gaussian"},
            ValueError,
            "or another posterior: power_spherical, von_m",
        ),
        ({"posterior": {"name": "power_spherical", "least_concentration": -1.0}}, ValueError, "least_concentration has to be"),
    ],
)
def test_what_does_not_fit_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        vaekit.create_vae(**{"input_shape": (4,), "latent_dim": 3, "posterior": "von_mises_fisher", **options})


def test_pictures_that_move_through_space_are_refused():
    vae = vaekit.create_vae(input_shape=(1, 4, 4), latent_dim=2, posterior="von_mises_fisher", prior="uniform_sphere")
    with pytest.raises(ValueError, match="are unit vectors"):
        plots.latent_grid(vae)
    with pytest.raises(TypeError, match="a mixture of Gaussians"):
        vaekit.evaluation.fitted_mixture(vae, torch.rand(20, 1, 4, 4), components=2)


@pytest.mark.parametrize("mean", [torch.zeros(3), torch.zeros(2, 1), torch.zeros(2, 3, 4)])
def test_shapes_that_are_none_of_directions_are_refused(mean):
    with pytest.raises(ValueError, match="mean and concentration have to have the shapes"):
        VonMisesFisher(mean, torch.zeros(2, 1))
