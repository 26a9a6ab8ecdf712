"""Importance-weighted and Renyi bounds: against each other, against an exact likelihood, and their gradients in the mean."""

import itertools
import json
import math

import mpmath
import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import make_key
from vaekit.evaluation import importance_weighted_bound
from vaekit.evaluation.terms import evaluation_key
from vaekit.losses.draws import effective_sample_size
from vaekit.losses.renyi import renyi_bound

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.5
Y = torch.arange(6) % 3
LINEAR = {"name": "mlp", "hidden": ()}
SIGMA = 0.8
DREG = {"name": "iwae", "num_samples": 5, "gradient": "doubly_reparameterized"}
PIWAE = {"name": "piwae", "num_outer": 2, "num_samples": 3}
MIWAE = {**PIWAE, "name": "miwae"}
SEVERAL = [{"name": "iwae"}, DREG, MIWAE, PIWAE, {"name": "ciwae"}, {"name": "renyi"}]


def linear_model(loss, condition=None, prior=None):
    """x = W z + b + sigma noise with an encoder that is wrong, so that weights differ."""
    vae = vaekit.create_vae(
        input_shape=(5,), latent_dim=2, encoder=LINEAR, decoder=LINEAR, loss=loss, condition=condition,
        likelihood={"name": "gaussian", "sigma": SIGMA}, seed=3,
    ).double()  # fmt: skip
    vae.prior = vae.prior if prior is None else prior
    with torch.no_grad():
        vae.encoder.head.bias[2:] -= 1.0
    return vae


