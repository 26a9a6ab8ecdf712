"""The flow posterior: its density against integrals and Jacobians, its gradients against automatic ones, what it is good for."""

import math

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import DiagonalGaussian, StandardNormal, make_key, priors
from vaekit.posteriors import FlowFamily, FlowPosterior

pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")

KEY = make_key(1)
D = torch.distributions
KINDS = pytest.mark.parametrize("kind", ["maf", "nsf"])
CONTEXTS = pytest.mark.parametrize("context", [0, 2])


def posterior(shape, kind="maf", context=0, transforms=2, seed=0, grad=False, dtype=torch.float64, scale=0.3):
    """One whose network is no longer the identity that it starts as."""
    torch.manual_seed(seed)
    family = FlowFamily(shape[1:], kind=kind, transforms=transforms, hidden=(16,), context=context).to(dtype)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape))
    numbers = [0.5 * torch.randn(size, dtype=dtype) for size in (shape, shape, (shape[0], context, *shape[2:]))]
    return family, family.posterior(*(number.requires_grad_(grad) for number in numbers)), numbers


@pytest.mark.parametrize("transforms", [1, 2])
@KINDS
@CONTEXTS
def test_the_density_integrates_to_1(kind, context, transforms):
    _, q, _ = posterior((2, 2), kind, context, transforms, scale=0.2)
    line = torch.linspace(-9, 9, 251, dtype=torch.float64)
    with torch.no_grad():
        density = torch.cat([q.log_prob(part.unsqueeze(1)).exp() for part in torch.cartesian_prod(line, line).split(20_000)])
    totals = density.sum(0) * (line[1] - line[0]) ** 2
    assert_close(totals, torch.ones(2, dtype=torch.float64), rtol=0.0, atol=2e-3)


@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (2, 2, 3)])
@pytest.mark.parametrize("samples", [None, 3])
@KINDS
@CONTEXTS
def test_the_density_of_a_draw_is_the_density_at_the_draw(shape, samples, kind, context):
    _, q, _ = posterior(shape, kind, context)
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=samples, row_start=3)
    leading = shape[:1] if samples is None else (samples, shape[0])
    assert z.shape == (*leading, *shape[1:])
    assert log_q.shape == leading
    assert_close(q.log_prob(z), log_q, rtol=1e-7, atol=1e-7)
    every = q.log_prob(z.reshape(-1, 1, *shape[1:]))  # of every draw in every posterior, as a vamp prior asks
    assert every.shape == (math.prod(leading), shape[0])
    own = torch.arange(shape[0]).repeat(1 if samples is None else samples)
    assert_close(every[torch.arange(len(every)), own], log_q.flatten(), rtol=1e-7, atol=1e-7)


@KINDS
@CONTEXTS
def test_the_change_of_volume_is_that_of_the_jacobian(kind, context):
    _, q, (mu, logvar, _) = posterior((4, 3), kind, context)
    z, log_q = q.rsample_log_prob(key=KEY)
    start, log_start = DiagonalGaussian(mu, logvar).rsample_log_prob(key=KEY)
    jacobian = torch.autograd.functional.jacobian(lambda start: q._forward(start)[0].sum(0), start).permute(1, 0, 2)
    assert_close(log_q, log_start - jacobian.det().abs().log())
    assert_close(z, q._forward(start)[0])
    assert_close(q.mean, q._forward(mu)[0])


