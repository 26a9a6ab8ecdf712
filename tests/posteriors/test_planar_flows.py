"""The posteriors of planar and radial maps: densities that integrate to 1, gradients, models, and what they are good for."""

import math

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import DiagonalGaussian, StandardNormal, make_key, plots
from vaekit.posteriors import FlowPosterior, PlanarFlowFamily, RadialFlowFamily

KEY = make_key(1)
D = torch.distributions
FAMILIES = pytest.mark.parametrize("family", [PlanarFlowFamily, RadialFlowFamily])
NAMES = pytest.mark.parametrize("name", ["planar_flow", "radial_flow"])
AMORTIZED = pytest.mark.parametrize("amortized", [True, False])


def posterior(family, shape, amortized=True, transforms=3, grad=False, scale=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    made = family(shape[1:], transforms=transforms, amortized=amortized).to(dtype)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape))
    extra = (shape[0], made.extra, *shape[2:])
    numbers = [factor * torch.randn(size, dtype=dtype) for size, factor in ((shape, 0.5), (shape, 0.5), (extra, scale))]
    return made, made.posterior(*(number.requires_grad_(grad) for number in numbers)), numbers


@FAMILIES
@AMORTIZED
def test_the_density_integrates_to_1(family, amortized):
    _, q, _ = posterior(family, (2, 2), amortized)
    line = torch.linspace(-14, 14, 401, dtype=torch.float64)
    with torch.no_grad():
        density = q.log_prob(torch.cartesian_prod(line, line).unsqueeze(1)).exp()
    assert_close(density.sum(0) * (line[1] - line[0]) ** 2, torch.ones(2, dtype=torch.float64), rtol=0.0, atol=5e-3)


@FAMILIES
@AMORTIZED
@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (2, 2, 3)])
@pytest.mark.parametrize("samples", [None, 3])
def test_the_density_of_a_draw_is_the_density_at_the_draw(family, amortized, shape, samples):
    _, q, _ = posterior(family, shape, amortized)
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=samples, row_start=3)
    assert_close(q.log_prob(z), log_q, rtol=1e-6, atol=1e-6)
    every = q.log_prob(z.reshape(-1, 1, *shape[1:]))  # of every draw in every posterior, as a vamp prior asks
    own = torch.arange(shape[0]).repeat(1 if samples is None else samples)
    assert_close(every[torch.arange(len(every)), own], log_q.flatten(), rtol=1e-6, atol=1e-6)


@FAMILIES
@AMORTIZED
@pytest.mark.parametrize("shape", [(3, 2), (2, 2, 2)])
def test_with_its_parameters_stopped_a_density_has_the_gradient_through_the_draw_alone(family, amortized, shape):
    made, q, numbers = posterior(family, shape, amortized, grad=True, scale=0.5)
    z, plain = q.rsample_log_prob(key=KEY)
    same_z, stopped = q.rsample_log_prob(key=KEY, stop_parameters=True)
    assert torch.equal(stopped, plain)
    assert torch.equal(same_z, z)
    fixed, _, _ = posterior(family, shape, amortized, scale=0.5)
    fixed.requires_grad_(False)
    at_the_draw = fixed.posterior(*(number.detach() for number in numbers)).log_prob(z)
    wanted = [*numbers[: 3 if amortized else 2], *made.parameters()]
    expected = torch.autograd.grad(at_the_draw.sum(), wanted, allow_unused=True, materialize_grads=True)
    got = torch.autograd.grad(stopped.sum(), wanted, allow_unused=True, materialize_grads=True)
    assert_close(got, expected, rtol=1e-6, atol=1e-7)
    assert all((g != 0).any() for g in got)


@NAMES
@AMORTIZED
@pytest.mark.parametrize("spatial", [False, True])
def test_a_new_encoder_has_the_diagonal_gaussian(name, amortized, spatial):
    encoder = {"name": "conv", "channels": (4,), "spatial": spatial}
    vae = vaekit.create_vae(
        input_shape=(1, 8, 6), latent_dim=3, encoder=encoder, decoder={"name": "conv", "channels": (4,)},
        posterior={"name": name, "transforms": 2, "amortized": amortized}, seed=0,
    )  # fmt: skip
    q = vae.encode(torch.rand(5, 1, 8, 6))
    assert isinstance(q, FlowPosterior)
    for got, expected in zip(q.rsample_log_prob(key=KEY), q.base.rsample_log_prob(key=KEY), strict=True):
        assert_close(got, expected, rtol=1e-5, atol=1e-5)
    vae(torch.rand(5, 1, 8, 6)).total.backward()
    weights = [vae.encoder.head.weight] if amortized else list(vae.encoder.family.parameters())
    assert all(weight.grad.isfinite().all() and (weight.grad != 0).any() for weight in weights)


