"""FactorVAE: its terms written out, whose gradient reaches what, a known total correlation, and permutations that are fair."""

import math

import pytest
import torch
from helpers.discriminators import assert_total_and_auxiliary_share_no_weight
from scipy import stats
from torch.func import functional_call
from torch.testing import assert_close

import vaekit
from vaekit import make_key
from vaekit.losses import FactorVAE
from vaekit.losses.factor import permuted_dimensions

SMALL = {"name": "factor", "gamma": 3.0, "hidden": (16, 16)}
LINEAR = {"name": "mlp", "hidden": ()}
SPATIAL = {"encoder": {"name": "conv", "channels": (4,), "spatial": True}, "decoder": {"name": "conv", "channels": (4,)}}


def model(loss=SMALL, shape=(6,), **parts):
    options = {"latent_dim": 3, "likelihood": "gaussian", "seed": 0, **parts}
    return vaekit.create_vae(input_shape=shape, loss=loss, **options).double()


def data(rows=20, shape=(6,)):
    return torch.randn(rows, *shape, dtype=torch.float64)


def own(vae):
    return dict(vae.loss.named_parameters(prefix="loss"))


# The terms.


@pytest.mark.parametrize("parts", [{}, {"prior": "gaussian_mixture"}, {"prior": "vamp"}, SPATIAL], ids=str)
def test_the_terms_are_those_of_the_paper(parts):
    shape = (1, 8, 8) if parts is SPATIAL else (6,)
    vae, x, key = model(shape=shape, **parts), data(shape=shape), make_key(3)
    terms = vae(x, key=key)
    elbo = vaekit.Elbo()(vae, vaekit.Batch(x), vaekit.StepContext(key))
    z, _ = vae.encode(x).rsample_kl(vae.prior, key=key)
    d = torch.sigmoid(vae.loss.discriminator(z.flatten(1)))
    permuted = permuted_dimensions(z.flatten(1), vaekit.fold_in(key, 1))
    d_permuted = torch.sigmoid(vae.loss.discriminator(permuted))
    total_correlation = (d.log() - (1 - d).log()).mean()
    assert_close(terms.extras["total_correlation"], total_correlation)
    assert_close(terms.total, elbo.total + 3.0 * total_correlation)
    assert_close(terms.auxiliary, -0.5 * (d.log().mean() + (1 - d_permuted).log().mean()))
    assert torch.equal(terms.extras["discriminator"], terms.auxiliary)
    assert torch.equal(terms.objective, terms.total + terms.auxiliary)
    assert torch.equal(terms.kl, elbo.kl)
    assert torch.equal(terms.reconstruction, elbo.reconstruction)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_a_discriminator_that_says_nothing_it_is_the_elbo_bit_for_bit(dtype):
    vae, x, key = model().to(dtype), data().to(dtype), make_key(1)
    with torch.no_grad():
        for weight in own(vae).values():
            weight.zero_()
    terms = vae(x, key=key)
    elbo = vaekit.Elbo()(vae, vaekit.Batch(x), vaekit.StepContext(key))
    assert torch.equal(terms.total, elbo.total)
    assert terms.extras["total_correlation"] == 0.0
    assert_close(terms.auxiliary.item(), math.log(2.0))
    of_ours, of_elbo = (torch.autograd.grad(t.total, list(vae.encoder.parameters())) for t in (terms, elbo))
    assert all(map(torch.equal, of_ours, of_elbo))


def test_the_weight_follows_the_step():
    vae = model({**SMALL, "gamma": {"name": "linear", "steps": 10, "end": 4.0}})
    for step, gamma in ((0, 0.0), (5, 2.0), (None, 4.0)):
        terms = vae(data(), step=step)
        assert_close(terms.total, (terms.reconstruction + terms.kl).mean() + gamma * terms.extras["total_correlation"])