@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (2, 2, 2)])
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("transforms", [1, 3])
@KINDS
@CONTEXTS
def test_with_its_parameters_stopped_a_density_has_the_gradient_through_the_draw_alone(shape, samples, transforms, kind, context):
    family, q, numbers = posterior(shape, kind, context, transforms, grad=True)
    z, plain = q.rsample_log_prob(key=KEY, num_samples=samples)
    weights = torch.randn_like(plain)
    same_z, stopped = q.rsample_log_prob(key=KEY, num_samples=samples, stop_parameters=True)
    assert torch.equal(stopped, plain)
    assert torch.equal(same_z, z)
    fixed, _, _ = posterior(shape, kind, context, transforms)
    fixed.requires_grad_(False)
    at_the_draw = fixed.posterior(*(number.detach() for number in numbers)).log_prob(z)
    wanted = [*numbers[: 3 if context else 2], *family.parameters()]
    options = {"allow_unused": True, "materialize_grads": True}
    expected = torch.autograd.grad((at_the_draw * weights).sum(), wanted, **options)
    got = torch.autograd.grad((stopped * weights).sum(), wanted, **options)
    assert_close(got, expected, rtol=1e-7, atol=1e-8)
    assert sum(bool((g != 0).any()) for g in got) >= 2 + transforms
    with torch.no_grad():
        assert torch.equal(q.rsample_log_prob(key=KEY, num_samples=samples, stop_parameters=True)[1], plain)


