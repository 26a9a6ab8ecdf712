"""The Hamiltonian bound: exact means of its exponential, the flow's volume, its gradients, and what tempering does."""

import math

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import make_key
from vaekit.losses.hamiltonian import Hamiltonian

KEY = make_key(1)
X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMA = 0.8


def model(hidden=(), dtype=torch.float64, likelihood=None, **loss):
    """x = W z + b + sigma noise, or a network, with an encoder that is wrong."""
    network = {"name": "mlp", "hidden": hidden, "activation": "tanh"}
    loss = {"name": "hamiltonian", "steps": 3, "step_size": 0.2, **loss}
    vae = vaekit.create_vae(
        input_shape=(5,), latent_dim=2, encoder=network, decoder=network, loss=loss, seed=3,
        likelihood={"name": "gaussian", "sigma": SIGMA} if likelihood is None else likelihood,
    )  # fmt: skip
    return vae.to(dtype)


def log_evidence(vae, x):
    weight, bias = vae.decoder.head.weight.detach(), vae.decoder.head.bias.detach()
    covariance = weight @ weight.mT + SIGMA**2 * torch.eye(5, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x)


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("temperature", [0.3, 0.9])
def test_the_exponential_of_the_bound_has_the_evidence_as_its_mean(steps, temperature):
    vae = model(steps=steps, initial_temperature=temperature)
    x = X.repeat_interleave(20_000, 0)
    with torch.no_grad():
        terms = vae(x, key=KEY)
    ratios = (-(terms.reconstruction + terms.kl) - log_evidence(vae, x)).exp().view(4, -1)
    assert ((ratios.mean(1) - 1.0).abs() < 5 * ratios.std(1) / math.sqrt(20_000)).all()
    assert (ratios.std(1) < 15).all(), "the mean would say nothing"


def test_steps_bring_the_bound_nearer_to_the_evidence():
    x, bounds = X.repeat_interleave(2000, 0), []
    for steps in (0, 1, 4):
        vae = model(steps=steps, initial_temperature=0.5)
        with torch.no_grad():
            bounds.append(float(-vae(x, key=KEY).total))
    assert bounds[0] + 0.1 < bounds[1] < bounds[2] < float(log_evidence(vae, x).mean())


def test_without_steps_it_is_the_monte_carlo_elbo_of_the_same_draw():
    vae = model(steps=0)
    terms = vae(X, key=KEY)
    z, log_ratio = vae.encode(X).rsample_log_ratio(vae.prior, key=KEY)
    assert_close(terms.kl, log_ratio)
    assert_close(terms.reconstruction, vae.likelihood.nll(vae.decoder(z), X))
    assert terms.auxiliary is None
    assert not list(vae.loss.parameters())


def test_the_steps_are_the_papers_and_their_determinant_is_that_of_tempering():
    vae = model(hidden=(6,), steps=3, initial_temperature=0.3)
    x, batch = X[:1], vaekit.Batch(X[:1])
    own = (vae.loss.log_step_size.detach(), vae.loss.temperature_logit.detach())

    def potential(z):
        return (vae.likelihood.nll(vae.decoder(z), x) - vae.prior.log_prob(z)).sum()

    def by_hand(z, gamma):
        betas = [1 / ((1 - 1 / math.sqrt(0.3)) * (k / 3) ** 2 + 1 / math.sqrt(0.3)) ** 2 for k in range(4)]
        assert betas[0] == pytest.approx(0.3)
        assert betas[3] == pytest.approx(1.0)
        rho = gamma / math.sqrt(betas[0])
        for k in range(1, 4):
            rho = rho - 0.1 * torch.func.grad(potential)(z)
            z = z + 0.2 * rho
            rho = (rho - 0.1 * torch.func.grad(potential)(z)) * math.sqrt(betas[k - 1] / betas[k])
        return z, rho

    z, gamma = torch.tensor([[0.3, -1.0]]).double().requires_grad_(), torch.tensor([[0.5, 0.2]]).double()
    nll, log_prior, rho = vae.loss._moved(vae, batch, z, gamma, *own)
    expected_z, expected_rho = by_hand(z, gamma)
    assert_close(rho, expected_rho)
    assert_close(nll, vae.likelihood.nll(vae.decoder(expected_z), x))
    assert_close(log_prior, vae.prior.log_prob(expected_z))

    def flat(start):
        return torch.cat(by_hand(start[None, :2], start[None, 2:] * math.sqrt(0.3)), 1)[0]  # of (z, rho)

    jacobian = torch.autograd.functional.jacobian(flat, torch.cat([z, gamma], 1)[0].detach())
    assert_close(jacobian.det(), torch.tensor(0.3, dtype=torch.float64))  # beta_0^(D / 2), D = 2


