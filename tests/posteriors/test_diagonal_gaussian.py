"""The posterior and the prior against torch.distributions, and the divergence against its Monte Carlo estimate."""

import math

import pytest
import torch

import vaekit
from vaekit import DiagonalGaussian, Prior, StandardNormal, make_key
from vaekit.posteriors import Draw, diagonal_gaussian
from vaekit.priors import LearnedGaussian

NORMAL = torch.distributions.Normal


class Unregistered(Prior):
    """The standard normal as somebody else would write it: no closed form is known for it."""

    def log_prob(self, z):
        return NORMAL(0.0, 1.0).log_prob(z).flatten(1).sum(-1)

    def sample(self, shape, *, key, dtype, row_start=0):
        raise NotImplementedError


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3, 3)])
def test_densities_are_those_of_torch(shape):
    mu, logvar, z = torch.randn(3, *shape, dtype=torch.float64)
    expected = NORMAL(mu, torch.exp(logvar / 2)).log_prob(z).flatten(1).sum(-1)
    torch.testing.assert_close(DiagonalGaussian(mu, logvar).log_prob(z), expected)
    torch.testing.assert_close(StandardNormal().log_prob(z), NORMAL(0.0, 1.0).log_prob(z).flatten(1).sum(-1))


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3, 3)])
def test_the_divergence_sums_over_all_latent_dimensions(shape):
    mu, logvar = torch.randn(2, *shape, dtype=torch.float64)
    z, kl = DiagonalGaussian(mu, logvar).rsample_kl(StandardNormal(), key=make_key(0))
    expected = torch.distributions.kl_divergence(NORMAL(mu, torch.exp(logvar / 2)), NORMAL(0.0, 1.0)).flatten(1).sum(-1)
    assert z.shape == shape
    torch.testing.assert_close(kl, expected)


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3, 3)])
def test_the_divergence_of_each_dimension_is_torchs(shape, samples):
    mu, logvar = torch.randn(2, *shape, dtype=torch.float64)
    q, options = DiagonalGaussian(mu, logvar), {"key": make_key(0), "num_samples": samples, "row_start": 5}
    learned = LearnedGaussian(shape[1:]).double()
    with torch.no_grad():
        learned.mu.normal_()
        learned.logvar.normal_()
    for prior, same in ((StandardNormal(), NORMAL(0.0, 1.0)), (learned, NORMAL(learned.mu, torch.exp(learned.logvar / 2)))):
        z, kl = q.rsample_kl_per_dimension(prior, **options)
        summed_z, summed = q.rsample_kl(prior, **options)
        assert torch.equal(z, summed_z)
        torch.testing.assert_close(kl, torch.distributions.kl_divergence(NORMAL(mu, torch.exp(logvar / 2)), same))
        torch.testing.assert_close(kl.flatten(1).sum(1), summed)
    with pytest.raises(TypeError, match="DiagonalGaussian from a Unregistered"):
        q.rsample_kl_per_dimension(Unregistered())


def test_a_prior_without_a_closed_form_is_estimated_and_right_on_average():
    posterior = DiagonalGaussian(torch.randn(3, 2), torch.randn(3, 2))
    z, exact = posterior.rsample_kl(StandardNormal(), key=make_key(1), num_samples=20_000)
    same_z, estimates = posterior.rsample_kl(Unregistered(), key=make_key(1), num_samples=20_000)
    assert torch.equal(z, same_z)
    assert estimates.shape == (20_000, 3)
    assert ((estimates.mean(0) - exact).abs() < 4 * estimates.std(0) / math.sqrt(20_000)).all()


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3, 3)])
def test_log_ratios_are_those_of_the_densities_at_the_draw(shape, samples):
    mu, logvar = torch.randn(2, *shape, dtype=torch.float64)
    q, key = DiagonalGaussian(mu, logvar), make_key(1)
    z, log_ratio = q.rsample_log_ratio(StandardNormal(), key=key, num_samples=samples, row_start=5)
    assert torch.equal(z, q.rsample_kl(StandardNormal(), key=key, num_samples=samples, row_start=5)[0])
    density = NORMAL(mu, torch.exp(logvar / 2)).log_prob(z) - NORMAL(0.0, 1.0).log_prob(z)
    torch.testing.assert_close(log_ratio, density.flatten(1 - len(shape)).sum(-1))
    _, estimate = q.rsample_kl(Unregistered(), key=key, num_samples=samples, row_start=5)
    torch.testing.assert_close(estimate, log_ratio)


