"""The three parts of the divergence: against an aggregate posterior that is a mixture of few, and q(z) by every minibatch."""

import itertools
import math

import pytest
import torch
from helpers.memory import largest_tensor
from helpers.strangers import OtherPosterior, OtherPrior
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close

import vaekit
from vaekit.losses import BetaTC
from vaekit.losses.total_correlation import log_aggregate, log_weights
from vaekit.ops import pairwise
from vaekit.schedules import Linear

N = 5
TERMS = ["mutual_information", "total_correlation", "dimensionwise_kl"]


def model(loss="beta_tc", latent_dim=2, **options):
    """A model in float64 whose posteriors overlap and are correlated over the dataset."""
    encoder = {"name": "mlp", "hidden": ()}
    vae = vaekit.create_vae(
        input_shape=(6,), latent_dim=latent_dim, loss=loss, likelihood="gaussian", encoder=encoder, seed=0, **options
    ).double()
    with torch.no_grad():
        vae.encoder.head.weight.mul_(2.0)
    return vae


def dataset(n=N):
    return torch.randn(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def aggregate(mu, logvar):
    """q(z) = 1/N sum_n q(z | x_n), and its marginals, by torch."""
    index = Categorical(torch.ones(len(mu), dtype=mu.dtype))
    sigma = (0.5 * logvar).exp()
    joint = MixtureSameFamily(index, Independent(Normal(mu, sigma), 1))
    return joint, [MixtureSameFamily(index, Normal(mu[:, d], sigma[:, d])) for d in range(mu.shape[1])]


def log_densities(mu, logvar, z):
    """log q(z) and sum_d log q(z_d), exactly: [B], [B]."""
    joint, marginals = aggregate(mu, logvar)
    return joint.log_prob(z), sum(marginal.log_prob(z[:, d]) for d, marginal in enumerate(marginals))


def drawn(rows, latents, dtype=torch.float64):
    mu, logvar, eps = torch.randn(3, rows, latents, dtype=dtype).unbind()
    return mu, logvar - 1.0, eps, mu + (0.5 * (logvar - 1.0)).exp() * eps


# The terms.


def test_of_the_whole_dataset_the_stratified_terms_are_exact():
    vae, x, key = model(), dataset(), vaekit.make_key(7)
    terms, q = vae(x, key=key, dataset_size=N), vae.encode(x)
    z, kl = vaekit.reparameterize_kl(q.mu, q.logvar, key=key)
    log_joint, log_marginals = log_densities(q.mu, q.logvar, z)
    expected = q.log_prob(z) - log_joint, log_joint - log_marginals, log_marginals - vae.prior.log_prob(z)
    for name, term in zip(TERMS, expected, strict=True):
        assert_close(terms.extras[name], term.mean(), rtol=1e-11, atol=1e-11)
    assert_close(terms.kl, kl)
    assert_close(terms.reconstruction, vaekit.Elbo()(vae, vaekit.Batch(x), vaekit.StepContext(key)).reconstruction)


def test_their_means_over_the_noise_are_the_divergences_by_quadrature():
    vae, x = model(), dataset()
    with torch.no_grad():
        q = vae.encode(x)
        extras = [vae(x, key=vaekit.make_key(seed), dataset_size=N).extras for seed in range(2000)]
        axis = torch.linspace(-25.0, 25.0, 1001, dtype=torch.float64)
        joint, marginals = aggregate(q.mu, q.logvar)
        grid = torch.cartesian_prod(axis, axis)
        cell, log_joint = (axis[1] - axis[0]) ** 2, joint.log_prob(grid)
        log_product = marginals[0].log_prob(grid[:, 0]) + marginals[1].log_prob(grid[:, 1])
        mass = log_joint.exp() * cell
        assert_close(mass.sum().item(), 1.0, rtol=1e-6, atol=0.0)
        total_correlation = (mass * (log_joint - log_product)).sum()
        dimensionwise_kl = (mass * (log_product - vae.prior.log_prob(grid))).sum()
        _, kl = vaekit.reparameterize_kl(q.mu, q.logvar)
    exact = {"total_correlation": total_correlation, "dimensionwise_kl": dimensionwise_kl}
    exact["mutual_information"] = kl.mean() - total_correlation - dimensionwise_kl
    assert exact["total_correlation"] > 0.05
    for name in TERMS:
        draws = torch.stack([extra[name] for extra in extras])
        assert abs(draws.mean() - exact[name]) < 4 * draws.std() / math.sqrt(len(draws)), name


@pytest.mark.parametrize("row_start", [0, 3])
@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_with_all_weights_one_it_is_the_elbo_with_a_divergence_of_the_draw(sampling, row_start):
    vae, x, key = model({"name": "beta_tc", "beta": 1.0, "sampling": sampling}, latent_dim=4), dataset(9), vaekit.make_key(2)
    terms, q = vae(x, key=key, dataset_size=50, row_start=row_start), vae.encode(x)
    z, _ = vaekit.reparameterize_kl(q.mu, q.logvar, key=key, row_start=row_start)
    expected = (terms.reconstruction + q.log_prob(z) - vae.prior.log_prob(z)).mean()
    assert_close(terms.total, expected, rtol=1e-11, atol=0.0)
    ours = torch.autograd.grad(terms.total, list(vae.parameters()), retain_graph=True)
    for gradient, right in zip(ours, torch.autograd.grad(expected, list(vae.parameters())), strict=True):
        assert_close(gradient, right, rtol=1e-9, atol=1e-10)


def test_weights_weigh_the_total_follow_the_step_and_leave_the_terms_alone():
    vae, x, key = model(), dataset(), vaekit.make_key(2)
    loss = BetaTC(alpha=0.5, beta=Linear(start=1.0, end=9.0, steps=10), gamma={"name": "constant", "value": 2.0})
    for step, beta in ((0, 1.0), (5, 5.0), (None, 9.0)):
        terms = loss(vae, vaekit.Batch(x), vaekit.StepContext(key, step, dataset_size=20))
        information, correlation, dimensionwise = (terms.extras[name] for name in TERMS)
        expected = terms.reconstruction.mean() + 0.5 * information + beta * correlation + 2.0 * dimensionwise
        assert_close(terms.total, expected)


# The weights of a minibatch.


@pytest.mark.parametrize("latents", [1, 3])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_over_all_minibatches_the_stratified_density_is_the_aggregate_posteriors(size, latents):
    """With one latent the marginals are seen too."""
    mu, logvar, eps, z = drawn(N, latents)
    right = aggregate(mu, logvar)[0].log_prob(z).exp()
    for example in range(N):
        estimates = []
        for others in itertools.combinations([n for n in range(N) if n != example], size - 1):
            for place in range(size):  # wherever it stands in the batch
                batch = [*others[:place], example, *others[place:]]
                joint, marginals = log_aggregate(mu[batch], logvar[batch], eps[batch], *log_weights("stratified", size, N))
                estimates.append(joint[place].exp())
                if latents == 1:
                    assert_close(marginals[place], joint[place])
        assert_close(torch.stack(estimates).mean(), right[example], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_the_weighted_density_is_the_sum_over_the_batch_by_the_sizes_of_both(size):
    mu, logvar, eps, z = drawn(size, 3)
    joint, marginals = log_aggregate(mu, logvar, eps, *log_weights("weighted", size, N))
    of_batch = log_densities(mu, logvar, z)  # 1/M sum
    assert_close(joint, of_batch[0] - math.log(N))
    assert_close(marginals, of_batch[1] - 3 * math.log(N))


@pytest.mark.parametrize(("size", "of"), [(2, 2), (2, 9), (3, 9), (8, 9), (9, 9), (1, 1), (1, 9)])
def test_stratified_weights_add_up_to_one_and_are_the_papers_on_average(size, of):
    own, other = (math.exp(w) for w in log_weights("stratified", size, of))
    assert own + (size - 1) * other == pytest.approx(1.0, rel=1e-14)
    if size > 1:
        m = size - 1  # appendix C.2: 1/N, M - 1 times 1/M, and (N - M) / (N M) for one of the others, whichever
        assert own == pytest.approx(1 / of)
        assert other == pytest.approx(((m - 1) / m + (of - m) / (of * m)) / m)


@pytest.mark.parametrize("sampling", ["stratified", "weighted"])
def test_a_batch_of_one(sampling):
    vae = model({"name": "beta_tc", "sampling": sampling})
    terms = vae(dataset(1), dataset_size=20)
    seen = 0.0 if sampling == "stratified" else math.log(20)
    assert_close(terms.extras["mutual_information"].item(), seen)
    assert_close(terms.extras["total_correlation"].item(), seen)


def test_its_own_dataset_size_counts_and_fit_and_evaluate_tell_the_datas():
    x, key = dataset(), vaekit.make_key(2)
    told = model({"name": "beta_tc", "dataset_size": 20})(x, key=key)
    assert_close(told.total, model()(x, key=key, dataset_size=20).total)
    vae = model()
    evaluated = vaekit.evaluate(vae, x, batch_size=N)
    expected = vae(x, key=vaekit.evaluation.terms.evaluation_key(0), dataset_size=N)
    assert evaluated["total_correlation"] == pytest.approx(expected.extras["total_correlation"].item())
    assert evaluated["loss"] == pytest.approx(expected.total.item())
    history = vaekit.fit(vae, x, validation=x, epochs=1, batch_size=3, progress=False)
    assert {*TERMS, *(f"val_{name}" for name in TERMS)} <= set(history)


def test_conditional_models_and_spatial_latents_have_it():
    vae = vaekit.create_vae(input_shape=(6,), latent_dim=2, loss="beta_tc", condition={"name": "labels", "classes": 3})
    assert vae(torch.rand(4, 6), torch.tensor([0, 1, 2, 0]), dataset_size=9).total.isfinite()
    encoder, decoder = {"name": "conv", "channels": (4,), "spatial": True}, {"name": "conv", "channels": (4,)}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, loss="beta_tc", encoder=encoder, decoder=decoder)
    assert vae(torch.rand(4, 1, 8, 8), dataset_size=9).extras["total_correlation"].isfinite()


# Its arithmetic.


@pytest.mark.parametrize("elements", [1, 40, 1 << 20], ids=["row by row", "blocks", "at once"])
def test_gradients_are_those_of_differences_and_blocks_change_nothing(elements, monkeypatch):
    mu, logvar, eps, z = drawn(6, 3)
    expected = log_densities(mu, logvar, z)
    monkeypatch.setattr(pairwise, "_ELEMENTS_AT_ONCE", elements)
    for total, right in zip(log_aggregate(mu, logvar, eps, -math.log(6), -math.log(6)), expected, strict=True):
        assert_close(total, right, rtol=1e-12, atol=1e-12)
    mu.requires_grad_(), logvar.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: log_aggregate(m, s, eps, -2.0, -0.7), (mu, logvar))


