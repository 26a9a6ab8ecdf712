"""Laws of several levels of latents: the ladder, the prior over its levels and the decoder behind them.

The witness is a linear Gaussian chain z_1 -> z_2 -> x, of which torch.distributions has every density in closed form. Its exact
posterior q(z_1 | x) q(z_2 | z_1, x) is a ladder's: the second factor is the precision-weighted mean of prior and data.
"""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

import vaekit
from vaekit.evaluation import importance_weighted_bound
from vaekit.posteriors import DiagonalGaussian, Family, LadderFamily, LevelsPosterior
from vaekit.priors import TopDownPrior
from vaekit.top_down import Gaussian, TopDown

KEY = vaekit.make_key(5)
BEHIND = {"name": "top_down", "decoder": {"name": "mlp", "hidden": ()}}
SLOPE, SHIFT, SCALE, SIGMA = 0.9, 0.3, 0.6, 0.5  # z_2 = SLOPE z_1 + SHIFT + SCALE noise, x = W z_2 + b + SIGMA noise
X = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def ladder(levels=(1, 2, 3), hidden=(5,), input_dim=4, prior="top_down", **parts):
    family = {"name": "ladder", "levels": levels, "hidden": hidden}
    options = {"likelihood": "gaussian", "encoder": {"name": "mlp", "hidden": (8,)}, "decoder": {"name": "mlp", "hidden": (8,)}}
    return vaekit.create_vae(
        input_shape=(input_dim,), latent_dim=sum(levels), posterior=family, prior=prior, seed=0, **{**options, **parts}
    ).double()


@torch.no_grad()
def chain(too_wide=0.0):
    """The linear chain with its exact posterior (too_wide nats wider in logvar), and p(x)."""
    vae = ladder(
        (1, 1), (), 3, encoder={"name": "mlp", "hidden": ()}, decoder=BEHIND, likelihood={"name": "gaussian", "sigma": SIGMA}
    )
    head = vae.encoder.family.path.networks[0][0]
    head.weight.copy_(torch.tensor([[SLOPE], [0.0]], dtype=torch.float64))
    head.bias.copy_(torch.tensor([SHIFT, 2.0 * math.log(SCALE)], dtype=torch.float64))
    weight, bias = vae.decoder.decoder.head.weight[:, 0], vae.decoder.decoder.head.bias
    bias.copy_(torch.tensor([0.2, -0.1, 0.4]))
    noise = torch.eye(3, dtype=torch.float64) * SIGMA**2
    given_upper = noise + SCALE**2 * torch.outer(weight, weight)  # of x given z_1
    upper = SLOPE * weight
    variance = 1.0 / (1.0 + upper @ torch.linalg.solve(given_upper, upper))
    to_upper = variance * torch.linalg.solve(given_upper, upper)
    precision = weight @ weight / SIGMA**2  # of what x says of z_2
    vae.encoder.head.weight.copy_(torch.stack((to_upper, weight / SIGMA**2 / precision, *torch.zeros(2, 3).double())))
    vae.encoder.head.bias.copy_(
        torch.stack(
            (-to_upper @ (bias + SHIFT * weight), -weight @ bias / SIGMA**2 / precision, variance.log(), -precision.log())
        )
    )
    vae.encoder.head.bias[2:] += too_wide
    return vae, MultivariateNormal(bias + SHIFT * weight, given_upper + torch.outer(upper, upper))


def test_with_the_exact_posterior_one_weight_is_the_likelihood_whatever_the_draw():
    vae, marginal = chain()
    for seed in range(3):
        bound = importance_weighted_bound(vae, X, num_samples=2, seed=seed)
        assert_close(bound.per_example, marginal.log_prob(X), rtol=1e-10, atol=1e-10)


def test_its_elbo_is_the_likelihood_on_average_and_a_wider_posterior_loses_some_of_it():
    for too_wide, least, most in ((0.0, -1e-3, 0.05), (1.0, 0.05, 1.0)):
        vae, marginal = chain(too_wide)
        draws = 20_000
        z, levels = vae.encode(X).rsample_kl_by_level(vae.prior, key=KEY, num_samples=draws)
        nll = vae.likelihood.nll(vae.decoder(z.flatten(0, 1)), X.repeat(draws, 1)).view(draws, -1)
        elbo = -(nll + levels[0] + levels[1]).detach()
        lost = marginal.log_prob(X) - elbo.mean(0)
        error = elbo.std(0) / math.sqrt(draws)
        assert (lost > least - 4 * error).all()
        assert (lost < most + 4 * error).all()