def test_the_stopped_gradient_keeps_its_digits_where_sigma_is_far_below_the_mean():
    """In float32 z holds nothing of the noise there, of which the gradient is made: through an inverse it would be lost."""

    def gradients(dtype):
        torch.manual_seed(0)
        family = FlowFamily((2,), transforms=1, hidden=(8,)).to(dtype)
        with torch.no_grad():
            family.network.transform.transforms[0].hyper[-1].bias.copy_(torch.tensor([0.5, 0.25, -0.5, 0.75]))
        mu, logvar = (torch.full((50, 2), value, dtype=dtype, requires_grad=True) for value in (1e4, -20.0))
        eps = DiagonalGaussian(torch.zeros(50, 2), torch.zeros(50, 2)).rsample_log_prob(key=KEY)[0]
        _, stopped = family.posterior(mu, logvar, mu[:, :0]).rsample_log_prob(key=KEY, stop_parameters=True)
        return eps, torch.autograd.grad(stopped.sum(), (mu, logvar))

    eps, (by_mu, by_logvar) = gradients(torch.float32)
    assert_close(by_mu, -eps * math.exp(10.0), rtol=1e-4, atol=0.0)  # T is affine, of constants: the base's own gradient
    assert_close(by_logvar, -eps * eps / 2, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("shape", [(5, 1), (5, 3), (4, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_without_transforms_it_is_the_diagonal_gaussian(shape, dtype):
    mu, logvar = torch.randn(2, *shape).to(dtype)
    q, expected = FlowFamily(shape[1:], transforms=0).posterior(mu, logvar, mu[:, :0]), DiagonalGaussian(mu, logvar)
    for call in (
        lambda q: q.rsample_kl(StandardNormal(), key=KEY, num_samples=3),
        lambda q: q.rsample_log_ratio(StandardNormal(), key=KEY, row_start=2),
        lambda q: q.rsample_log_prob(key=KEY, stop_parameters=True),
    ):
        assert all(torch.equal(*pair) for pair in zip(call(q), call(expected), strict=True))


@pytest.mark.parametrize("shape", [(5, 1), (5, 3), (4, 3, 2, 2)])
@KINDS
@CONTEXTS
def test_a_new_one_is_the_diagonal_gaussian_up_to_rounding_and_can_move(shape, kind, context):
    torch.manual_seed(0)
    family = FlowFamily(shape[1:], kind=kind, context=context).double()
    mu, logvar = torch.randn(2, *shape).double()
    q = family.posterior(mu, logvar, torch.randn(shape[0], context, *shape[2:]).double())
    for got, expected in zip(q.rsample_log_prob(key=KEY), DiagonalGaussian(mu, logvar).rsample_log_prob(key=KEY), strict=True):
        assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert_close(q.mean, mu)
    (q.rsample_log_prob(key=KEY)[0] * mu.cos()).sum().backward()
    ends = [list(t.parameters())[-1].grad for t in family.network.transform.transforms]
    assert all((end != 0).any() for end in ends)


@pytest.mark.parametrize("size", [1, 2])
@KINDS
@CONTEXTS
def test_the_estimate_of_the_divergence_has_the_divergence_as_its_mean(size, kind, context):
    """Against the integral of q log q / p over a grid."""
    _, q, _ = posterior((2, size), kind, context, scale=0.2)
    line = torch.linspace(-10, 10, 20_001 if size == 1 else 251, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * size).view(-1, size)
    with torch.no_grad():
        log_q = torch.cat([q.log_prob(part.unsqueeze(1)) for part in grid.split(50_000)])
        log_p = D.Normal(0.0, 1.0).log_prob(grid).sum(1, keepdim=True)
        exact = (log_q.exp() * (log_q - log_p)).sum(0) * (line[1] - line[0]) ** size
        _, estimates = q.rsample_kl(StandardNormal(), key=KEY, num_samples=20_000)
    assert ((estimates.mean(0) - exact).abs() < 4 * estimates.std(0) / math.sqrt(20_000) + 1e-4).all()


@KINDS
@CONTEXTS
def test_every_number_has_its_gradient(kind, context):
    family, q, numbers = posterior((2, 2), kind, context, grad=True)
    at = torch.randn(2, 2, dtype=torch.float64)

    def loss(*values):
        q = family.posterior(*values)
        return *q.rsample_log_prob(key=KEY), q.log_prob(at), q.mean

    assert torch.autograd.gradcheck(loss, numbers)
    q.rsample_log_prob(key=KEY)[1].sum().backward()
    assert all(parameter.grad is not None for parameter in family.parameters())


def test_positions_are_one_vector_and_the_context_is_that_of_all_positions():
    family, q, (mu, logvar, extra) = posterior((4, 2, 3), context=5)
    assert family.extra == 5
    assert q.context.shape == (4, 15)
    flat = FlowPosterior(mu.flatten(1), logvar.flatten(1), family.network, extra.flatten(1))
    z, log_q = q.rsample_log_prob(key=KEY)
    expected_z, expected = flat.rsample_log_prob(key=KEY)
    assert torch.equal(z.flatten(1), expected_z)
    assert torch.equal(log_q, expected)


def test_rows_from_row_start_draw_what_the_whole_batch_draws():
    family, whole, numbers = posterior((7, 3), context=2, dtype=torch.float32)
    part = family.posterior(*(number[4:] for number in numbers))
    for stop in (False, True):
        of_whole, of_part = (q.rsample_log_prob(key=KEY, row_start=r, stop_parameters=stop) for q, r in ((whole, 0), (part, 4)))
        assert_close(of_part, tuple(t[4:] for t in of_whole))


@KINDS
@CONTEXTS
def test_an_empty_batch_has_empty_results(kind, context):
    family, q, _ = posterior((0, 3), kind, context, grad=True)
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=2, stop_parameters=True)
    assert z.shape == (2, 0, 3)
    assert log_q.shape == q.log_prob(z).shape == (2, 0)
    assert q.mean.shape == (0, 3)
    (z.sum() + q.rsample_log_prob(key=KEY)[1].sum()).backward()
    assert all(parameter.grad is not None for parameter in family.parameters())


@KINDS
def test_half_precision_and_autocast_compute_in_single_precision(kind):
    family, q, numbers = posterior((5, 3), kind, context=2, dtype=torch.float32)
    half = family.posterior(*(number.bfloat16() for number in numbers))
    wide = family.posterior(*(number.bfloat16().float() for number in numbers))
    z, log_q = half.rsample_log_prob(key=KEY)
    wide_z, wide_log_q = wide.rsample_log_prob(key=KEY)
    assert (z.dtype, log_q.dtype, half.mean.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert torch.equal(z, wide_z.bfloat16())
    assert torch.equal(log_q, wide_log_q)
    expected = q.rsample_log_prob(key=KEY, stop_parameters=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(*pair) for pair in zip(q.rsample_log_prob(key=KEY, stop_parameters=True), expected, strict=True))
        assert_close(q.log_prob(expected[0]), expected[1], rtol=1e-4, atol=1e-4)


# What it is good for.


class Banana(torch.nn.Module):
    """p(z) = N(0, I) in two dimensions and p(x | z) = N(x; z_2 - z_1^2, 0.1): of x = 0 the posterior is a bow."""

    def __init__(self):
        super().__init__()
        self.mu, self.logvar = (torch.nn.Parameter(torch.zeros(1, 2)) for _ in range(2))

    @staticmethod
    def log_joint(z):
        noise = D.Normal(z[..., 1] - z[..., 0] ** 2, math.sqrt(0.1))
        return D.Normal(0.0, 1.0).log_prob(z).sum(-1) + noise.log_prob(torch.zeros(()))

    def bound(self, family, samples, key):
        z, log_q = family.posterior(self.mu, self.logvar, self.mu[:, :0]).rsample_log_prob(key=key, num_samples=samples)
        return (self.log_joint(z) - log_q).mean()


@KINDS
def test_it_fits_a_bent_posterior_that_a_diagonal_gaussian_cannot(kind):
    """From the start that a new one has; against log p(x) by quadrature."""
    line = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    evidence = float(Banana.log_joint(torch.cartesian_prod(line, line)).logsumexp(0) + 2 * torch.log(line[1] - line[0]))
    bounds = {}
    for transforms in (0, 2):
        torch.manual_seed(0)
        banana, family = Banana(), FlowFamily((2,), kind=kind, transforms=transforms, hidden=(32,))
        optimizer = torch.optim.Adam([*banana.parameters(), *family.parameters()], lr=1e-2)
        for step in range(300):
            optimizer.zero_grad()
            (-banana.bound(family, 64, vaekit.fold_in(KEY, step))).backward()
            optimizer.step()
        with torch.no_grad():
            bounds[transforms] = float(banana.bound(family, 50_000, make_key(9)))
    assert bounds[0] < bounds[2] < evidence + 0.01
    assert evidence - bounds[2] < 0.3 * (evidence - bounds[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "glow"}, "kind .*got 'glow'"),
        ({"transforms": -1}, "transforms has to be a whole number of at least 0, got -1"),
        ({"hidden": (0,)}, "every entry of hidden has to be"),
        ({"context": -1}, "context has to be a whole number of at least 0, got -1"),
        ({"context": 2, "transforms": 0}, "context=2 are numbers for the transforms to read, of which there are none"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FlowFamily((2,), **options)


def test_a_context_of_another_batch_is_refused():
    family = FlowFamily((2,), context=3)
    with pytest.raises(ValueError, match=r"a row for each of the 4 examples, \[B, C\], got \(5, 3\)"):
        FlowPosterior(torch.zeros(4, 2), torch.zeros(4, 2), family.network, torch.zeros(5, 3))


@pytest.mark.parametrize("part", ["posterior", "prior"])
def test_weights_in_half_precision_are_refused_with_what_to_do(part):
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, **{part: "flow"}).bfloat16()
    with pytest.raises(TypeError, match=r"weights are torch\.bfloat16, and it was given torch\.float32; .* use torch\.autocast"):
        vae(torch.rand(3, 4, dtype=torch.bfloat16))


def test_the_prior_and_the_posterior_are_one_kind_of_network():
    """A prior flow y = f(z) draws z by the inverse; a posterior with that network has the density of y."""
    prior = priors.Flow((2,), transforms=2, hidden=(8,)).double()
    eps = torch.randn(5, 2, dtype=torch.float64)
    y, log_slope = prior.flow(eps)
    q = FlowPosterior(torch.zeros_like(eps), torch.zeros_like(eps), prior.flow)
    assert_close(q.log_prob(y), StandardNormal().log_prob(eps) - log_slope, rtol=1e-6, atol=1e-6)


def test_a_draw_and_its_divergence_take_one_pass():
    vae, passes = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior={"name": "flow", "context": 1}), []
    vae.encoder.family.network.register_forward_hook(lambda *_: passes.append(1))
    vae(torch.rand(5, 4))
    assert len(passes) == 1