@pytest.mark.parametrize("logvar", [-30.0, -20.0, -8.0, 0.0])
def test_float32_is_right_where_sigma_is_far_below_the_means(logvar):
    mu = torch.randn(200, 8)
    mu[100:] = mu[:100] + math.exp(0.5 * logvar) * torch.randn(100, 8)  # posteriors that overlap in pairs
    eps, weights = torch.randn(200, 8), log_weights("stratified", 200, 5000)
    s = torch.full_like(mu, logvar) + 0.1 * torch.randn(200, 8)
    ours = log_aggregate(mu, s, eps, *weights)
    wide = [t.double() for t in (mu, s, eps)]
    for single, double in zip(ours, log_aggregate(*wide, *weights), strict=True):
        assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_no_tensor_of_every_pair_and_latent_is_ever_there():
    rows, latents = 1024, 64
    x = torch.randn(rows, 3)
    assert largest_tensor("beta_tc", rows, latents, torch.float32, x) <= rows * rows < rows * rows * latents


@pytest.mark.compile
def test_it_is_one_graph():
    vae, x, key = model(), dataset(), vaekit.make_key(1)
    compiled = torch.compile(vae, fullgraph=True, backend="aot_eager")
    total, expected = compiled(x, key=key, dataset_size=20).total, vae(x, key=key, dataset_size=20).total
    assert_close(total, expected)
    weights = list(vae.parameters())
    for ours, right in zip(torch.autograd.grad(total, weights), torch.autograd.grad(expected, weights), strict=True):
        assert_close(ours, right)


