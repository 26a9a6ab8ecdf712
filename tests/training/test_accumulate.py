"""Several batches in a step: the run of one large batch, to rounding."""

import math

import pytest
import torch
from helpers.small_runs import Stop, X, fit, model, weights

import vaekit
from vaekit.data import as_batches
from vaekit.training.plan import Plan

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "loss",
    [
        "elbo",
        {"name": "iwae", "num_samples": 3},
        {"name": "renyi", "alpha": 0.5, "num_samples": 2},
        {"name": "perceptual", "discriminator": {"name": "mlp", "hidden": (4,)}, "adaptive": False},
        {"name": "elbo", "beta": {"name": "linear", "steps": 3}},
    ],
    ids=["elbo", "iwae", "renyi", "discriminator", "scheduled"],
)
@pytest.mark.parametrize(("batch_size", "accumulate"), [(16, 2), (8, 4), (4, 8)])  # of 50: steps of 32 and 18
def test_batches_put_together_are_one_large_batch(loss, batch_size, accumulate):
    whole, parts = (model(loss=loss) for _ in range(2))
    expected = fit(whole, batch_size=32, learning_rate=0.05, gradient_clip=1.0)
    history = fit(parts, batch_size=batch_size, accumulate=accumulate, learning_rate=0.05, gradient_clip=1.0)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)
    assert not torch.equal(weights(whole), weights(model(loss=loss)))
    for name in expected:
        assert history[name] == pytest.approx(expected[name], rel=1e-4), name


def test_a_loaders_batches_are_put_together_by_their_own_sizes():
    sizes = [5, 9, 1, 13, 22]
    whole, parts = model(), model()
    fit(whole, [(x,) for x in X.split([15, 35])], optimizer="sgd", learning_rate=0.01)
    fit(parts, [(x,) for x in X.split(sizes)], optimizer="sgd", learning_rate=0.01, accumulate=3)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)


def test_steps_batches_and_examples_are_counted():
    seen = []

    class Count(vaekit.Callback):
        def on_step_end(self, state):
            seen.append((state.step, state.batch))

    fit(model(), batch_size=8, accumulate=3, epochs=2, callbacks=[Count()])  # 50 examples: batches 7, steps 3
    assert seen == [(1, 3), (2, 6), (3, 7), (4, 3), (5, 6), (6, 7)]
    assert Plan(as_batches(X, 8), 0, CPU, accumulate=3).expected_steps(1) == 3


@pytest.mark.parametrize("loss", ["beta_tc", "dip_vae", "info_vae"])
def test_an_objective_that_compares_examples_refuses_batches_put_together(loss):
    with pytest.raises(ValueError, match=r"accumulate=2 .* compares the examples"):
        fit(model(loss=loss), accumulate=2)
    fit(model(loss=loss), accumulate=1, epochs=1)


def test_a_part_that_is_not_finite_stops_the_step():
    class Bad(vaekit.Elbo):
        def forward(self, model, batch, context):
            terms = super().forward(model, batch, context)
            return terms._replace(total=terms.total * math.nan) if context.step == 1 and context.row_start else terms

    parts, alone = model(), model()
    vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Bad())
    with pytest.raises(vaekit.NonFiniteLossError, match="step 1: loss"):
        fit(vae, batch_size=8, accumulate=2)

    fit(alone, batch_size=8, accumulate=2, callbacks=[Stop(1)])
    assert torch.equal(weights(vae), weights(alone))