@NAMES
@AMORTIZED
@pytest.mark.parametrize("batch", [0, 1, 12])
def test_a_model_with_it_trains_saves_loads_and_is_drawn(name, amortized, batch, tmp_path):
    vae = vaekit.create_vae(
        input_shape=(1, 4, 4), latent_dim=2, posterior={"name": name, "transforms": 2, "amortized": amortized}, seed=0,
        encoder={"name": "mlp", "hidden": (16,)}, decoder={"name": "mlp", "hidden": (16,)},
    )  # fmt: skip
    x = torch.rand(batch, 1, 4, 4)
    if not batch:
        assert vae(x, key=KEY).total == 0
        return
    before = vaekit.evaluate(vae, x)["loss"]
    vaekit.fit(vae, x, epochs=20, batch_size=12, learning_rate=1e-2, progress=False, device="cpu")
    assert vaekit.evaluate(vae, x)["loss"] < before
    again = vaekit.load(vae.save(tmp_path))
    assert again.config() == vae.config()
    assert torch.equal(again(x, key=KEY).total, vae(x, key=KEY).total)
    assert vaekit.evaluation.importance_weighted_bound(vae, x, num_samples=20).per_example.isfinite().all()
    subject = plots.catalogue.Subject(vae, vaekit.data.as_examples(x))
    assert [picture for picture, figure in plots.catalogue.fitting(subject)] == [
        "reconstructions", "samples", "latent_space", "latent_grid",
    ]  # fmt: skip


@NAMES
def test_a_fully_convolutional_model_with_it_takes_other_sizes(name):
    convolutions = {"name": "resnet", "channels": (4, 4), "blocks": 1}
    vae = vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=2, encoder={**convolutions, "spatial": True}, decoder=convolutions,
        posterior={"name": name, "transforms": 2}, seed=0,
    )  # fmt: skip
    assert vae(torch.rand(3, 1, 12, 16), key=KEY).total.isfinite()


@FAMILIES
def test_rows_from_row_start_and_half_precision(family):
    made, whole, numbers = posterior(family, (7, 3), dtype=torch.float32)
    part = made.posterior(*(number[4:] for number in numbers))
    of_whole, of_part = (q.rsample_log_prob(key=KEY, row_start=r) for q, r in ((whole, 0), (part, 4)))
    assert_close(of_part, tuple(t[4:] for t in of_whole))
    half = made.posterior(*(number.bfloat16() for number in numbers))
    z, log_q = half.rsample_log_prob(key=KEY)
    assert (z.dtype, log_q.dtype) == (torch.bfloat16, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(*pair) for pair in zip(whole.rsample_log_prob(key=KEY), of_whole, strict=True))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"transforms": 0}, ValueError, "transforms has to be"),
        ({"amortized": "yes"}, (TypeError, ValueError), "amortized has to be"),
        ({"hidden": (3,)}, TypeError, "takes no option 'hidden'"),
    ],
)
@NAMES
def test_options_that_make_no_flow_are_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior={"name": name, **options})


def log_joint(z):
    """Of x = 0 under p(z) = N(0, I), p(x | z) = N(x; z_2 - z_1^2, 0.1): its posterior is a bow."""
    noise = D.Normal(z[..., 1] - z[..., 0] ** 2, math.sqrt(0.1))
    return D.Normal(0.0, 1.0).log_prob(z).sum(-1) + noise.log_prob(torch.zeros(()))


@pytest.mark.parametrize(("family", "gain"), [(PlanarFlowFamily, 0.3), (RadialFlowFamily, 0.05)])
def test_it_fits_a_bent_posterior_better_than_a_diagonal_gaussian(family, gain):
    """Against log p(x) by quadrature, which no bound passes."""
    line = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    evidence = float(log_joint(torch.cartesian_prod(line, line)).logsumexp(0) + 2 * torch.log(line[1] - line[0]))
    bounds = []
    for is_flow in (False, True):
        torch.manual_seed(0)
        made, numbers = family((2,), transforms=8, amortized=False), [torch.zeros(1, 2, requires_grad=True) for _ in range(2)]

        def bound(samples, key, is_flow=is_flow, made=made, numbers=numbers):
            q = made.posterior(*numbers, numbers[0][:, :0]) if is_flow else DiagonalGaussian(*numbers)
            z, log_q = q.rsample_log_prob(key=key, num_samples=samples)
            return (log_joint(z) - log_q).mean()

        adam = torch.optim.Adam([*numbers, *made.parameters()], lr=0.03)
        for step in range(300):
            adam.zero_grad()
            (-bound(64, make_key(step))).backward()
            adam.step()
        with torch.no_grad():
            bounds.append(float(bound(20_000, make_key(9999))))
    assert bounds[0] + gain < bounds[1] < evidence + 0.02


def test_the_estimate_of_the_divergence_has_the_divergence_as_its_mean():
    _, q, _ = posterior(PlanarFlowFamily, (2, 1))
    grid = torch.linspace(-15, 15, 20_001, dtype=torch.float64).view(-1, 1, 1)
    with torch.no_grad():
        log_q = q.log_prob(grid)
        log_p = D.Normal(0.0, 1.0).log_prob(grid).sum(-1)
        exact = (log_q.exp() * (log_q - log_p)).sum(0) * float(grid[1] - grid[0])
        _, estimates = q.rsample_kl(StandardNormal(), key=KEY, num_samples=20_000)
    assert ((estimates.mean(0) - exact).abs() < 4 * estimates.std(0) / math.sqrt(20_000) + 1e-4).all()