# What does not fit.


def test_pairs_that_do_not_fit_are_refused_by_name():
    with pytest.raises(TypeError, match=r"beta_tc needs a prior whose latents are independent.* has a OtherPrior"):
        model(prior=OtherPrior())(dataset(), dataset_size=N)
    vae = model()
    vae.encoder.forward = lambda x: OtherPosterior(x[:, :2])
    with pytest.raises(TypeError, match=r"density of each latent by itself.*gives a OtherPosterior"):
        vae(dataset(), dataset_size=N)


def test_a_dataset_of_unknown_or_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match=r"needs the number of examples .*vae\(x, dataset_size=\.\.\.\)"):
        model()(dataset())
    stream = [dataset()]
    with pytest.raises(ValueError, match=r"the data does not tell it"):
        vaekit.fit(model(), stream, epochs=1, progress=False)
    with pytest.raises(ValueError, match="a batch of 5 examples is no part of a dataset of 4"):
        model()(dataset(), dataset_size=4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sampling": "mss"}, ValueError, "sampling has to be one of 'stratified', 'weighted', got 'mss'"),
        ({"beta": -1.0}, ValueError, "beta has to be at least 0, got -1.0"),
        (
            {"alpha": {"name": "linear", "steps": 5, "start": 1.0, "end": -2.0}},
            ValueError,
            "alpha has to be at least 0, got .*-2.0",
        ),
        ({"gamma": "high"}, TypeError, "expected a number, a Schedule"),
        ({"dataset_size": 0}, ValueError, "dataset_size has to be a whole number of at least 1"),
    ],
)
def test_options_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        BetaTC(**options)