def exact_posterior_(vae):
    """Give the model an encoder with the true posterior, which has to be diagonal: W has orthogonal columns. Returns log p(x)."""
    with torch.no_grad():
        weight, bias = vae.decoder.head.weight, vae.decoder.head.bias
        weight.copy_(torch.linalg.qr(weight).Q * torch.tensor([1.5, 0.7]))
        variance = 1.0 / (1.0 + (weight * weight).sum(0) / SIGMA**2)
        gain = variance[:, None] * weight.mT / SIGMA**2
        vae.encoder.head.weight[:2] = gain
        vae.encoder.head.bias[:2] = -gain @ bias
        vae.encoder.head.weight[2:] = 0.0
        vae.encoder.head.bias[2:] = variance.log()
        covariance = weight @ weight.mT + SIGMA**2 * torch.eye(5, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(bias.detach(), covariance).log_prob(X)


def gradients(vae, key, x=X, **given):
    vae.zero_grad()
    terms = vae(x, key=key, **given)
    terms.total.backward()
    return terms, {name: p.grad.clone() for name, p in vae.named_parameters()}


def log_weights(vae, key, samples, x=X):
    z, log_ratio = vae.encode(x).rsample_log_ratio(vae.prior, key=key, num_samples=samples)
    return torch.stack([-(vae.likelihood.nll(vae.decoder(z[k]), x) + log_ratio[k]) for k in range(samples)])


class Unknown(vaekit.Prior):
    """The standard normal, moved; no closed form is known for it."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.full((2,), 0.3, dtype=torch.float64))

    def log_prob(self, z):
        return torch.distributions.Normal(self.mean, 1.0).log_prob(z).sum(-1)

    def sample(self, shape, *, key, dtype, row_start=0):
        raise NotImplementedError


ONE_DRAW = [
    {"name": "iwae", "num_samples": 1},
    {"name": "miwae", "num_outer": 1, "num_samples": 1},
    {"name": "ciwae", "num_samples": 1, "beta": 0.3},
    {"name": "piwae", "num_outer": 1, "num_samples": 1},
    {"name": "renyi", "alpha": -2.0, "num_samples": 1},
    {"name": "renyi", "alpha": 0.5, "num_samples": 1},
]


@pytest.mark.parametrize("loss", ONE_DRAW, ids=str)
def test_one_draw_is_the_monte_carlo_elbo_in_value_and_gradient(loss):
    """Of a prior whose divergence is not known, the elbo's is the estimate log q - log p of the same draw."""
    key, prior = make_key(2), Unknown()
    elbo, expected = gradients(linear_model("elbo", prior=prior), key)
    terms, got = gradients(linear_model(loss, prior=prior), key)
    for name in ("total", "reconstruction", "kl"):
        assert_close(getattr(terms, name), getattr(elbo, name), rtol=1e-12, atol=1e-12)
    for name, gradient in expected.items():
        assert_close(got[name], gradient, rtol=1e-10, atol=1e-12)


def test_of_one_draw_the_doubly_reparameterized_gradient_is_the_path_derivative():
    """With one draw every weight is 1: what is left out for the encoder is the gradient of log q in its parameters."""
    key = make_key(2)
    vae = linear_model({**DREG, "num_samples": 1})
    _, got = gradients(vae, key)
    vae.zero_grad()
    q = vae.encode(X)
    z, _ = q.rsample_kl(vae.prior, key=key)
    constant = torch.distributions.Normal(q.mu.detach(), torch.exp(q.logvar.detach() / 2))
    nll = -torch.distributions.Normal(vae.decoder(z)[:, 0], SIGMA).log_prob(X).sum(1)
    (nll + (constant.log_prob(z) + z * z / 2).sum(1)).mean().backward()
    for name, parameter in vae.named_parameters():
        assert_close(got[name], parameter.grad)


@pytest.mark.parametrize("gradient", ["reparameterized", "doubly_reparameterized"])
def test_it_is_the_bound_of_the_evaluation_with_the_same_draws(gradient):
    vae = linear_model({"name": "iwae", "num_samples": 7, "gradient": gradient})
    bound = importance_weighted_bound(vae, X, num_samples=7, seed=4)
    terms = vae(X, key=evaluation_key(4))
    assert_close(-terms.total.item(), bound.log_likelihood, rtol=1e-12, atol=0.0)
    assert_close(terms.extras["effective_sample_size"], bound.effective_sample_sizes, rtol=1e-10, atol=0.0)


def test_with_many_draws_it_is_the_exact_likelihood():
    vae = linear_model({"name": "iwae", "num_samples": 50_000})
    exact = exact_posterior_(vae).mean()
    with torch.no_grad():
        vae.encoder.head.weight[:2] *= 0.9
        vae.encoder.head.bias[2:] += 0.3
        terms = vae(X, key=make_key(0))
        errors = (1 / terms.extras["effective_sample_size"] - 1 / 50_000).sqrt()
    assert errors.max() < 0.01
    assert abs(-terms.total - exact) < 4 * errors.square().sum().sqrt() / len(X)


@pytest.mark.parametrize("loss", [*SEVERAL, {"name": "renyi", "alpha": 3.0}, {"name": "renyi", "alpha": -math.inf}], ids=str)
def test_with_the_exact_posterior_every_draw_gives_the_exact_likelihood(loss):
    vae = linear_model(loss)
    exact = exact_posterior_(vae)
    terms, got = gradients(vae, make_key(1))
    assert_close(-terms.total, exact.mean())
    assert_close(terms.reconstruction + terms.kl, -exact)
    if "effective_sample_size" in terms.extras:
        assert_close(
            terms.extras["effective_sample_size"],
            torch.full((6,), {"miwae": 3.0, "piwae": 6.0, "ciwae": 8.0}.get(loss["name"], 5.0)).double(),
        )
    if loss == DREG:  # nothing is left of its noise
        assert all(got[name].abs().max() < 1e-12 for name in got if name.startswith("encoder"))
        assert got["decoder.head.weight"].abs().max() > 0.01


def test_with_the_exact_posterior_the_plain_gradient_is_noise():
    vae = linear_model({"name": "iwae"})
    exact_posterior_(vae)
    assert gradients(vae, make_key(1))[1]["encoder.head.weight"].abs().max() > 0.01


@pytest.mark.parametrize(
    ("encoder_is", "condition"), [("good", None), ("bad", None), ("bad", {"name": "labels", "classes": 3})], ids=str
)
def test_the_doubly_reparameterized_gradient_has_the_mean_of_the_plain_one(encoder_is, condition):
    """For the decoder's weights and the prior's the two are the same; for the encoder's the same in the mean over the keys.

    With an encoder that is nearly right it has less variance, by far.
    """
    prior, told = Unknown(), {} if condition is None else {"condition": Y}
    plain, doubly = (linear_model(loss, condition, prior) for loss in ({"name": "iwae", "num_samples": 5}, DREG))
    if encoder_is == "good":
        for vae in (plain, doubly):
            exact_posterior_(vae)
    draws = {name: [] for name, _ in plain.named_parameters()}
    for seed in range(600):
        terms, a = gradients(plain, make_key(seed), **told)
        other, b = gradients(doubly, make_key(seed), **told)
        assert_close(other.total, terms.total, rtol=1e-13, atol=0.0)
        for name in a:
            draws[name].append((a[name], b[name]))
    for name, pairs in draws.items():
        a, b = (torch.stack(side) for side in zip(*pairs, strict=True))
        if name.startswith("encoder"):
            errors = (a - b).std(0) / math.sqrt(len(a))
            assert (errors > 0).any()
            assert ((a - b).mean(0).abs() <= 4 * errors).all(), name
            assert encoder_is == "bad" or b.var(0).sum() < 0.2 * a.var(0).sum(), name
        else:
            assert_close(b, a, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("loss", SEVERAL, ids=str)
def test_its_gradient_is_the_formulas(loss):
    """Against numerical derivatives; for the encoder DReG's and PIWAE's differ from them on purpose."""
    vae, key = linear_model(loss), make_key(3)
    _, got = gradients(vae, key)
    for name, parameter in vae.named_parameters():
        if loss in (DREG, PIWAE) and name.startswith("encoder"):
            continue
        flat, h = parameter.data.view(-1), 1e-5
        for i in range(0, len(flat), 3):
            values = []
            for step in (h, -2 * h):
                flat[i] += step
                values.append(vae(X, key=key).total.item())
            flat[i] += h
            assert_close(got[name].view(-1)[i].item(), (values[0] - values[1]) / (2 * h), rtol=1e-5, atol=1e-7)


def test_the_doubly_reparameterized_gradient_is_equation_8_term_by_term():
    vae, key = linear_model(DREG), make_key(3)
    _, got = gradients(vae, key)
    q = vae.encode(X)
    z, _ = q.rsample_kl(vae.prior, key=key, num_samples=5)
    constant = torch.distributions.Normal(q.mu.detach(), torch.exp(q.logvar.detach() / 2))
    log_w = torch.stack(
        [torch.distributions.Normal(vae.decoder(z_k)[:, 0], SIGMA).log_prob(X).sum(1) - (z_k * z_k / 2).sum(1) for z_k in z]
    ) - math.log(2 * math.pi) - constant.log_prob(z).sum(-1)  # fmt: skip
    squares = torch.softmax(log_w, 0).detach().square()
    (by_z,) = torch.autograd.grad((squares * log_w).sum(), z, retain_graph=True)
    expected = torch.autograd.grad(z, list(vae.encoder.parameters()), -by_z / len(X))
    for (name, _), gradient in zip(vae.encoder.named_parameters(), expected, strict=True):
        assert_close(got[f"encoder.{name}"], gradient)


def totals(loss, key=None, samples=6):
    vae = linear_model(loss)
    return vae(X, key=make_key(5) if key is None else key).total


def test_miwae_is_iwae_with_one_outer_draw_and_the_elbo_with_one_inner():
    assert_close(totals({"name": "miwae", "num_outer": 1, "num_samples": 6}), totals({"name": "iwae", "num_samples": 6}))
    terms = linear_model({"name": "miwae", "num_outer": 6, "num_samples": 1})(X, key=make_key(5))
    assert_close(terms.total, (terms.reconstruction + terms.kl).mean())
    assert_close(terms.total, totals({"name": "ciwae", "num_samples": 6, "beta": 1.0}))
    assert_close(terms.extras["effective_sample_size"], torch.ones(6, dtype=torch.float64))


def test_miwae_is_the_mean_of_bounds_of_draws_of_their_own():
    vae = linear_model({"name": "miwae", "num_outer": 3, "num_samples": 4})
    weights = log_weights(vae, make_key(5), 12)
    groups = [weights[4 * m : 4 * m + 4] for m in range(3)]
    terms = vae(X, key=make_key(5))
    assert_close(-terms.total, torch.stack([g.exp().mean(0).log() for g in groups]).mean())
    sizes = [g.exp().sum(0) ** 2 / g.exp().square().sum(0) for g in groups]
    assert_close(terms.extras["effective_sample_size"], torch.stack(sizes).mean(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("apart", [1.0, 10.0, 100.0], ids=["near", "far", "beyond rounding"])
def test_piwae_gives_the_encoder_the_gradient_of_miwae_and_the_rest_that_of_iwae(dtype, apart):
    """Wherever the weights lie: groups whose share of all of them is 0 to rounding still train the encoder."""
    got, of_encoder, of_the_rest = [], [], []
    for loss, kept in ((PIWAE, got), (MIWAE, of_encoder), ({"name": "iwae", "num_samples": 6}, of_the_rest)):
        vae = linear_model(loss, prior=Unknown()).to(dtype)
        vae.decoder.head.weight.data *= apart
        kept += gradients(vae, make_key(3), X.to(dtype))
        if apart == 100.0:
            groups = log_weights(vae, make_key(3), 6, X.to(dtype)).unflatten(0, (2, 3)).logsumexp(1)
            assert (groups[0] - groups[1]).abs().max() > 800.0
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    assert_close(got[0].total, of_the_rest[0].total, **near)
    assert_close(got[0].extras["encoder_bound"].mean(), of_encoder[0].total, **near)
    for name, gradient in got[1].items():
        expected = (of_encoder if name.startswith("encoder") else of_the_rest)[1][name]
        assert_close(gradient, expected, **near, msg=lambda m, n=name: f"{n}: {m}")
        other = (of_the_rest if name.startswith("encoder") else of_encoder)[1][name]
        assert (gradient - other).abs().max() > 1e-3, name


@pytest.mark.parametrize("groups", [(1, 6), (6, 1)])
def test_piwae_of_one_group_is_iwae_and_of_single_draws_has_the_elbo_for_its_encoder(groups):
    piwae = {"name": "piwae", "num_outer": groups[0], "num_samples": groups[1]}
    beta = 0.0 if groups[0] == 1 else 1.0
    (_, got), (_, expected) = (
        gradients(linear_model(loss), make_key(3)) for loss in (piwae, {"name": "ciwae", "num_samples": 6, "beta": beta})
    )
    for name in got:
        if name.startswith("encoder") or groups[0] == 1:
            assert_close(got[name], expected[name])


def test_ciwae_lies_between_its_ends_on_a_line():
    elbo, iwae = totals({"name": "renyi", "num_samples": 6, "alpha": 1}), totals({"name": "iwae", "num_samples": 6})
    assert elbo > iwae + 0.1
    for beta in (0.0, 0.25, 1.0):
        assert_close(totals({"name": "ciwae", "num_samples": 6, "beta": beta}), beta * elbo + (1 - beta) * iwae)
    scheduled = linear_model(
        {"name": "ciwae", "num_samples": 6, "beta": {"name": "linear", "steps": 4, "start": 1.0, "end": 0.0}}
    )
    assert_close(scheduled(X, key=make_key(5), step=1).total, 0.75 * elbo + 0.25 * iwae)
    assert_close(scheduled(X, key=make_key(5)).total, iwae)


def test_renyi_falls_from_the_largest_weight_over_iwae_and_the_elbo_to_the_smallest():
    alphas = [-math.inf, -1e6, -3.0, -0.5, 0.0, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 2.0, 50.0, 1e6, math.inf]
    bounds = torch.stack([-totals({"name": "renyi", "alpha": alpha, "num_samples": 6}) for alpha in alphas])
    assert (bounds.diff() <= 1e-12).all()
    vae = linear_model("elbo")
    weights = log_weights(vae, make_key(5), 6)
    assert_close(bounds[0], weights.max(0).values.mean())
    assert_close(bounds[-1], weights.min(0).values.mean())
    assert_close(bounds[4], -totals({"name": "iwae", "num_samples": 6}))
    assert_close(bounds[alphas.index(1.0)], weights.mean())
    assert_close(bounds[[6, 8]], weights.mean().expand(2), rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("alpha", [-7.0, -1.0, 0.0, 0.5, 1 - 1e-3, 1 - 1e-12, 1 + 1e-7, 1.5, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_renyi_is_right_to_rounding_close_to_1_as_well(alpha, dtype):
    weights = (torch.randn(9, dtype=torch.float64) * 20.0 - 300.0).to(dtype).requires_grad_()
    bound = renyi_bound(weights, alpha)
    (gradient,) = torch.autograd.grad(bound, weights)
    with mpmath.workdps(60):
        power = 1 - mpmath.mpf(alpha)
        terms = [mpmath.exp(power * mpmath.mpf(w)) for w in weights.detach().tolist()]
        exact = mpmath.log(mpmath.fsum(terms) / 9) / power
        shares = torch.tensor([float(t / mpmath.fsum(terms)) for t in terms], dtype=dtype)
    eps = torch.finfo(dtype).eps
    assert abs(bound.item() - float(exact)) < 20 * eps * 300
    assert_close(gradient, shares, rtol=1e3 * eps, atol=20 * eps)


def test_on_average_over_subsets_of_one_set_of_draws_the_bound_rises_with_their_number():
    vae, total = linear_model("elbo"), 7
    weights = log_weights(vae, make_key(5), total)
    bounds = []
    for k in range(1, total + 1):
        subsets = [list(s) for s in itertools.combinations(range(total), k)]
        bounds.append(torch.stack([renyi_bound(weights[s], 0.0) for s in subsets]).mean(0))
    assert (torch.stack(bounds).diff(dim=0) > 0).all()
    assert_close(-totals({"name": "iwae", "num_samples": total}), bounds[-1].mean())


def test_the_elbo_of_several_draws_is_their_mean():
    several = linear_model({"name": "elbo", "beta": 3.0, "num_samples": 4})
    key = make_key(5)
    each = [linear_model({"name": "elbo", "beta": 3.0})(X, key=key + torch.tensor([0, k * 2**40])) for k in range(4)]
    terms = several(X, key=key)
    assert_close(terms.reconstruction, torch.stack([e.reconstruction for e in each]).mean(0))
    assert torch.equal(terms.kl, each[0].kl)
    assert_close(terms.total, torch.stack([e.total for e in each]).mean())
    several.prior = Unknown()
    z, ratios = several.encode(X).rsample_log_ratio(several.prior, key=key, num_samples=4)
    assert_close(several(X, key=key).kl, ratios.mean(0))


@pytest.mark.parametrize("condition", [{"name": "labels", "classes": 3}, {"name": "vector", "size": 6}], ids=str)
@pytest.mark.parametrize("loss", [*SEVERAL, {"name": "elbo", "num_samples": 3}], ids=str)
def test_of_a_conditional_model_every_draw_is_told_the_condition_of_its_own_example(loss, condition):
    """The vectors are as long as the batch, so that one vector for all could be taken for a number for each."""
    vae, key = linear_model(loss, condition), make_key(1)
    told = Y if condition["name"] == "labels" else torch.randn(6, 6, dtype=torch.float64)
    terms = vae(X, told, key=key)
    for row in range(len(X)):
        alone = vae(X[row : row + 1], told[row : row + 1], key=key, row_start=row)
        for name in ("reconstruction", "kl"):
            assert_close(getattr(terms, name)[row : row + 1], getattr(alone, name))
    assert (vae(X, told.roll(1, 0), key=key).reconstruction != terms.reconstruction).all()
    assert_close(vae(X, told[1], key=key).total, vae(X, told[1].expand(6, *told[1].shape), key=key).total)


@pytest.mark.parametrize("loss", [*SEVERAL, "free_bits", "capacity", {"name": "elbo", "num_samples": 3}], ids=str)
def test_figures_of_a_dataset_do_not_depend_on_its_batches(loss):
    vae = linear_model(loss)
    whole, parts = (vaekit.evaluate(vae, X, batch_size=size) for size in (6, 4))
    for name in whole.keys() - ({"loss", "paid_kl"} if loss == "free_bits" else set()):
        assert parts[name] == pytest.approx(whole[name], rel=1e-12), name


@pytest.mark.parametrize("loss", SEVERAL, ids=str)
def test_missing_values_are_left_out_of_every_draw(loss):
    """Against a model of the observed elements alone: its decoder has no rows for the others, and its encoder sees 0 there."""
    vae, x, observed = linear_model(loss), X.clone(), [0, 2, 3]
    vae.likelihood = vaekit.likelihoods.Gaussian(sigma=SIGMA, missing="ignore")
    x[:, [1, 4]] = torch.nan
    terms, got = gradients(vae, make_key(1), x)
    part = vaekit.create_vae(
        input_shape=(3,), latent_dim=2, encoder=LINEAR, decoder=LINEAR, loss=loss, likelihood={"name": "gaussian", "sigma": SIGMA}
    ).double()  # fmt: skip
    with torch.no_grad():
        part.encoder.head.weight.copy_(vae.encoder.head.weight[:, observed])
        part.encoder.head.bias.copy_(vae.encoder.head.bias)
        part.decoder.head.weight.copy_(vae.decoder.head.weight[observed])
        part.decoder.head.bias.copy_(vae.decoder.head.bias[observed])
    expected, gradient = gradients(part, make_key(1), x[:, observed])
    for name in ("total", "reconstruction", "kl"):
        assert_close(getattr(terms, name), getattr(expected, name))
    assert_close(got["encoder.head.weight"][:, observed], gradient["encoder.head.weight"])
    assert (got["decoder.head.weight"][[1, 4]] == 0).all()


def test_effective_sample_sizes_lie_between_1_and_k():
    for weights, size in (([0.0, 0.0, 0.0], 3.0), ([0.0, -1e4, -1e4], 1.0), ([1e4, 1e4, -1e4], 2.0)):
        assert_close(effective_sample_size(torch.tensor(weights)), torch.tensor(size))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"name": "iwae", "num_samples": 0}, "num_samples has to be a whole number of at least 1"),
        ({"name": "iwae", "gradient": "dreg"}, "gradient has to be .* got 'dreg'"),
        ({"name": "miwae", "num_outer": 1.5}, "num_outer has to be a whole number"),
        ({"name": "ciwae", "beta": 1.5}, "beta has to be between 0 and 1, got 1.5"),
        ({"name": "renyi", "alpha": math.nan}, "alpha has to be a number, -inf or inf"),
        ({"name": "elbo", "num_samples": -1}, "num_samples has to be a whole number"),
        ({"name": "elbo", "beta": -1.0}, "beta has to be at least 0, got -1.0"),
    ],
)
def test_options_that_make_no_objective_are_refused(loss, message):
    with pytest.raises(ValueError, match=message):
        linear_model(loss)
    with pytest.raises(TypeError, match="alpha has to be a number"):
        linear_model({"name": "renyi", "alpha": "large"})


@pytest.mark.parametrize("alpha", [-math.inf, math.inf])
def test_an_infinite_alpha_can_be_written_down(alpha, tmp_path):
    """As the command gives it, and in a file that every JSON parser reads."""
    by_number, by_word = (linear_model({"name": "renyi", "alpha": given}) for given in (alpha, str(alpha)))
    assert by_word.loss.alpha == alpha
    for model in (by_number, by_word):
        text = (model.save(tmp_path) / "config.json").read_text()
        json.loads(text, parse_constant=pytest.fail)
        assert vaekit.load(tmp_path).loss.alpha == alpha


# In every precision, compiled, and of nothing: all objectives of this package.

ALL = [*SEVERAL, "elbo", {"name": "elbo", "num_samples": 3}, "free_bits", "capacity"]


@pytest.mark.compile
@pytest.mark.parametrize("loss", ALL, ids=str)
def test_it_compiles_in_one_graph(loss):
    vae, key = linear_model(loss, {"name": "labels", "classes": 3}), make_key(0)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, y, key: vae(x, y, key=key).total, fullgraph=True, backend="aot_eager")
    terms, expected = gradients(vae, key, condition=Y)
    vae.zero_grad()
    total = compiled(X, Y, key)
    total.backward()
    assert_close(total, terms.total)
    for name, parameter in vae.named_parameters():
        assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_under_autocast_it_is_what_it_is_in_single_precision(loss):
    vae, key = linear_model(loss).float(), make_key(0)
    terms, expected = gradients(vae, key, X.float())
    vae.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        low = vae(X.float(), key=key)
    low.total.backward()
    assert low.total.dtype == low.reconstruction.dtype == low.kl.dtype == torch.float32
    assert_close(low.total, terms.total, rtol=0.03, atol=0.1)
    for name, parameter in vae.named_parameters():
        scale = expected[name].abs().max()
        assert_close(parameter.grad, expected[name], rtol=0.0, atol=float(0.1 * scale) + 0.05, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("loss", [*ALL, {"name": "capacity", "per": "batch"}, {"name": "renyi", "alpha": math.inf}], ids=str)
def test_of_no_examples_the_total_is_0(loss):
    vae = linear_model(loss)
    terms, got = gradients(vae, make_key(0), X[:0])
    assert terms.total == 0
    assert terms.reconstruction.shape == terms.kl.shape == (0,)
    assert all((gradient == 0).all() for gradient in got.values())


@pytest.mark.parametrize("loss", ALL, ids=str)
def test_saved_and_loaded_it_has_the_same_options(loss, tmp_path):
    vae = linear_model(loss)
    again = vaekit.load(vae.save(tmp_path))
    assert again.config()["loss"] == vae.config()["loss"]
    assert torch.equal(again(X, key=make_key(0)).total, vae(X, key=make_key(0)).total)


@pytest.mark.parametrize("loss", [*SEVERAL, "free_bits", {"name": "capacity", "capacity": 2.0, "gamma": 5.0}], ids=str)
def test_training_lowers_it(loss):
    vae = linear_model(loss).float()
    history = vaekit.fit(vae, X.float().repeat(20, 1), epochs=5, batch_size=20, learning_rate=1e-2, progress=False)
    assert history["loss"][-1] < history["loss"][0]
