"""The full-covariance Gaussian against torch.distributions.MultivariateNormal, its draws, and the diagonal one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from vaekit import DiagonalGaussian, Prior, StandardNormal, make_key
from vaekit.posteriors import FullGaussian
from vaekit.priors import LearnedGaussian

D = torch.distributions
KEY = make_key(1)


class Unregistered(Prior):
    """The standard normal as somebody else would write it: no closed form is known for it."""

    def log_prob(self, z):
        return D.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(-1)

    def sample(self, shape, *, key, dtype, row_start=0):
        raise NotImplementedError


def numbers(shape, seed=0, scale=1.0, dtype=torch.float64):
    """mu, logvar and lower for latents of that shape, the batch first."""
    generator = torch.Generator().manual_seed(seed)
    below = shape[1] * (shape[1] - 1) // 2
    sizes = (shape, shape, (shape[0], below, *shape[2:]))
    return tuple((scale * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype) for size in sizes)


def torchs(mu, logvar, lower):
    """The same of vectors, its L filled entry by entry."""
    size = mu.shape[1]
    scale = torch.exp(logvar / 2).diag_embed()
    entry = 0
    for i in range(size):
        for j in range(i):
            scale[:, i, j] = lower[:, entry]
            entry += 1
    return D.MultivariateNormal(mu, scale_tril=scale)


sizes = st.tuples(st.integers(1, 4), st.integers(1, 6))
seeds = st.integers(0, 10_000)
scales = st.sampled_from([1e-3, 0.3, 1.0, 2.0])


@given(size=sizes, seed=seeds, scale=scales)
def test_the_density_is_torchs(size, seed, scale):
    given_ = numbers(size, seed, scale)
    z = numbers(size, seed + 1, 3.0)[0]
    q, expected = FullGaussian(*given_), torchs(*given_)
    assert_close(q.scale_tril, expected.scale_tril)
    assert_close(q.log_prob(z), expected.log_prob(z), rtol=1e-9, atol=1e-9)
    many = torch.stack((z, 2.0 * z, -z))
    assert_close(q.log_prob(many), expected.log_prob(many), rtol=1e-9, atol=1e-9)
    assert_close(q.log_prob(z.unsqueeze(1)), expected.log_prob(z.unsqueeze(1)), rtol=1e-9, atol=1e-9)  # each z in each q


@given(size=sizes, seed=seeds, scale=scales, samples=st.sampled_from([None, 1, 3]))
def test_the_divergence_from_a_gaussian_is_torchs(size, seed, scale, samples):
    given_ = numbers(size, seed, scale)
    learned = LearnedGaussian(size[1:]).double()
    with torch.no_grad():
        learned.mu.copy_(numbers(size, seed + 1)[0][0])
        learned.logvar.copy_(numbers(size, seed + 2)[0][0])
    for prior in (StandardNormal(), learned):
        mean, logvar = (prior.mu, prior.logvar) if prior is learned else torch.zeros(2, size[1], dtype=torch.float64)
        z, kl = FullGaussian(*given_).rsample_kl(prior, key=KEY, num_samples=samples)
        expected = D.kl_divergence(torchs(*given_), D.MultivariateNormal(mean, torch.exp(logvar).diag_embed()))
        assert_close(kl, expected, rtol=1e-9, atol=1e-9)
        assert z.shape == (size if samples is None else (samples, *size))


@pytest.mark.parametrize("prior", ["standard", "learned"])
@pytest.mark.parametrize("shape", [(3, 3), (2, 2, 2)])
def test_gradients_are_those_of_numerical_derivatives(prior, shape):
    learned = LearnedGaussian(shape[1:]).double()

    def loss(mu, logvar, lower, mean, variance):
        learned.mu, learned.logvar = mean, variance
        q = FullGaussian(mu, logvar, lower)
        z, kl = q.rsample_kl(learned if prior == "learned" else StandardNormal(), key=KEY, num_samples=2)
        _, stopless = q.rsample_log_prob(key=KEY)
        return z, kl, stopless, q.log_prob(torch.ones_like(z)), q.rsample_log_ratio(Unregistered(), key=KEY)[1]

    del learned.mu, learned.logvar  # parameters, in whose place the test puts its own tensors
    arguments = [*numbers(shape, scale=0.5), torch.randn(shape[1:]).double(), torch.randn(shape[1:]).double()]
    assert torch.autograd.gradcheck(loss, [a.requires_grad_() for a in arguments])


def test_draws_have_the_mean_and_the_covariance():
    mu, logvar, lower = numbers((1, 4))
    count = 100_000
    z, _ = FullGaussian(mu, logvar, lower).rsample_kl(StandardNormal(), key=KEY, num_samples=count)
    expected, z = torchs(mu, logvar, lower), z[:, 0]
    assert ((z.mean(0) - mu[0]).abs() < 4 * z.std(0) / math.sqrt(count)).all()
    products = torch.einsum("ni,nj->nij", z - mu[0], z - mu[0])
    errors = products.std(0) / math.sqrt(count)
    assert ((products.mean(0) - expected.covariance_matrix[0]).abs() < 4 * errors).all()


def test_a_prior_without_a_closed_form_is_estimated_and_right_on_average():
    q = FullGaussian(*numbers((3, 3)))
    z, exact = q.rsample_kl(StandardNormal(), key=KEY, num_samples=20_000)
    same_z, estimates = q.rsample_kl(Unregistered(), key=KEY, num_samples=20_000)
    assert torch.equal(z, same_z)
    assert ((estimates.mean(0) - exact).abs() < 4 * estimates.std(0) / math.sqrt(20_000)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 1), (5, 3), (4, 3, 2, 2)])
@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("stop", [False, True])
def test_with_nothing_below_the_diagonal_it_is_the_diagonal_gaussian_to_the_bit(dtype, shape, samples, stop):
    mu, logvar, lower = numbers(shape, dtype=dtype)
    full, diagonal = FullGaussian(mu, logvar, torch.zeros_like(lower)), DiagonalGaussian(mu, logvar)
    learned = LearnedGaussian(shape[1:]).to(dtype)
    options = {"key": KEY, "num_samples": samples, "row_start": 2}
    for call in (
        lambda q: q.rsample_kl(StandardNormal(), **options),
        lambda q: q.rsample_kl(learned, **options),
        lambda q: q.rsample_log_prob(**options, stop_parameters=stop),
    ):
        for got, expected in zip(call(full), call(diagonal), strict=True):
            assert got.dtype == expected.dtype
            assert torch.equal(got, expected)


@pytest.mark.parametrize("samples", [None, 3])
def test_positions_are_independent_of_each_other(samples):
    mu, logvar, lower = numbers((4, 3, 2, 5))
    q = FullGaussian(mu, logvar, lower)

    def at(values, height, width):
        return values[..., height, width]

    z, log_q = q.rsample_log_prob(key=KEY, num_samples=samples)
    _, kl = q.rsample_kl(StandardNormal(), key=KEY)
    parts = {(i, j): torchs(at(mu, i, j), at(logvar, i, j), at(lower, i, j)) for i in range(2) for j in range(5)}
    assert_close(log_q, sum(part.log_prob(at(z, i, j)) for (i, j), part in parts.items()))
    assert_close(q.log_prob(z), log_q)
    normal = D.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    assert_close(kl, sum(D.kl_divergence(part, normal) for part in parts.values()))
    assert q.scale_tril.shape == (4, 2, 5, 3, 3)
    assert_close(q.scale_tril[:, 1, 4], parts[1, 4].scale_tril)


@given(size=sizes, seed=seeds, samples=st.sampled_from([None, 3]))
def test_the_density_of_a_draw_is_the_density_at_the_draw(size, seed, samples):
    q = FullGaussian(*numbers(size, seed))
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=samples)
    assert_close(q.log_prob(z), log_q)
    assert torch.equal(z, q.rsample_kl(StandardNormal(), key=KEY, num_samples=samples)[0])


@pytest.mark.parametrize("samples", [None, 3])
@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_with_its_parameters_stopped_a_density_has_the_gradient_through_the_draw_alone(samples, shape):
    given_ = [t.requires_grad_() for t in numbers(shape)]
    q = FullGaussian(*given_)
    z, plain = q.rsample_log_prob(key=KEY, num_samples=samples)
    weights = torch.randn_like(plain)
    _, stopped = q.rsample_log_prob(key=KEY, num_samples=samples, stop_parameters=True)
    assert torch.equal(stopped, plain)
    at_the_draw = FullGaussian(*(t.detach() for t in given_)).log_prob(z)
    expected = torch.autograd.grad((at_the_draw * weights).sum(), given_)
    assert_close(torch.autograd.grad((stopped * weights).sum(), given_), expected)
    assert all((g != 0).any() for g in expected)


def test_the_density_keeps_its_digits_where_l_is_far_below_the_mean():
    """d log q / d z = -L^-T eps, of which z = mu + L eps in float32 holds nothing at all."""
    mu, logvar = torch.full((50, 2), 1e4), torch.full((50, 2), -20.0)
    lower = torch.full((50, 1), 2e-5)
    given_ = [t.requires_grad_() for t in (mu, logvar, lower)]
    z, stopped = FullGaussian(*given_).rsample_log_prob(key=make_key(0), stop_parameters=True)
    exact = [t.detach().double().requires_grad_() for t in given_]
    eps = DiagonalGaussian(torch.zeros(50, 2), torch.zeros(50, 2)).rsample_log_prob(key=make_key(0))[0].double()
    scale = torchs(*exact).scale_tril
    assert_close(stopped.double(), -(eps.square() - 20 + math.log(2 * math.pi)).sum(1) / 2, rtol=1e-6, atol=1e-5)
    at = exact[0] + (scale @ eps.unsqueeze(-1)).squeeze(-1)
    density = torchs(*(t.detach() for t in exact)).log_prob(at)
    expected = torch.autograd.grad(density.sum(), exact)
    for got, want in zip(torch.autograd.grad(stopped.sum(), given_), expected, strict=True):
        assert_close(got.double(), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_rows_from_row_start_draw_what_the_whole_batch_draws():
    mu, logvar, lower = numbers((7, 3), dtype=torch.float32)
    whole, part = FullGaussian(mu, logvar, lower), FullGaussian(mu[4:], logvar[4:], lower[4:])
    for prior in (StandardNormal(), Unregistered()):
        of_whole, of_part = whole.rsample_kl(prior, key=KEY), part.rsample_kl(prior, key=KEY, row_start=4)
        for got, expected in zip(of_part, of_whole, strict=True):
            assert_close(got, expected[4:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_computes_in_single_precision(dtype):
    given_ = numbers((64, 6), dtype=dtype)
    half, single = FullGaussian(*given_), FullGaussian(*(t.float() for t in given_))
    (z, kl), (wide_z, wide_kl) = (q.rsample_kl(StandardNormal(), key=KEY) for q in (half, single))
    assert (z.dtype, kl.dtype) == (dtype, torch.float32)
    assert torch.equal(z, wide_z.to(dtype))
    assert torch.equal(kl, wide_kl)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(single.rsample_kl(StandardNormal(), key=KEY)[0], wide_z)
        assert torch.equal(single.log_prob(wide_z), FullGaussian(*(t.float() for t in given_)).log_prob(wide_z))


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 4)])
def test_an_empty_batch_has_empty_results(shape):
    q = FullGaussian(*(t.requires_grad_() for t in numbers(shape)))
    z, kl = q.rsample_kl(StandardNormal(), key=KEY, num_samples=2)
    assert z.shape == (2, *shape)
    assert kl.shape == (0,)
    z, log_q = q.rsample_log_prob(key=KEY, stop_parameters=True)
    assert log_q.shape == q.log_prob(z).shape == (0,)
    (z.sum() + kl.sum() + log_q.sum()).backward()


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 4), (2, 3)), ((3,), (3,), (3,)), ((2, 3), (2, 3), (2, 6)), ((2, 3), (2, 3), (1, 3))]
)
def test_shapes_that_are_no_batch_of_gaussians_are_refused(shapes):
    with pytest.raises(ValueError, match=r"lower \[batch, D \(D - 1\) / 2, positions...\], got"):
        FullGaussian(*map(torch.zeros, shapes))
