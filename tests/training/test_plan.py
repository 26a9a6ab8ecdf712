"""Laws of the order and the noise that a seed fixes: a loop of one's own that takes them repeats `fit`, bit for bit."""

import pytest
import torch
from helpers.small_runs import X, fit, model, weights

import vaekit

FACTOR = {"name": "factor", "hidden": (4,), "learning_rate": 1e-2}
SCHEDULED = {"name": "elbo", "beta": {"name": "linear", "steps": 5}}


DROPOUT = {"hidden": (8,), "dropout": 0.5}


@pytest.mark.parametrize(
    "parts",
    [{}, {"loss": SCHEDULED}, {"loss": FACTOR}, {"encoder": DROPOUT}],
    ids=["elbo", "scheduled", "with a discriminator", "with dropout"],
)
def test_a_loop_of_ones_own_gives_what_fit_gives(parts):
    fitted, own, step = model(**parts), model(**parts), 0
    fit(fitted, seed=3)
    discriminator = {id(p) for p in own.loss.parameters()}
    rest = [p for p in own.parameters() if id(p) not in discriminator]
    adam = torch.optim.Adam([{"params": rest}, *own.loss.parameter_groups()], lr=1e-3, fused=True)
    for epoch in range(2):
        for rows in vaekit.epoch_order(3, epoch, len(X)).split(16):
            key = vaekit.step_key(3, step)
            torch.manual_seed(int(vaekit.fold_in(key, 2)[0]))
            own(X[rows], key=key, step=step, index=rows, dataset_size=len(X)).objective.backward()
            adam.step()
            adam.zero_grad()
            step += 1
    assert torch.equal(weights(own), weights(fitted))


def test_keys_and_orders_are_derived_as_their_pages_say():
    run = vaekit.make_key(3)
    steps, order = vaekit.fold_in(run, 0), vaekit.fold_in(run, 1)
    assert torch.equal(vaekit.step_key(3, 7), vaekit.fold_in(steps, 7))
    assert torch.equal(vaekit.step_key(3, torch.arange(600))[599], vaekit.step_key(3, 599))
    torch.manual_seed(int(vaekit.fold_in(order, 2)[0]))
    assert torch.equal(vaekit.epoch_order(3, 2, 50), torch.randperm(50))


def test_orders_and_keys_differ_between_epochs_steps_and_seeds():
    orders = {tuple(vaekit.epoch_order(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)}
    keys = {tuple(vaekit.step_key(seed, step).tolist()) for seed in range(3) for step in range(3)}
    assert (len(orders), len(keys)) == (9, 9)
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_an_order_of_fewer_than_no_examples_is_refused():
    assert vaekit.epoch_order(0, 0, 0).shape == (0,)
    with pytest.raises(ValueError, match="size .*got -1"):
        vaekit.epoch_order(0, 0, -1)
