"""Evaluation: means over a dataset, whatever the batches, and what it refuses."""

import math

import pytest
import torch
from torch.utils.data import DataLoader

import vaekit
from vaekit.evaluation.terms import TermSums
from vaekit.losses import Elbo, LossTerms
from vaekit.schedules import Linear

X = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))


def model(**parts):
    return vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0, **parts)


def test_it_is_the_mean_of_the_models_own_terms():
    vae = model()
    terms = vae(X, key=vaekit.fold_in(vaekit.make_key(5), 2))
    result = vaekit.evaluate(vae, X, seed=5)
    assert result["loss"] == pytest.approx(terms.total.item(), rel=1e-6)
    assert result["kl"] == pytest.approx(terms.kl.mean().item(), rel=1e-6)
    assert result["loss"] == pytest.approx(result["reconstruction"] + result["kl"], rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 30, 100])
def test_it_does_not_depend_on_the_batches(batch_size):
    assert vaekit.evaluate(model(), X, batch_size=batch_size) == pytest.approx(vaekit.evaluate(model(), X), rel=1e-6)


def test_it_is_what_fit_saw_as_validation_with_the_same_seed():
    vae = model()
    history = vaekit.fit(vae, X, validation=X, epochs=2, seed=4, progress=False)
    assert vaekit.evaluate(vae, X, seed=4)["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-6)


def test_many_batches_add_up_without_drifting():
    sums = TermSums()
    values = torch.full((64,), 1000.1)
    for _ in range(20_000):
        sums.add(LossTerms(values[0], values, values, {}))
    assert sums.means()["reconstruction"] == pytest.approx(float(values[0]), rel=1e-12)


def test_it_repeats_and_takes_loaders_and_leaves_the_model_as_it_was():
    vae = model().train()
    whole = vaekit.evaluate(vae, X, batch_size=10)
    assert vaekit.evaluate(vae, X, batch_size=10) == whole
    assert vaekit.evaluate(vae, DataLoader(X, batch_size=10)) == whole
    assert vae.training
    assert all(p.grad is None for p in vae.parameters())


def test_scheduled_weights_take_their_final_value():
    parts = model()
    vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Elbo(Linear(steps=100, end=3.0)))
    result = vaekit.evaluate(vae, X)
    assert result["loss"] == pytest.approx(result["reconstruction"] + 3 * result["kl"], rel=1e-6)


def test_mistakes_are_told():
    bad = X.clone()
    bad[11, 0] = math.inf
    for data, message in (
        (X[:0], "empty"),
        (bad, "sample 11 holds infinity"),
        (DataLoader(bad, batch_size=10), "batch 1: sample 1 holds infinity"),
        (X[:, :3], r"shape \(4\), the data has \(3\)"),
        (X - 1, "the data ranges from"),
    ):
        with pytest.raises(ValueError, match=message):
            vaekit.evaluate(model(), data)
    with pytest.raises(ValueError, match="batch_size has to be a whole number of at least 1"):
        vaekit.evaluate(model(), X, batch_size=0)


@pytest.mark.parametrize(
    "figure",
    [
        vaekit.evaluate,
        vaekit.evaluation.importance_weighted_bound,
        vaekit.evaluation.reconstruction_error,
        vaekit.evaluation.latent_statistics,
    ],
)
def test_a_loader_without_examples_is_refused(figure):
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
    for used_up in (iter([]), iter([torch.rand(0, 4)])):
        with pytest.raises(ValueError, match="the dataset is empty: the loader gave no example"):
            figure(vae, used_up)