def test_one_key_gives_one_result_and_torchs_generator_is_left_alone():
    vae, x = model(), data()
    torch.manual_seed(4)
    one = vae(x, key=make_key(1))
    after = torch.rand(3)
    torch.manual_seed(5)
    two, other = vae(x, key=make_key(1)), vae(x, key=make_key(2))
    for a, b in zip((one.total, one.auxiliary), (two.total, two.auxiliary), strict=True):
        assert torch.equal(a, b)
    assert other.auxiliary != one.auxiliary
    torch.manual_seed(4)
    assert torch.equal(torch.rand(3), after)


def test_the_default_discriminator_has_six_hidden_layers_of_1000():
    discriminator = FactorVAE((2, 5)).discriminator
    linear, between = discriminator[::2], discriminator[1::2]
    assert [layer.out_features for layer in linear] == [1000] * 6 + [1]
    assert linear[0].in_features == 10
    assert [layer.negative_slope for layer in between] == [0.2] * 6


# What learns from what.


def test_total_reaches_no_weight_of_the_discriminator_and_auxiliary_none_of_the_model():
    vae, x = model(prior="diagonal_gaussian"), data()
    assert_total_and_auxiliary_share_no_weight(vae, x, own(vae))


def test_the_encoder_gets_the_gradient_of_the_total_correlation():
    """Against a numerical derivative with the discriminator as it is."""
    vae, x, key = model(), data(), make_key(2)
    bias = vae.encoder.head.bias
    (got,) = torch.autograd.grad(vae(x, key=key).extras["total_correlation"], bias)

    def estimate(bias):
        terms = functional_call(vae, {"encoder.head.bias": bias}, (x,), {"key": key})
        return terms.extras["total_correlation"]

    for i in range(len(bias)):
        step = torch.zeros_like(bias).index_fill(0, torch.tensor(i), 1e-6)
        with torch.no_grad():
            expected = (estimate(bias + step) - estimate(bias - step)) / 2e-6
        assert_close(got[i], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_a_discriminator_trained_by_auxiliary_alone_finds_a_known_total_correlation(rho):
    """That of a Gaussian with correlation rho is -1/2 log(1 - rho^2), 0.511 nats of 0.8."""
    vae = vaekit.create_vae(
        input_shape=(2,), latent_dim=2, encoder=LINEAR, decoder=LINEAR, likelihood="gaussian", seed=0,
        loss={"name": "factor", "hidden": (64, 64), "learning_rate": 3e-3},
    )  # fmt: skip
    with torch.no_grad():  # z = x + sigma eps, sigma^2 = 0.1: with the covariance of x below that of z is [[1, rho], [rho, 1]]
        vae.encoder.head.weight.copy_(torch.eye(4, 2))
        vae.encoder.head.bias.copy_(torch.tensor([0.0, 0.0, math.log(0.1), math.log(0.1)]))
    mix = torch.linalg.cholesky(torch.tensor([[0.9, rho], [rho, 0.9]]))
    adam = torch.optim.Adam(vae.loss.parameter_groups())
    for _ in range(400):
        adam.zero_grad()
        vae(torch.randn(1000, 2) @ mix.T).auxiliary.backward()
        adam.step()
    with torch.no_grad():
        estimates = [vae(torch.randn(1000, 2) @ mix.T).extras["total_correlation"] for _ in range(100)]
    assert torch.stack(estimates).mean().item() == pytest.approx(-0.5 * math.log(1.0 - rho**2), abs=0.04)


# Permutations.


def test_each_dimension_keeps_its_values():
    z = torch.randn(257, 5)
    permuted = permuted_dimensions(z, make_key(0))
    assert torch.equal(permuted.sort(0).values, z.sort(0).values)
    order = permuted_dimensions(torch.arange(257.0).unsqueeze(1).expand(257, 5), make_key(0))
    assert torch.equal(permuted, z.gather(0, order.long()))
    assert len({tuple(column.tolist()) for column in order.T}) == 5


def test_all_orders_of_all_dimensions_are_as_likely():
    rows = torch.arange(3.0).unsqueeze(1).expand(3, 2)
    keys = vaekit.fold_in(make_key(0), torch.arange(7200))
    codes = torch.stack([permuted_dimensions(rows, key) for key in keys]).long()
    numbers = (codes * torch.tensor([9, 3, 1]).view(3, 1)).sum(1)  # each order by itself
    pairs = numbers[:, 0] * 27 + numbers[:, 1]
    counts = pairs.unique(return_counts=True)[1]
    assert len(counts) == 36
    assert stats.chisquare(counts).pvalue > 1e-3


def test_in_evaluation_each_batch_has_permutations_of_its_own():
    vae, x = model(), data(3).repeat(2, 1)
    context = [vaekit.StepContext(make_key(1), row_start=start) for start in (0, 3)]
    with torch.no_grad():
        vae.encoder.head.weight[3:] = 0.0
        vae.encoder.head.bias[3:] = -200.0  # no noise: what differs is the order
    first, second = (vae.loss(vae, vaekit.Batch(x), c).auxiliary for c in context)
    assert first != second


# In training.


def fit(vae, x, **options):
    return vaekit.fit(vae, x, **{"epochs": 2, "batch_size": 10, "progress": False, **options})


def test_fit_is_the_loop_that_the_documentation_describes():
    vae, by_hand, x = model(), model(), data(30)
    history = fit(vae, x, seed=3, learning_rate=0.01)
    rest = [*by_hand.encoder.parameters(), *by_hand.decoder.parameters()]
    discriminator = {"params": list(by_hand.loss.parameters()), "lr": 1e-4, "betas": (0.5, 0.9)}
    model_adam, own_adam = torch.optim.Adam(rest, lr=0.01), torch.optim.Adam([discriminator])
    noise, order, _ = vaekit.fold_in(make_key(3), torch.arange(3))
    totals, step = [], 0
    for epoch in range(2):
        generator = torch.Generator().manual_seed(int(vaekit.fold_in(order, epoch)[0]))
        for rows in torch.randperm(30, generator=generator).split(10):
            terms = by_hand(x[rows], key=vaekit.fold_in(noise, step), step=step)
            by_hand.zero_grad()
            terms.total.backward(retain_graph=True)
            model_adam.step()
            by_hand.loss.zero_grad()
            terms.auxiliary.backward()
            own_adam.step()
            totals.append(terms.total.item())
            step += 1
    for name, weight in vae.state_dict().items():
        assert_close(weight, by_hand.state_dict()[name], rtol=1e-9, atol=1e-11)
    assert history["loss"] == pytest.approx([sum(totals[:3]) / 3, sum(totals[3:]) / 3], rel=1e-9)
    assert set(history) == {"loss", "reconstruction", "kl", "total_correlation", "discriminator"}


def test_the_learning_rate_of_fit_is_not_that_of_the_discriminator():
    vae, x = model({**SMALL, "learning_rate": 0.01}), data()
    before = {name: weight.clone() for name, weight in vae.named_parameters()}
    fit(vae, x, learning_rate=1e-30)
    for name, weight in vae.named_parameters():
        moved = (weight - before[name]).abs().max()
        assert moved > 1e-3 if name in own(vae) else moved < 1e-20


def test_a_model_keeps_its_discriminator_when_it_is_saved(tmp_path):
    vae, x = model({**SMALL, "betas": [0.1, 0.2]}), data()
    fit(vae, x, learning_rate=0.01, out=tmp_path)
    again = vaekit.load(tmp_path / "last")
    assert again.loss.betas == (0.1, 0.2)
    assert again.config() == vae.config()
    for key in (make_key(1), make_key(2)):
        one, two = vae(x, key=key), again(x, key=key)
        assert torch.equal(one.total, two.total)
        assert torch.equal(one.auxiliary, two.auxiliary)


def test_training_brings_the_total_correlation_down():
    """Of two latents that are correlated at first."""

    def start():
        vae = vaekit.create_vae(
            input_shape=(2,), latent_dim=2, encoder=LINEAR, decoder=LINEAR, likelihood={"name": "gaussian", "sigma": 0.3},
            loss={"name": "factor", "gamma": 10.0, "hidden": (32, 32), "learning_rate": 3e-3}, seed=0,
        )  # fmt: skip
        with torch.no_grad():
            vae.encoder.head.weight.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0], [0.0, 0.0], [0.0, 0.0]]))
            vae.encoder.head.bias[2:] = -3.0
        return vae

    def correlation(vae):
        return torch.corrcoef(vae.encode(x).mean.detach().T)[0, 1].abs().item()

    x = torch.randn(1000, 2)
    vae, plain = start(), start()
    plain.loss = vaekit.Elbo()
    assert correlation(vae) > 0.7
    for each in (vae, plain):
        fit(each, x, epochs=50, batch_size=100, learning_rate=3e-3)
    assert correlation(vae) < 0.1 < 0.3 < correlation(plain)