def test_more_draws_come_nearer_to_the_likelihood_from_below():
    vae, marginal = chain(too_wide=1.5)
    exact = float(marginal.log_prob(X).mean())
    bounds = [importance_weighted_bound(vae, X.repeat(30, 1), num_samples=k).log_likelihood for k in (1, 5, 50, 1000)]
    assert bounds == sorted(bounds)
    assert exact - bounds[0] > 0.1
    assert abs(exact - bounds[-1]) < 0.01


def test_the_divergence_by_the_chain_rule_is_that_of_the_joint_gaussians():
    vae, _ = chain(too_wide=0.7)
    q = vae.encode(X)
    z, (upper, lower) = q.rsample_kl_by_level(vae.prior, key=KEY, num_samples=20_000)
    numbers = q.numbers.detach()
    variances = numbers[:, 2:].exp()
    share = SCALE**2 / (SCALE**2 + variances[:, 1])
    assert_close(upper, kl_divergence(Normal(numbers[:, 0], variances[:, 0].sqrt()), Normal(0.0, 1.0)), rtol=1e-9, atol=1e-12)

    def joint(mean, variance, slope, shift, lower_variance):
        covariance = torch.stack((variance, slope * variance, slope * variance, slope**2 * variance + lower_variance), -1)
        return MultivariateNormal(torch.stack((mean, slope * mean + shift), -1), covariance.unflatten(-1, (2, 2)))

    one = torch.ones(len(X), dtype=torch.float64)
    lower_variance = 1.0 / (1.0 / SCALE**2 + 1.0 / variances[:, 1])
    of_q = joint(numbers[:, 0], variances[:, 0], SLOPE * (1 - share), SHIFT * (1 - share) + share * numbers[:, 1], lower_variance)
    of_p = joint(0 * one, one, SLOPE * one, SHIFT * one, SCALE**2 * one)
    kl = (upper + lower).detach()
    assert ((kl.mean(0) - kl_divergence(of_q, of_p)).abs() < 4 * kl.std(0) / math.sqrt(len(kl))).all()
    assert_close(q.log_prob(z[:5]), of_q.log_prob(z[:5]), rtol=1e-9, atol=1e-9)
    assert_close(vae.prior.log_prob(z[0]), of_p.log_prob(z[0]), rtol=1e-9, atol=1e-9)
    ratio = q.rsample_log_ratio(vae.prior, key=KEY, num_samples=20_000)[1]
    assert_close(ratio[:5], q.log_prob(z[:5]) - torch.stack([vae.prior.log_prob(one) for one in z[:5]]), rtol=1e-8, atol=1e-8)


