"""Plain and regularised autoencoders: terms against sums by hand, the penalty on the gradient against Jacobians."""

import math

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import make_key

KEY = make_key(1)


def model(loss, likelihood="gaussian", dtype=torch.float64, **options):
    small = {"encoder": {"name": "mlp", "hidden": (8,)}, "decoder": {"name": "mlp", "hidden": (8,), "activation": "tanh"}}
    loss = {"name": "autoencoder", **loss}
    vae = vaekit.create_vae(
        input_shape=(5,), latent_dim=2, posterior="point", likelihood=likelihood, loss=loss, seed=0, **small, **options
    )
    return vae.to(dtype)


def examples(count=6):
    return torch.rand(count, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def jacobian_squares(vae, x):
    """||J||^2 of each example, of all derivatives of the natural parameters."""
    with torch.no_grad():
        z = vae.encode(x).mean
    return torch.stack([torch.autograd.functional.jacobian(lambda z: vae.decoder(z[None])[0], each).square().sum() for each in z])


def test_the_plain_one_is_the_reconstruction_alone():
    vae, x = model({}), examples()
    terms = vae(x, key=KEY)
    difference = vae.decoder(vae.encode(x).mean)[:, 0] - x
    expected = (difference**2).sum(1) / 2 + 2.5 * math.log(2 * math.pi)
    assert_close(terms.reconstruction, expected)
    assert_close(terms.total, expected.mean())
    assert not terms.extras
    assert torch.equal(vae(x, key=make_key(7)).total, terms.total), "nothing is drawn"


def test_the_penalties_are_those_of_the_paper():
    vae, x = model({"beta": 0.3, "l2": 0.2}), examples()
    terms, z = vae(x, key=KEY), vae.encode(x).mean
    of_codes = (z**2).sum(1) / 2 + math.log(2 * math.pi)
    of_decoder = sum((w**2).sum() for w in vae.decoder.parameters())
    assert_close(terms.kl, of_codes)
    assert_close(terms.extras["decoder_l2"], of_decoder)
    assert_close(terms.total, (terms.reconstruction + 0.3 * of_codes).mean() + 0.2 * of_decoder)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", {"name": "gaussian", "variance": "element"}], ids=str)
def test_the_estimate_of_the_gradients_square_has_the_whole_jacobian_as_its_mean(likelihood):
    vae, x = model({"gradient": 1.0, "projections": 4000}, likelihood), examples()
    exact = jacobian_squares(vae, x)
    estimate = vae(x, key=KEY).extras["decoder_gradient"]
    # Of v^T A v with A = J J^T the variance is 2 ||A||^2, at most 2 (trace A)^2: the squared exact value.
    assert ((estimate - exact).abs() < 4 * math.sqrt(2 / 4000) * exact).all()
    few = torch.stack([model({"gradient": 1.0})(x, key=make_key(k)).extras["decoder_gradient"] for k in range(50)])
    if likelihood == "gaussian":
        assert (few.std(0) > 0).all(), "each step has other projections"
        assert ((few.mean(0) - exact).abs() < 4 * few.std(0) / math.sqrt(50)).all()


def test_the_penalty_of_the_gradient_trains_encoder_and_decoder():
    """Against numerical derivatives, of the same projections."""
    vae, x = model({"gradient": 0.7}), examples(3)
    weights = dict(vae.named_parameters())

    def total(*values):
        return torch.func.functional_call(vae, dict(zip(weights, values, strict=True)), (x,), {"key": KEY}).total

    values = [w.detach().clone().requires_grad_() for w in weights.values()]
    assert torch.autograd.gradcheck(total, values)
    penalty = vae(x, key=KEY).extras["decoder_gradient"].sum()
    gradients = torch.autograd.grad(penalty, [weights["encoder.head.weight"], weights["decoder.head.weight"]])
    assert all((g != 0).any() for g in gradients)


def test_rows_have_the_projections_that_they_have_in_a_larger_batch_and_evaluation_has_the_same_terms():
    vae, x = model({"gradient": 0.7, "projections": 2}), examples()
    whole, part = vae(x, key=KEY).extras["decoder_gradient"], vae(x[4:], key=KEY, row_start=4).extras["decoder_gradient"]
    assert_close(whole[4:], part)
    with torch.no_grad():
        looked_at = vae(x, key=KEY)
    assert_close(looked_at.extras["decoder_gradient"], whole.detach())
    assert not looked_at.extras["decoder_gradient"].requires_grad
    vae.encoder.requires_grad_(False)
    vae(x, key=KEY).total.backward()
    assert vae.decoder.head.weight.grad.isfinite().all()


@pytest.mark.parametrize("loss", [{}, {"beta": 1.0, "l2": 0.1, "gradient": 0.1}], ids=["plain", "all"])
def test_an_empty_batch_has_a_total_of_zero(loss):
    terms = model(loss)(examples(0), key=KEY)
    terms.total.backward()
    assert terms.total == 0
    assert terms.kl.shape == (0,)


def test_training_with_all_of_it_goes_down_and_the_weights_follow_their_schedules():
    loss = {"beta": 1e-2, "gradient": {"name": "linear", "steps": 10, "start": 0.0, "end": 1.0}, "l2": 1e-4}
    vae, x = model(loss, dtype=torch.float32), examples(40).float()
    first = vae(x, key=KEY, step=0)
    assert_close(first.total, (first.reconstruction + 1e-2 * first.kl).mean() + 1e-4 * first.extras["decoder_l2"])
    history = vaekit.fit(vae, x, epochs=20, batch_size=20, learning_rate=1e-2, progress=False, device="cpu")
    assert history["loss"][-1] < history["loss"][0]
    assert history["decoder_gradient"][-1] > 0


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_the_penalty_makes_the_decoder_smooth(weight):
    vae, x = model({"gradient": weight}, dtype=torch.float32), examples(40).float()
    vaekit.fit(vae, x, epochs=60, batch_size=40, learning_rate=1e-2, progress=False, device="cpu")
    steepness = float(jacobian_squares(vae, x).mean())
    assert (steepness < 0.02) if weight else (steepness > 0.1), steepness


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ({"beta": -1.0}, ValueError, "beta has to be at least 0"),
        ({"l2": "strong"}, TypeError, "l2"),
        ({"gradient": -0.1}, ValueError, "gradient has to be at least 0"),
        ({"projections": 3}, ValueError, "projections=3 are of the gradient; give its weight"),
        ({"gradient": 1.0, "projections": 0}, ValueError, "projections has to be"),
    ],
)
def test_what_is_no_weight_is_refused(loss, error, message):
    with pytest.raises((error, KeyError), match=message):
        model(loss)
