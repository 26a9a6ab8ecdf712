"""Priors that draw one code after the other: their laws, their draws, and what they learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

import vaekit
from vaekit.evaluation import fitted_codes

SMALL = {
    "autoregressive_codes": {"width": 8, "layers": 2, "heads": 2},
    "pixel_cnn": {"width": 8, "layers": 3},
}
EACH = pytest.mark.parametrize("name", SMALL)
LABELS = {"name": "labels", "classes": 3}
SEVERAL = {"name": "vector_quantized", "codes": 4, "heads": 3}


def model(name, codes=4, condition=None, posterior=None, prior_condition=None, dtype=torch.float64, size=8):
    """One whose prior is far from uniform: its weights are drawn large."""
    vae = vaekit.create_vae(
        input_shape=(1, size, 8), latent_dim=3, encoder={"name": "conv", "channels": (4, 4), "spatial": True},
        decoder={"name": "conv", "channels": (4, 4)}, loss="vector_quantized", condition=condition, seed=0,
        posterior=posterior or {"name": "vector_quantized", "codes": codes},
        prior={"name": name, **SMALL[name], "condition": prior_condition},
    ).to(dtype)  # fmt: skip
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in vae.prior.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return vae.eval()


def every_code(vae):
    family = vae.encoder.family
    codes = itertools.product(range(family.codes), repeat=math.prod(family.code_shape))
    return torch.tensor(list(codes)).reshape(-1, *family.code_shape)


@EACH
def test_probabilities_of_all_codes_sum_to_1(name):
    vae = model(name)
    log_p = vae.prior.log_prob_of(every_code(vae), torch.float64)
    assert float(log_p.exp().sum().detach()) == pytest.approx(1.0, rel=1e-12)
    assert log_p.std() > 0.5


@EACH
def test_each_code_depends_on_all_before_it_and_on_none_after(name):
    vae = model(name, codes=5, size=12)
    tokens = torch.randint(5, (20, 6), generator=torch.Generator().manual_seed(0))
    before = vae.prior.logits(tokens, None)
    for place in range(6):
        other = tokens.clone()
        other[:, place] = (other[:, place] + 1) % 5
        changed = (vae.prior.logits(other, None) - before).abs().amax((0, 2)) > 1e-12
        assert changed.tolist() == [later > place for later in range(6)]


@EACH
def test_draws_have_the_probabilities(name):
    vae = model(name, codes=3)
    every = every_code(vae)
    expected = vae.prior.log_prob_of(every, torch.float64).exp().detach().numpy()
    drawn = vae.prior.sample_indices(20_000, key=vaekit.make_key(0), dtype=torch.float64)
    assert drawn.shape == (20_000, 2, 2)
    place = torch.tensor([27, 9, 3, 1])
    counts = np.bincount((drawn.flatten(1) * place).sum(1), minlength=81)
    often = 20_000 * expected > 5
    observed, wanted = np.append(counts[often], counts[~often].sum()), np.append(expected[often], expected[~often].sum())
    assert stats.chisquare(observed[wanted > 0], 20_000 * wanted[wanted > 0]).pvalue > 1e-3


@EACH
def test_draws_are_a_function_of_the_key_and_the_first_of_many_are_the_few(name):
    prior, key = model(name).prior, vaekit.make_key(0)
    few, many, later = (prior.sample_indices(n, key=key, dtype=torch.float64, row_start=r) for n, r in ((5, 0), (300, 0), (4, 7)))
    assert torch.equal(few, many[:5])
    assert torch.equal(later, many[7:11])
    assert not torch.equal(few, prior.sample_indices(5, key=vaekit.make_key(1), dtype=torch.float64))
    assert prior.sample_indices(0, key=key).shape == (0, 2, 2)


def test_a_draw_with_kept_keys_and_values_is_the_one_without():
    prior = model("autoregressive_codes", codes=7).prior
    drawn = prior.in_order(prior.sample_indices(50, key=vaekit.make_key(0), dtype=torch.float64))
    u = vaekit.ops.philox.uniform(vaekit.make_key(0), (50, 4), torch.float64, 0)
    below = prior.logits(drawn, None).softmax(-1).cumsum(-1)
    slow = (u.unsqueeze(-1) >= below).sum(-1)
    assert torch.equal(drawn, slow)


def test_several_codes_of_a_position_stand_beside_each_other():
    prior = model("autoregressive_codes", posterior=SEVERAL).prior
    indices = torch.randint(4, (5, 3, 2, 2))
    tokens = prior.in_order(indices)
    assert torch.equal(tokens[:, :3], indices[:, :, 0, 0])
    assert torch.equal(prior.in_places(tokens), indices)
    with pytest.raises(ValueError, match="one code at each position of a grid, got codes of the shape"):
        model("pixel_cnn", posterior=SEVERAL)


@EACH
def test_the_divergence_is_minus_log_p_and_trains_the_prior_alone(name):
    vae, x = model(name), torch.rand(6, 1, 8, 8, dtype=torch.float64)
    terms = vae(x)
    assert_close(terms.kl, -vae.prior.log_prob_of(vae.indices(x), torch.float64))
    rest = terms.reconstruction + 0.25 * terms.extras["commitment"]
    assert_close(terms.total, (rest + terms.kl).mean())
    reached = {
        path.partition(".")[0]
        for path, weight in vae.named_parameters()
        if torch.autograd.grad(terms.kl.sum(), weight, allow_unused=True, retain_graph=True)[0] is not None
    }
    assert reached == {"prior"}


@EACH
def test_a_prior_that_is_told_labels_learns_what_they_mean(name, tmp_path):
    """Codes that only the label says: told, they cost nothing; and draws for a label have its code."""
    vae = model(name, codes=3, dtype=torch.float32)
    x = torch.zeros(3, 1, 8, 8)
    x[1, :, :4], x[2] = 1.0, 1.0
    family = vae.encoder.family
    with torch.no_grad():
        encoded = vae.encode(x).encoded
        family.codebook.copy_(encoded[:, :, 0, 0])
    labels = torch.arange(60) % 3
    spec = {"name": name, **SMALL[name], "condition": LABELS, "dropout": 0.0}
    prior = vaekit.fit_prior(vae, (x[labels], labels), spec, epochs=60, batch_size=20, learning_rate=2e-2, progress=False)
    codes = vae.indices(x)
    assert len(codes.flatten(1).unique(dim=0)) == 3
    log_p = prior.given(torch.arange(3), 3).log_prob_of(codes)
    assert (log_p > -0.1).all()
    assert (prior.given(torch.tensor([1, 2, 0]), 3).log_prob_of(codes) < -1.0).all()
    drawn = vae.sample(30, torch.arange(30) % 3, prior=prior, key=vaekit.make_key(0))
    expected = vae.decode_codes(codes).detach()[torch.arange(30) % 3]
    assert (drawn - expected).abs().flatten(1).amax(1).lt(1e-6).float().mean() > 0.9
    with pytest.raises(ValueError, match="no condition was given"):
        vae.sample(3, prior=prior)
    with pytest.raises(ValueError, match="train: the prior is told a condition: give the condition of each example"):
        vaekit.fit_prior(vae, x, spec, epochs=1)


def test_a_model_that_is_told_labels_tells_its_prior(tmp_path):
    vae, x, y = (
        model("autoregressive_codes", condition=LABELS, prior_condition=LABELS),
        torch.rand(6, 1, 8, 8),
        torch.arange(6) % 3,
    )
    terms = vae(x.double(), y)
    expected = [
        -vae.prior.given(label, 1).log_prob_of(vae.indices(row.double(), label), torch.float64)
        for row, label in zip(x.split(1), y.split(1), strict=True)
    ]
    assert_close(terms.kl, torch.cat(expected))
    bound = vaekit.evaluation.importance_weighted_bound(vae, (x.double(), y), num_samples=4, at_once=8)
    assert_close(bound.per_example, -(terms.reconstruction + terms.kl).detach())
    again, key = vaekit.load(vae.save(tmp_path)), vaekit.make_key(0)
    assert torch.equal(again.sample(4, 1, key=key), vae.sample(4, 1, key=key))
    assert not torch.equal(vae.sample(4, 2, key=key), vae.sample(4, 1, key=key))


# Fitted afterwards.


def stripes(count):
    """Pictures of which every row is all 0 or all 1: places of a row have the same code."""
    rows = torch.randint(2, (count, 1, 2, 1), generator=torch.Generator().manual_seed(0)).float()
    return rows.expand(count, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3).contiguous()


def on_off(name="codes"):
    """A model with a code for white and one for black."""
    vae = model("autoregressive_codes", codes=2, dtype=torch.float32)
    with torch.no_grad():
        encoded = vae.encode(torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])).encoded
        vae.encoder.family.codebook.copy_(encoded[:, :, 0, 0])
    return vae


@EACH
def test_a_fitted_prior_knows_which_codes_go_together(name):
    vae, x = on_off(), stripes(200)
    before = {path: weight.clone() for path, weight in vae.state_dict().items()}
    prior = vaekit.fit_prior(vae, x, {"name": name, **SMALL[name]}, epochs=30, batch_size=20, learning_rate=1e-2, progress=False)
    assert not prior.training
    nats = -float(prior.log_prob_of(vae.indices(x)).detach().mean())
    assert 2 * math.log(2) - 0.05 < nats < 2 * math.log(2) + 0.2  # a bit for each of two rows
    assert -float(fitted_codes(vae, x).log_prob_of(vae.indices(x)).mean()) > 4 * math.log(2) - 0.1
    drawn = prior.sample_indices(200, key=vaekit.make_key(0))
    assert (drawn[:, :, 0] == drawn[:, :, 1]).float().mean() > 0.97
    assert all(torch.equal(weight, before[path]) for path, weight in vae.state_dict().items())


def test_a_fit_is_a_function_of_its_seed_and_leaves_the_global_generator():
    vae, x = on_off(), stripes(40)
    spec = {"name": "autoregressive_codes", **SMALL["autoregressive_codes"]}
    state = torch.random.get_rng_state()
    first, again, other = (vaekit.fit_prior(vae, x, spec, epochs=2, seed=seed, progress=False).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[path], again[path]) for path in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_what_is_held_out_says_which_epoch_is_kept():
    vae, x = on_off(), stripes(60)
    held = 1.0 - x[:5]  # learned by heart, the rest is worth nothing here
    spec = {"name": "autoregressive_codes", "width": 32, "layers": 2, "dropout": 0.0}
    options = {"progress": False, "epochs": 20, "batch_size": 5, "learning_rate": 1e-2}
    x = x[:5]
    last, best = (vaekit.fit_prior(vae, x, spec, validation=v, **options) for v in (None, held))
    nats = [-float(prior.log_prob_of(vae.indices(held)).mean()) for prior in (last, best)]
    assert nats[1] < nats[0] - 1.0


@pytest.mark.parametrize("prior", ["codes", {"name": "autoregressive_codes", "width": 8, "layers": 1}])
def test_a_fitted_prior_becomes_the_models_own(prior, tmp_path):
    vae, x = on_off(), stripes(40)
    vae.prior = vaekit.fit_prior(vae, x, prior, epochs=3, progress=False)
    again = vaekit.load(vae.save(tmp_path))
    assert vaekit.evaluate(again, x) == vaekit.evaluate(vae, x)


@pytest.mark.parametrize(
    "prior", ["diagonal_gaussian", {"name": "gaussian_mixture", "components": 2}, {"name": "flow", "transforms": 1}]
)
def test_priors_over_vectors_are_fitted_to_any_trained_model(prior):
    if prior != "diagonal_gaussian":
        pytest.importorskip("zuko" if prior["name"] == "flow" else "sklearn")
    vae = vaekit.create_vae(input_shape=(2,), latent_dim=2, posterior={"initial_logvar": -6.0}, likelihood="gaussian", seed=0)
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    fitted = vaekit.fit_prior(vae, x, prior, epochs=60, batch_size=50, learning_rate=5e-2, progress=False)
    z = vae.encode(x).rsample(key=vaekit.make_key(5)).detach()
    independent = sum(0.5 * math.log(2 * math.pi * math.e * float(z[:, d].var())) for d in range(2))
    nats = -float(fitted.log_prob(z).detach().mean())
    assert nats < independent + 0.1
    assert -float(vae.prior.log_prob(z).mean()) > independent + 1.0
    assert vae.sample(3, prior=fitted).shape == (3, 2)


def test_what_cannot_be_fitted_is_refused():
    gaussian = vaekit.create_vae(input_shape=(2,), latent_dim=2)
    with pytest.raises(ValueError, match="StandardNormal has no weights that could be fitted"):
        vaekit.fit_prior(gaussian, torch.rand(5, 2), "standard_normal")
    with pytest.raises(ValueError, match="AutoregressiveCodes is a prior for latents that are codes"):
        vaekit.fit_prior(gaussian, torch.rand(5, 2))
    with pytest.raises(ValueError, match="heads=3 and width=8"):
        vaekit.priors.create("autoregressive_codes", latent_shape=(3, 2, 2), width=8, heads=3)
    spec = {"name": "autoregressive_codes", "width": 8}
    with pytest.raises(TypeError, match="warmup_cosine.*the loader has no length"):
        vaekit.fit_prior(on_off(), iter([]), spec)
    with pytest.raises(ValueError, match="the loader gave no batch"):
        vaekit.fit_prior(on_off(), iter([]), spec, learning_rate={"name": "constant", "value": 1e-3})