def test_draws_from_the_prior_have_its_moments():
    vae, _ = chain()
    z = vae.prior.sample((200_000, 2), key=KEY, dtype=torch.float64).detach()
    assert_close(z.mean(0), torch.tensor([0.0, SHIFT], dtype=torch.float64), rtol=0.0, atol=0.01)
    covariance = torch.tensor([[1.0, SLOPE], [SLOPE, SLOPE**2 + SCALE**2]], dtype=torch.float64)
    assert_close(torch.cov(z.T), covariance, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("num_samples", [None, 3])
def test_one_level_is_the_plain_model_with_the_same_weights(num_samples):
    one = ladder((4,))
    plain = vaekit.create_vae(
        input_shape=(4,), latent_dim=4, likelihood="gaussian", encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=1
    ).double()
    plain.load_state_dict(one.state_dict())
    x = torch.randn(5, 4, dtype=torch.float64)
    for got, expected in zip(
        one.encode(x).rsample_kl(one.prior, key=KEY, num_samples=num_samples),
        plain.encode(x).rsample_kl(plain.prior, key=KEY, num_samples=num_samples),
        strict=True,
    ):
        assert_close(got, expected, rtol=1e-14, atol=1e-14)
    for loss in ({"name": "elbo"}, {"name": "iwae", "num_samples": 4}, {"name": "free_bits"}):
        one.loss = plain.loss = vaekit.losses.registry.build(loss)
        got, expected = one(x, key=KEY), plain(x, key=KEY)
        assert_close(got.total, expected.total, rtol=1e-13, atol=1e-13)
        assert not [name for name in got.extras if name.startswith("kl_level")]
    assert_close(one.sample(6, key=KEY), plain.sample(6, key=KEY), rtol=1e-13, atol=1e-13)
    assert_close(one.reconstruct(x), plain.reconstruct(x), rtol=1e-13, atol=1e-13)


def test_the_noise_is_that_of_rows_and_draws_and_each_level_has_its_own():
    vae = ladder()
    x = torch.randn(6, 4, dtype=torch.float64)
    q, part = vae.encode(x), vae.encode(x[4:])
    whole = q.rsample(key=KEY, num_samples=3)
    assert_close(part.rsample(key=KEY, num_samples=3, row_start=4), whole[:, 4:])
    for k in range(3):
        key = vaekit.make_key(5) + torch.tensor([0, k << 40])
        assert_close(q.rsample(key=key), whole[k])
        for got, expected in zip(q.rsample_kl_by_level(vae.prior, key=key)[1][1:], levels_of(q, vae, k), strict=True):
            assert_close(got, expected)
    same = torch.full((4000, 6), 0.0, dtype=torch.float64)
    with torch.no_grad():
        for network in vae.encoder.family.path.networks:
            network[-1].weight.zero_(), network[-1].bias.zero_()
    drawn = LevelsPosterior(vae.encoder.family.path, torch.cat((same, same), 1)).rsample(key=KEY)
    correlations = torch.corrcoef(drawn.T) - torch.eye(6, dtype=torch.float64)
    assert correlations.abs().max() < 0.07


def levels_of(q, vae, k):
    return [level[k] for level in q.rsample_kl_by_level(vae.prior, key=KEY, num_samples=3)[1][1:]]


def test_density_and_divergence_of_a_draw_agree_with_those_of_its_levels():
    vae = ladder()
    x = torch.randn(6, 4, dtype=torch.float64)
    q = vae.encode(x)
    z, log_q = q.rsample_log_prob(key=KEY, num_samples=2)
    assert_close(log_q, q.log_prob(z), rtol=1e-9, atol=1e-9)
    z, levels = q.rsample_kl_by_level(vae.prior, key=KEY)
    assert_close(sum(levels), q.rsample_kl(vae.prior, key=KEY)[1])
    again, elements = q.rsample_kl_per_dimension(vae.prior, key=KEY)
    assert torch.equal(z, again)
    assert elements.shape == z.shape
    for part, level in zip(vae.split_levels(elements), levels, strict=True):
        assert_close(part.sum(1), level)
    assert (elements >= 0).all()


@pytest.mark.parametrize("method", ["rsample_kl", "rsample_log_ratio"])
def test_gradients_are_those_of_differences(method):
    vae = ladder((1, 2), (3,))
    path, prior = vae.encoder.family.path, vae.prior
    numbers = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    weights = [weight.detach().requires_grad_() for weight in path.parameters()]

    def outputs(numbers, *weights):
        names = [name for name, _ in path.named_parameters()]
        with torch.nn.utils.stateless._reparametrize_module(path, dict(zip(names, weights, strict=True))):
            return getattr(LevelsPosterior(path, numbers), method)(prior, key=KEY)

    assert torch.autograd.gradcheck(outputs, (numbers, *weights))


def test_the_doubly_reparameterized_gradient_has_the_mean_of_the_plain_one():
    x, differences = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double(), []
    plain, doubly = (
        ladder((1, 2), (3,), loss={"name": "iwae", "gradient": gradient})
        for gradient in ("reparameterized", "doubly_reparameterized")
    )
    for seed in range(150):
        totals = [vae(x, key=vaekit.make_key(seed)).total for vae in (plain, doubly)]
        assert_close(totals[1], totals[0], rtol=1e-11, atol=0.0)
        gradients = [torch.autograd.grad(t, list(v.parameters())) for t, v in zip(totals, (plain, doubly), strict=True)]
        differences.append(torch.cat([(a - b).flatten() for a, b in zip(*gradients, strict=True)]))
    rows = torch.stack(differences)
    errors = rows.std(0) / math.sqrt(len(rows))
    assert (errors > 1e-9).sum() > 20
    assert (rows.mean(0).abs() <= 4.5 * errors + 1e-9).all()


@pytest.mark.parametrize("temperature", [0.5, (0.5, 2.0, 1.0)])
def test_a_temperature_scales_each_levels_standard_deviation(temperature):
    vae = ladder()
    tempered = TopDownPrior(temperature)
    drawn = vae.sample(4, prior=tempered, key=KEY)
    assert not torch.equal(drawn, vae.sample(4, key=KEY))
    z = tempered.sample((5, 6), key=KEY, dtype=torch.float64)
    scales = temperature if isinstance(temperature, tuple) else (temperature,) * 3
    expected, (upper, middle, lower) = 0.0, vae.split_levels(z)
    networks = vae.encoder.family.path.networks
    for scale, level, above, network in zip(
        scales, (upper, middle, lower), (None, upper, middle), (None, *networks), strict=True
    ):
        mu, logvar = (torch.zeros_like(level),) * 2 if network is None else network(above).chunk(2, 1)
        expected = expected + Normal(mu, scale * torch.exp(0.5 * logvar)).log_prob(level).sum(1)
    assert_close(tempered.log_prob(z), expected)
    eps = z[:, 0] / scales[0]
    assert_close(eps, vae.prior.sample((5, 6), key=KEY, dtype=torch.float64)[:, 0])
    q = vae.encode(torch.randn(5, 4, dtype=torch.float64))
    z, kl = q.rsample_kl(tempered, key=KEY, num_samples=4000)
    ratio = (q.log_prob(z) - tempered.log_prob(z.flatten(0, 1)).view(z.shape[:2])).detach()
    assert ((ratio.mean(0) - kl.detach().mean(0)).abs() < 4.5 * (ratio - kl.detach()).std(0) / math.sqrt(4000)).all()


def test_levels_below_are_drawn_given_those_that_stay():
    vae = ladder()
    z = vae.encode(torch.randn(5, 4, dtype=torch.float64)).rsample(key=KEY)
    for kept in range(4):
        drawn = vae.prior.below(z, kept, key=vaekit.make_key(9))
        for number, (before, after) in enumerate(zip(vae.split_levels(z), vae.split_levels(drawn), strict=True)):
            assert torch.equal(before, after) is (number < kept)
    assert_close(vae.prior.below(z, 0, key=KEY), vae.prior.sample((5, 6), key=KEY, dtype=torch.float64))
    assert_close(vae.prior.below(z[3:], 1, key=KEY, row_start=3), vae.prior.below(z, 1, key=KEY)[3:])
    with pytest.raises(ValueError, match="kept=4, but there are 3 levels"):
        vae.prior.below(z, 4, key=KEY)


def test_a_model_says_what_levels_it_has():
    vae = ladder()
    assert vae.latent_levels == ((1,), (2,), (3,))
    z = torch.arange(12.0).view(2, 6)
    assert [level.tolist()[0] for level in vae.split_levels(z)] == [[0.0], [1.0, 2.0], [3.0, 4.0, 5.0]]
    plain = vaekit.create_vae(input_shape=(4,), latent_dim=6)
    assert plain.latent_levels == ((6,),)
    assert plain.split_levels(z)[0] is z


@pytest.mark.parametrize("decoder", ["mlp", BEHIND], ids=["of all levels", "of the last level"])
@pytest.mark.parametrize("loss", ["elbo", "iwae", "free_bits", {"name": "free_bits", "per": "level"}], ids=str)
def test_it_trains_and_saves(decoder, loss, tmp_path):
    vae = ladder(decoder=decoder, loss=loss).float()
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.5, 1.0])
    before = vaekit.evaluate(vae, x)["loss"]
    vaekit.fit(vae, x, epochs=5, batch_size=20, learning_rate=1e-2, progress=False, device="cpu")
    assert vaekit.evaluate(vae, x)["loss"] < before
    again = vaekit.load(vae.save(tmp_path / "saved"))
    assert again.config() == vae.config()
    vae.eval(), again.eval()
    assert torch.equal(again(x, key=KEY).total, vae(x, key=KEY).total)
    assert torch.equal(again.sample(3, key=KEY), vae.sample(3, key=KEY))