def test_the_ratio_to_a_prior_is_taken_in_single_precision_from_half():
    """Summed over 4096 dimensions in bfloat16 the prior's part alone would be off by some 8 nats."""
    q = DiagonalGaussian(torch.zeros(3, 4096, dtype=torch.bfloat16), torch.zeros(3, 4096, dtype=torch.bfloat16))
    z, log_ratio = q.rsample_log_ratio(StandardNormal(), key=make_key(0))
    assert (z.dtype, log_ratio.dtype) == (torch.bfloat16, torch.float32)
    noise = DiagonalGaussian(torch.zeros(3, 4096), torch.zeros(3, 4096)).rsample_log_ratio(StandardNormal(), key=make_key(0))[0]
    rounded = (z.double().square() - noise.double().square()).sum(1) / 2
    torch.testing.assert_close(log_ratio.double(), rounded, rtol=0.0, atol=2e-3)


@pytest.mark.parametrize("samples", [None, 3])
def test_with_its_parameters_stopped_a_density_has_the_gradient_through_the_draw_alone(samples):
    mu, logvar = (torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    q, key = DiagonalGaussian(mu, logvar), make_key(1)
    z, plain = q.rsample_log_prob(key=key, num_samples=samples)
    weights = torch.randn_like(plain)
    _, stopped = q.rsample_log_prob(key=key, num_samples=samples, stop_parameters=True)
    assert torch.equal(stopped, plain)
    elements = NORMAL(mu.detach(), torch.exp(logvar.detach() / 2)).log_prob(z)
    expected = torch.autograd.grad((elements.flatten(-2).sum(-1) * weights).sum(), (mu, logvar))
    torch.testing.assert_close(torch.autograd.grad((stopped * weights).sum(), (mu, logvar)), expected)
    # The parameters' own gradient has the mean 0, and is what the two differ by: that of the density where z is a constant.
    whole = torch.autograd.grad((plain * weights).sum(), (mu, logvar), allow_unused=True, materialize_grads=True)
    elements = NORMAL(mu, torch.exp(logvar / 2)).log_prob(z.detach())
    own = torch.autograd.grad((elements.flatten(-2).sum(-1) * weights).sum(), (mu, logvar))
    torch.testing.assert_close(tuple(w - e for w, e in zip(whole, expected, strict=True)), own)


def test_the_stopped_gradient_keeps_its_digits_where_sigma_is_far_below_the_mean():
    """d log q / d z is -eps / sigma, and so through z = mu + sigma eps it is -eps / sigma for mu and -eps^2 / 2 for logvar."""
    mu, logvar = torch.full((50, 1), 1e4, requires_grad=True), torch.full((50, 1), -20.0, requires_grad=True)
    _, stopped = DiagonalGaussian(mu, logvar).rsample_log_prob(key=make_key(0), stop_parameters=True)
    by_mu, by_logvar = torch.autograd.grad(stopped.sum(), (mu, logvar))
    eps = DiagonalGaussian(torch.zeros(50, 1), torch.zeros(50, 1)).rsample_log_prob(key=make_key(0))[0]
    torch.testing.assert_close(by_mu, -eps * math.exp(10.0), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(by_logvar, -eps * eps / 2, rtol=1e-5, atol=0.0)


class Flat(Prior):
    """log p(z) = 0: what is left of the divergence is log q(z)."""

    def log_prob(self, z):
        return torch.zeros(len(z))

    def sample(self, shape, *, key, dtype, row_start=0):
        raise NotImplementedError


def test_the_estimate_keeps_its_digits_where_sigma_is_far_below_the_mean():
    mu, logvar = torch.full((20_000, 1), 1e4), torch.full((20_000, 1), -20.0)
    _, log_posterior = DiagonalGaussian(mu, logvar).rsample_kl(Flat(), key=make_key(0))
    entropy = 0.5 * (1 + math.log(2 * math.pi) - 20)
    assert abs(-log_posterior.mean() - entropy) < 4 * log_posterior.std() / math.sqrt(20_000)


def test_rows_from_row_start_draw_what_the_whole_batch_draws():
    posterior = DiagonalGaussian(torch.randn(7, 3), torch.randn(7, 3))
    rest = DiagonalGaussian(posterior.mu[4:], posterior.logvar[4:])
    for prior in (StandardNormal(), Unregistered()):
        for name in ("rsample_kl", "rsample_log_ratio"):
            whole, part = (getattr(q, name)(prior, key=make_key(2), row_start=r) for q, r in ((posterior, 0), (rest, 4)))
            assert all(torch.equal(p, w[4:]) for p, w in zip(part, whole, strict=True))


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,))])
def test_shapes_that_are_no_batch_of_gaussians_are_refused(shapes):
    with pytest.raises(ValueError, match=r"one shape \[batch, latent dimensions...\], got"):
        DiagonalGaussian(*map(torch.zeros, shapes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_densities_of_half_precision_are_computed_in_float32(dtype):
    mu, logvar, z = (torch.randn(5, 128).to(dtype) for _ in range(3))
    log_prob = DiagonalGaussian(mu, logvar).log_prob(z)
    assert log_prob.dtype == torch.float32
    exact = torch.distributions.Normal(mu.double(), (0.5 * logvar.double()).exp()).log_prob(z.double()).sum(1)
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-5, atol=1e-4)


def test_a_learned_prior_stays_in_its_precision_beside_a_half_precision_posterior():
    prior = LearnedGaussian((64,))
    with torch.no_grad():
        prior.mu.normal_()
        prior.logvar.normal_()
    mu, logvar = (torch.randn(5, 64).to(torch.bfloat16) for _ in range(2))
    z, kl = DiagonalGaussian(mu, logvar).rsample_kl(prior)
    assert (z.dtype, kl.dtype) == (torch.bfloat16, torch.float32)
    q = torch.distributions.Normal(mu.double(), (0.5 * logvar.double()).exp())
    p = torch.distributions.Normal(prior.mu.detach().double(), (0.5 * prior.logvar.detach().double()).exp())
    torch.testing.assert_close(kl.detach().double(), torch.distributions.kl_divergence(q, p).sum(1), rtol=1e-5, atol=1e-4)


def test_a_density_with_constant_parameters_has_its_value_at_the_smallest_variances():
    mu, logvar = torch.zeros(3, 2), torch.tensor([-100.0, -180.0]).expand(3, 2)
    plain, stopped = (
        DiagonalGaussian(mu, logvar).rsample_log_prob(key=make_key(0), stop_parameters=stop)[1] for stop in (False, True)
    )
    assert torch.equal(plain, stopped)


@pytest.mark.parametrize("name", ["rsample_kl", "rsample_kl_per_dimension", "rsample_kl_by_level"])
@pytest.mark.parametrize("prior", [StandardNormal(), LearnedGaussian((3,))], ids=["standard", "learned"])
def test_the_draw_and_its_exact_divergence_are_one_call_of_the_operator(name, prior, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(options)
        return operator(*arguments, **options)

    operator = diagonal_gaussian.reparameterize_kl
    monkeypatch.setattr(diagonal_gaussian, "reparameterize_kl", counted)
    monkeypatch.setattr(Draw, "noise", None)  # no noise is made beside it
    getattr(DiagonalGaussian(torch.zeros(4, 3), torch.zeros(4, 3)), name)(prior, key=make_key(0))
    assert len(calls) == 1


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 3, 3)])
@pytest.mark.parametrize("learned", [False, True])
def test_packed_numbers_are_the_same_posterior(shape, learned):
    numbers = torch.randn(shape, requires_grad=True)
    prior = LearnedGaussian((shape[1] // 2, *shape[2:])) if learned else StandardNormal()
    results = []
    for q in (DiagonalGaussian.from_packed(numbers), DiagonalGaussian(*numbers.chunk(2, 1))):
        z, kl = q.rsample_kl(prior, key=make_key(0))
        (gradient,) = torch.autograd.grad(z.sin().sum() + kl.sum(), numbers)
        results.append((z, kl, gradient, q.mu, q.logvar, q.mean, q.variances, q.log_prob(z), q.rsample(key=make_key(1))))
    assert all(map(torch.equal, *results))


def test_packed_numbers_of_the_encoder_reach_the_operator():
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    q = vae.encode(torch.rand(3, 4))
    z, _ = q.rsample_kl(StandardNormal(), key=make_key(0))
    ((following, _), *_) = z.grad_fn.next_functions
    assert following.name().startswith("Addmm")
    assert (q.mu.shape, q.device.type) == ((3, 2), "cpu")


def test_numbers_without_halves_are_refused():
    for shape in ((4,), (4, 3)):
        with pytest.raises(ValueError, match=r"shape \[batch, 2 D, ...\], got"):
            DiagonalGaussian.from_packed(torch.zeros(shape))