# pythae (C. Chadebec et al., 2022, arXiv:2206.08309), `pip install pythae==0.1.2`.


def pythae_model(**options):
    pythae = pytest.importorskip("pythae.models", reason="pythae is not installed: pip install pythae==0.1.2")
    return pythae.BetaTCVAE(pythae.BetaTCVAEConfig(input_dim=(6,), latent_dim=2, reconstruction_loss="mse", **options)).double()


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.3, 6.0, 2.0)])
def test_weighted_sampling_is_pythaes_in_value_and_gradient(weights):
    options = dict(zip(("alpha", "beta", "gamma"), weights, strict=True))
    vae, x, key = model({"name": "beta_tc", "sampling": "weighted", **options}), dataset(), vaekit.make_key(4)
    terms, q = vae(x, key=key, dataset_size=40), vae.encode(x)
    z, _ = vaekit.reparameterize_kl(q.mu, q.logvar, key=key)
    theirs = pythae_model(use_mss=False, **options).loss_function(vae.decode(z), x, q.mu, q.logvar, z, 40)[0]
    assert_close(
        terms.total, theirs + 3 * math.log(2 * math.pi), rtol=1e-7, atol=0.0
    )  # their "mse" has no constant, and others are float32
    parameters = list(vae.parameters())
    for ours, right in zip(torch.autograd.grad(terms.total, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        assert_close(ours, right, rtol=1e-9, atol=1e-10)


def test_stratified_sampling_is_right_where_pythaes_weights_are_misplaced():
    """Its 1/N, for the example that z was drawn for, is in the first column, not on the diagonal: q(z) is not its mean.

    So it is in the paper's own code, from which it was taken, and in others (disentangling-vae, issues 54 and 58).
    """
    size = 3
    theirs = pythae_model()._log_importance_weight_matrix(size, N).double()
    assert not torch.allclose(theirs.exp().diagonal(), torch.tensor(1 / N, dtype=torch.float64))
    mu, logvar, eps, z = drawn(N, 2)
    mu = 3.0 * mu
    z = mu + (0.5 * logvar).exp() * eps
    right = aggregate(mu, logvar)[0].log_prob(z).exp()
    wrong, ours = torch.zeros(N, dtype=z.dtype), torch.zeros(N, dtype=z.dtype)
    batches = list(itertools.permutations(range(N), size))
    for batch in map(list, batches):
        pairs = Independent(Normal(mu[batch], (0.5 * logvar[batch]).exp()), 1).log_prob(z[batch][:, None])
        wrong[batch] += (pairs + theirs).logsumexp(1).exp()
        ours[batch] += log_aggregate(mu[batch], logvar[batch], eps[batch], *log_weights("stratified", size, N))[0].exp()
    seen = len(batches) * size / N
    assert_close(ours / seen, right, rtol=1e-12, atol=0.0)
    assert ((wrong / seen - right).abs() > 0.2 * right).any()
