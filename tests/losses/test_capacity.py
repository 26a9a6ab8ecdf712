"""The capacity: its distance from each example's divergence or the batch's, its schedule, and that training reaches it."""

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import make_key
from vaekit.schedules import Cosine

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
CAPACITY = {"name": "linear", "steps": 10, "start": 0.0, "end": 4.0}


def model(**options):
    loss = {"name": "capacity", **options} if options else "elbo"
    return vaekit.create_vae(input_shape=(6,), latent_dim=2, loss=loss, likelihood="gaussian", seed=0).eval()


@pytest.mark.parametrize("step", [0, 5, 20, None])
def test_the_distance_from_the_capacity_is_weighed(step):
    plain, capacity = model()(X, key=make_key(1)), 4.0 if step is None else min(0.4 * step, 4.0)
    terms = model(capacity=CAPACITY, gamma=3.0)(X, key=make_key(1), step=step)
    assert_close(terms.total, (plain.reconstruction + 3.0 * (plain.kl - capacity).abs()).mean())
    assert_close(terms.extras["capacity"].item(), capacity, rtol=1e-6, atol=0.0)
    assert torch.equal(terms.kl, plain.kl)
    assert torch.equal(terms.reconstruction, plain.reconstruction)
    batch = model(capacity=CAPACITY, gamma=3.0, per="batch")(X, key=make_key(1), step=step)
    assert_close(batch.total, plain.reconstruction.mean() + 3.0 * (plain.kl.mean() - capacity).abs())


def test_held_for_the_batch_it_never_costs_more_than_for_each_example():
    with torch.no_grad():
        kl = model()(X, key=make_key(1)).kl
        middle = float(kl.median())  # where some are above and some below
        each, batch = (model(capacity=middle, per=per)(X, key=make_key(1)).total for per in ("example", "batch"))
    assert batch < each


def test_by_default_it_is_the_papers():
    vae = model(gamma=2.0)
    for step, capacity in ((0, 0.0), (50_000, 12.5), (200_000, 25.0), (None, 25.0)):
        assert vae(X, key=make_key(1), step=step).extras["capacity"] == capacity
    assert model(capacity=3.0).loss.gamma(0) == 1000.0


@pytest.mark.parametrize("per", ["example", "batch"])
def test_training_brings_the_divergence_to_the_capacity(per):
    vae = model(capacity=Cosine(steps=100, start=0.0, end=3.0), gamma=20.0, per=per)
    history = vaekit.fit(vae, X.repeat(5, 1), epochs=60, batch_size=50, learning_rate=2e-3, progress=False, device="cpu")
    assert abs(sum(history["kl"][-10:]) / 10 - 3.0) < 0.25
    spread = vae(X, key=make_key(0)).kl.std()
    assert spread < 0.5 if per == "example" else spread > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capacity": -1.0}, "capacity has to be at least 0, got -1.0"),
        ({"capacity": {"name": "linear", "steps": 3, "start": -1.0}}, "capacity has to be at least 0"),
        ({"gamma": -2}, "gamma has to be at least 0, got -2"),
        ({"per": "row"}, "per, whose divergence is held at the capacity, has to be .* got 'row'"),
    ],
)
def test_options_that_make_no_objective_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)