@pytest.mark.parametrize("likelihood", [None, "bernoulli", {"name": "gaussian", "variance": "element"}], ids=str)
def test_every_gradient_is_that_of_the_formula(likelihood):
    """Of encoder and decoder by total, of the step sizes and the temperature by auxiliary; against differences."""
    vae = model(hidden=(6,), steps=2, likelihood=likelihood)
    x = X.sigmoid() if likelihood == "bernoulli" else X
    weights = dict(vae.named_parameters())
    assert {"loss.log_step_size", "loss.temperature_logit"} <= set(weights)
    terms = vae(x, key=KEY)
    assert terms.auxiliary.item() == 0.0
    terms.objective.backward()
    for weight in weights.values():
        flat, h = weight.data.view(-1), 1e-5
        for i in range(0, len(flat), 5):
            values = []
            for step in (h, -2 * h):
                flat[i] += step
                with torch.no_grad():
                    values.append(vae(x, key=KEY).total.item())
            flat[i] += h
            assert_close(weight.grad.view(-1)[i].item(), (values[0] - values[1]) / (2 * h), rtol=1e-4, atol=1e-6)


def test_total_reaches_none_of_its_own_weights_and_auxiliary_no_other():
    vae = model(hidden=(6,))
    own = set(vae.loss.parameters())
    for what in ("total", "auxiliary"):
        vae.zero_grad()
        getattr(vae(X, key=KEY), what).backward()
        for name, weight in vae.named_parameters():
            reached = weight.grad is not None and bool((weight.grad != 0).any())
            assert reached == ((weight in own) == (what == "auxiliary")), (what, name)


def test_rows_have_their_own_noise_and_evaluation_has_the_same_terms():
    vae = model(hidden=(6,))
    whole, part = vae(X, key=KEY), vae(X[2:], key=KEY, row_start=2)
    assert_close(part.kl, whole.kl[2:])
    with torch.no_grad():
        looked_at = vae(X, key=KEY)
    assert_close(looked_at.total, whole.total.detach())
    assert not looked_at.total.requires_grad
    empty = vae(X[:0], key=KEY)
    empty.objective.backward()
    assert empty.total == 0


def test_training_lowers_it_moves_the_steps_and_saves_them(tmp_path):
    vae = model(hidden=(8,), dtype=torch.float32)
    x = X.float().repeat(10, 1)
    history = vaekit.fit(vae, x, epochs=15, batch_size=20, learning_rate=1e-2, progress=False, device="cpu")
    assert history["loss"][-1] < history["loss"][0]
    assert history["step_size"][-1] != history["step_size"][0]
    assert 0 < history["initial_temperature"][-1] < 1
    again = vaekit.load(vae.save(tmp_path))
    assert torch.equal(again(x, key=KEY).total, vae(x, key=KEY).total)
    assert torch.equal(again.loss.log_step_size, vae.loss.log_step_size)


def test_steps_that_are_not_learned_stay():
    vae = model(hidden=(6,), learned=False)
    assert not list(vae.loss.parameters())
    terms = vae(X, key=KEY)
    assert terms.auxiliary is None
    terms.total.backward()
    assert_close(terms.extras["step_size"].item(), 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps has to be"),
        ({"step_size": 0.0}, "step_size has to be a finite number above 0"),
        ({"initial_temperature": 1.0}, "initial_temperature has to be a finite number above 0 and below 1"),
    ],
)
def test_options_that_make_no_steps_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Hamiltonian((2,), **options)
