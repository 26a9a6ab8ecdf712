"""The relaxed categorical posterior: its draws, its divergence, its gradient, and the temperature that the step sets."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, RelaxedOneHotCategorical, kl_divergence
from torch.testing import assert_close

import vaekit
from vaekit.evaluation import importance_weighted_bound
from vaekit.posteriors import GumbelSoftmaxFamily

CODES = 5


def posterior(temperature=None, straight_through=False, rows=4, seed=0):
    torch.manual_seed(seed)
    family = GumbelSoftmaxFamily((3, 2), codes=CODES, temperature=temperature or 1.0, straight_through=straight_through).double()
    family.train(temperature is not None)
    logits = torch.randn(rows, CODES, 2, dtype=torch.float64).requires_grad_()
    return family(logits), logits


def model(temperature=1.0, loss="elbo", dtype=torch.float64):
    return vaekit.create_vae(
        input_shape=(1, 8, 8), latent_dim=3, encoder={"name": "conv", "channels": (4, 4), "spatial": True},
        decoder={"name": "conv", "channels": (4, 4)}, prior="codes", loss=loss, seed=0,
        posterior={"name": "gumbel_softmax", "codes": CODES, "temperature": temperature},
    ).to(dtype)  # fmt: skip


def test_the_divergence_is_that_of_categoricals():
    q, logits = posterior(0.7)
    vae = model()
    prior = vaekit.priors.Codes((3, 2, 2))
    prior.attach(vae.encoder)
    prior.logits = torch.randn(2, CODES, dtype=torch.float64)
    _, kl = q.rsample_kl(prior, key=vaekit.make_key(0))
    expected = kl_divergence(Categorical(logits=logits.movedim(1, -1)), Categorical(logits=prior.logits)).sum(1)
    assert_close(kl, expected)
    got, wanted = (torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (kl, expected))
    assert_close(got, wanted)


def test_draws_in_evaluation_are_codes_with_the_probabilities():
    q, logits = posterior()
    z, log_q = q.rsample_log_prob(key=vaekit.make_key(0), num_samples=5000)
    indices, is_code = q.family.indices_of(z.flatten(0, 1))
    assert is_code.all()
    indices = indices.view(5000, 4, 2)
    probabilities = logits.softmax(1).detach().numpy()
    for row in range(4):
        for place in range(2):
            counts = np.bincount(indices[:, row, place], minlength=CODES)
            assert stats.chisquare(counts, 5000 * probabilities[row, :, place]).pvalue > 1e-4
    assert_close(log_q, Categorical(logits=logits.movedim(1, -1)).log_prob(indices).sum(-1))
    assert_close(q.log_prob(z), log_q)
    assert q.log_prob(z + 0.1).isinf().all()


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_relaxed_draws_have_the_concrete_distribution(temperature):
    """The weight of the first code has the distribution that torch draws from."""
    q, logits = posterior(temperature, rows=1)
    with torch.no_grad():
        q.family.codebook.copy_(torch.eye(CODES, 3))
    z = q.rsample(key=vaekit.make_key(0), num_samples=4000)
    torch.manual_seed(1)
    theirs = RelaxedOneHotCategorical(torch.tensor(temperature), logits=logits.detach().movedim(1, -1)).sample((4000,))
    for place in range(2):
        assert stats.ks_2samp(z[:, 0, 0, place].detach().numpy(), theirs[:, 0, place, 0].numpy()).pvalue > 1e-3


def test_a_straight_through_draw_is_one_code_with_the_gradient_of_the_mixture():
    (soft, soft_logits), (hard, hard_logits) = posterior(0.5), posterior(0.5, straight_through=True)
    key, weight = vaekit.make_key(0), torch.randn(4, 3, 2, dtype=torch.float64)
    z_soft, z_hard = (q.rsample(key=key) for q in (soft, hard))
    assert hard.family.indices_of(z_hard.round(decimals=12))[0].shape == (4, 2)
    nearest = (z_hard.movedim(1, -1).unsqueeze(-2) - hard.family.codebook).abs().amax(-1).amin(-1)
    assert (nearest < 1e-12).all()
    gradients = [
        torch.autograd.grad((weight * z).sum(), logits)[0] for z, logits in ((z_soft, soft_logits), (z_hard, hard_logits))
    ]
    assert_close(*gradients)


def test_the_temperature_is_that_of_the_step():
    vae = model({"name": "linear", "steps": 10, "start": 2.0, "end": 0.5})
    x, key = torch.rand(3, 1, 8, 8, dtype=torch.float64), vaekit.make_key(0)
    for step, temperature in ((0, 2.0), (5, 1.25), (10, 0.5), (100, 0.5)):
        terms = vae(x, key=key, step=step)
        assert vae.encode(x).temperature == pytest.approx(temperature)
        fixed = model(temperature)
        assert_close(fixed(x, key=key).reconstruction, terms.reconstruction)
    assert vae.eval().encode(x).temperature is None
    with pytest.raises(ValueError, match=r"temperature has to be at least 0\.001"):
        model(0.0)


def test_fit_counts_the_temperature_among_the_scheduled_weights():
    vae = model({"name": "linear", "steps": 1000, "start": 2.0, "end": 0.5}, dtype=torch.float32)
    with pytest.warns(UserWarning, match="temperature"):
        vaekit.fit(vae, torch.rand(20, 1, 8, 8), epochs=1, batch_size=10, progress=False, device="cpu")


def test_the_bound_is_below_that_of_more_samples_and_is_the_elbo_with_one():
    vae, x = model().eval(), torch.rand(10, 1, 8, 8, dtype=torch.float64)
    few, many = (float(importance_weighted_bound(vae, x, num_samples=n).per_example.mean()) for n in (1, 200))
    elbo = [float((-(terms.reconstruction + terms.kl)).mean()) for terms in (vae(x, key=vaekit.make_key(s)) for s in range(300))]
    assert few == pytest.approx(np.mean(elbo), abs=6 * np.std(elbo))
    assert np.mean(elbo) + 3 * np.std(elbo) / math.sqrt(300) < many


def test_it_trains_with_a_gradient_through_the_choice_and_is_saved(tmp_path):
    vae = model({"name": "linear", "steps": 60, "start": 1.0, "end": 0.3}, dtype=torch.float32)
    shapes = vaekit.data.shapes(size=8, positions=4, orientations=4).x
    before = vaekit.evaluate(vae, shapes)["loss"]
    vaekit.fit(vae, shapes, epochs=8, batch_size=32, learning_rate=1e-2, progress=False, device="cpu")
    after = vaekit.evaluate(vae, shapes)
    assert after["loss"] < 0.8 * before
    assert 0.1 < after["kl"] < 4 * math.log(CODES)
    again, key = vaekit.load(vae.save(tmp_path)), vaekit.make_key(0)
    assert torch.equal(again.sample(3, key=key), vae.sample(3, key=key))
    assert torch.equal(vae.decode_codes(vae.indices(shapes[:5])), vae.reconstruct(shapes[:5]))


def test_what_has_no_probability_is_refused():
    q, _ = posterior(0.7)
    with pytest.raises(NotImplementedError, match="a mixture of codes, for which there is no log probability"):
        q.log_prob(q.mean)
    vae = vaekit.create_vae(
        input_shape=(4,), latent_dim=2, posterior="gumbel_softmax", prior={"name": "autoregressive_codes", "width": 8}
    )
    with pytest.raises(NotImplementedError, match="train with the prior 'codes'"):
        vae(torch.rand(3, 4))
    assert vaekit.evaluate(vae, torch.rand(3, 4))["kl"] > 0
    with pytest.raises(ValueError, match="VectorQuantizedLoss is a loss for latents that are codes"):
        model(loss="vector_quantized")