def test_it_is_exported_with_its_sampler(tmp_path):
    vae, x, noise = ladder(decoder=BEHIND).float().eval(), torch.randn(5, 4), torch.randn(5, 6)
    files = vaekit.export(vae, tmp_path, to="torch")
    programs = {name: torch.export.load(file).module() for name, file in files.items()}
    assert_close(programs["sampler"](noise), vae.decode(vae.prior.from_noise(noise)))
    assert_close(programs["decoder"](*programs["encoder"](x)), vae.reconstruct(x))


def test_the_prior_has_no_weights_of_its_own_and_learns_with_the_encoder():
    vae = ladder()
    assert not list(vae.prior.parameters())
    vae(torch.randn(5, 4, dtype=torch.float64)).objective.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in vae.encoder.family.path.parameters())


def test_what_does_not_go_together_is_refused_with_what_to_do():
    plain = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    with pytest.raises(ValueError, match="levels=\\(1, 2\\) are 3 latents together, but latent_dim=2"):
        LadderFamily((2,), levels=(1, 2))
    with pytest.raises(ValueError, match="levels=3 need at least 3 latents"):
        LadderFamily((2,), levels=3)
    with pytest.raises(ValueError, match="not latents with positions"):
        LadderFamily((2, 4, 4))
    with pytest.raises(ValueError, match="a single one; make it with posterior='ladder'"):
        vaekit.create_vae(input_shape=(4,), latent_dim=2, prior="top_down")
    with pytest.raises(ValueError, match="which the encoder has not"):
        vaekit.create_vae(input_shape=(4,), latent_dim=2, decoder="top_down")
    with pytest.raises(ValueError, match="names 2 level\\(s\\), but the latents have 3"):
        ladder().sample(2, prior=TopDownPrior((1.0, 0.5)))
    with pytest.raises(ValueError, match="belongs to another model"):
        ladder().sample(2, prior=ladder().prior)
    with pytest.raises(ValueError, match="a single one"):
        plain.sample(2, prior=ladder().prior)
    with pytest.raises(ValueError, match="over another encoder's levels"):
        ladder().encode(torch.zeros(1, 4).double()).rsample_kl(ladder().prior)
    with pytest.raises(RuntimeError, match="compose a vaekit.VAE with it first"):
        TopDownPrior().log_prob(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="temperature"):
        TopDownPrior(0.0)