# In every precision, compiled, and of nothing.


@pytest.mark.compile
def test_it_is_one_graph():
    vae, x, key = model(), data(), make_key(1)
    compiled, terms = torch.compile(vae, fullgraph=True, backend="aot_eager")(x, key=key), vae(x, key=key)
    assert_close(compiled.total, terms.total)
    assert_close(compiled.auxiliary, terms.auxiliary)
    compiled.objective.backward()
    got = {name: weight.grad.clone() for name, weight in vae.named_parameters()}
    vae.zero_grad()
    terms.objective.backward()
    for name, weight in vae.named_parameters():
        assert_close(got[name], weight.grad)


def test_under_autocast_it_is_what_it_is_in_single_precision():
    vae, x, key = model().float(), data().float(), make_key(0)
    terms = vae(x, key=key)
    with torch.autocast("cpu", torch.bfloat16):
        low = vae(x, key=key)
    low.objective.backward()
    for name in ("total", "auxiliary"):
        assert getattr(low, name).dtype == torch.float32
        assert_close(getattr(low, name), getattr(terms, name), rtol=0.03, atol=0.05)
    assert all(weight.grad.isfinite().all() for weight in vae.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_terms_are_in_single(dtype):
    vae, x, key = model(), data(), make_key(0)
    terms, low = vae(x, key=key), vae.to(dtype)(x.to(dtype), key=key)
    for name in ("total", "auxiliary"):
        assert getattr(low, name).dtype == torch.float32
        assert_close(getattr(low, name).double(), getattr(terms, name), rtol=0.03, atol=0.1)


@pytest.mark.parametrize("rows", [0, 1])
def test_of_no_example_and_of_one(rows):
    vae = model()
    terms = vae(data(rows), key=make_key(0))
    terms.objective.backward()
    assert all(weight.grad.isfinite().all() for weight in vae.parameters())
    if not rows:
        assert terms.total == terms.auxiliary == 0.0
        assert not any(weight.grad.any() for weight in vae.parameters())


# Mistakes.


def test_latents_of_another_shape_are_refused_when_composed():
    with pytest.raises(ValueError, match=r"the loss is a FactorVAE .*of the shape \(4,\), but the encoder's have \(3,\)"):
        model(FactorVAE((4,), hidden=(8,)))
    assert model(FactorVAE((3,), hidden=(8,))).loss.latent_shape == (3,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gamma": -1.0}, ValueError, "gamma has to be at least 0, got -1.0"),
        ({"gamma": "high"}, TypeError, "expected a number, a Schedule"),
        ({"hidden": (0,)}, ValueError, "every entry of hidden has to be a whole number of at least 1, got 0"),
        ({"latent_shape": (2.0,)}, ValueError, "every entry of latent_shape has to be a whole number"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate .*got 0.0"),
        ({"learning_rate": True}, TypeError, "learning_rate .*got True"),
        ({"betas": 0.5}, ValueError, "betas has to be two numbers from 0 to below 1"),
        ({"betas": (0.5, 1.0)}, ValueError, "betas .*got 1.0"),
        ({"betas": "55"}, TypeError, "betas .*got '5'"),
    ],
)
def test_options_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        FactorVAE(**{"latent_shape": (2,), **options})