class Chain(TopDown):
    """A path of somebody else's: each of three levels is near the one above."""

    def __init__(self):
        super().__init__([(2,)] * 3, features_shape=(2,))
        self.scale = torch.nn.Parameter(torch.ones(2))

    def start(self, like):
        return like.new_zeros(like.shape[0], 2)

    def prior(self, level, h):
        return Gaussian(self.scale * h, torch.zeros_like(h))

    def posterior(self, level, h, prior, numbers):
        return Gaussian(prior.mu + self.split(numbers)[level], prior.logvar - 1.0)

    def after(self, level, h, z):
        return z


class ChainFamily(Family):
    def __init__(self, latent_shape):
        super().__init__(latent_shape)
        self.path = Chain()

    def forward(self, numbers):
        return LevelsPosterior(self.path, numbers)


def test_a_path_of_ones_own_is_composed_of_the_librarys_parts():
    vae = vaekit.create_vae(
        input_shape=(4,), latent_dim=6, posterior=ChainFamily((6,)), prior="top_down", decoder=BEHIND, likelihood="gaussian"
    )
    x = torch.randn(60, 4)
    terms = vae(x)
    assert_close(sum(terms.extras[f"kl_level_{n}"] for n in (1, 2, 3)), terms.kl)
    history = vaekit.fit(vae, x, epochs=3, batch_size=20, learning_rate=1e-2, progress=False, device="cpu")
    assert history["loss"][-1] < history["loss"][0]
    assert (vae.encoder.family.path.scale != 1.0).all()


def test_a_plain_posterior_has_one_level():
    z = torch.zeros(3, 2)
    assert DiagonalGaussian(z, z).split_levels(z) == (z,)
