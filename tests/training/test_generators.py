"""What draws from torch's global generators is a function of the run's seed and the step."""

import numpy as np
import pytest
import torch
from helpers.small_runs import X, fit, model, weights
from torch.utils.data import DataLoader, TensorDataset

import vaekit
from vaekit import seeding

DROPOUT = {"hidden": (8,), "dropout": 0.5}


class Draws(vaekit.Callback):
    """Draws from the global generator wherever it is called."""

    def on_step_end(self, state):
        torch.rand(7)

    on_fit_start = on_epoch_end = on_validation_end = on_step_end


def test_a_callback_that_draws_changes_nothing():
    plain, drawn = (model(encoder=DROPOUT) for _ in range(2))
    fit(plain, validation=X[:8])
    fit(drawn, validation=X[:8], callbacks=[Draws()])
    assert torch.equal(weights(plain), weights(drawn))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_order_of_a_loader_that_shuffles_is_a_function_of_seed_and_epoch(workers):
    class Order(vaekit.Elbo):
        def forward(self, model, batch, context):
            seen.append(batch.x[:, 0].clone())
            return super().forward(model, batch, context)

    runs = []
    for seed, callbacks in ((0, []), (0, [Draws()]), (1, [])):
        seen, parts = [], model(encoder=DROPOUT)
        vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Order())
        loader = DataLoader(TensorDataset(X), batch_size=16, shuffle=True, num_workers=workers)
        fit(vae, loader, seed=seed, callbacks=callbacks)
        runs.append(torch.cat(seen))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0][:50], runs[0][50:])  # another order in each epoch
    assert torch.equal(runs[0][:50].sort().values, X[:, 0].sort().values)


def test_the_generators_have_seeds_of_their_own():
    """torch's and NumPy's are one algorithm: from one seed they would give the same numbers."""
    (first, second) = seeding.seeds_of(vaekit.step_key(0, torch.arange(2)))
    assert len({seed % 2**32 for seed in (*first, *second)}) == 6


def test_a_bit_generator_in_the_place_of_numpys_is_left_alone():
    usual, own = np.random.get_bit_generator(), np.random.PCG64(3)
    np.random.set_bit_generator(own)
    try:
        before = own.state
        fit(model())
        assert own.state == before
    finally:
        np.random.set_bit_generator(usual)


def test_what_layers_draw_differs_from_step_to_step():
    class Mask(torch.nn.Module):
        def forward(self, x):
            seen.append(float(torch.rand(())))
            return x

    seen, vae = [], model()
    vae.encoder.register_module("mask", Mask())
    vae.encoder.register_forward_pre_hook(lambda module, inputs: (module.mask(inputs[0]), *inputs[1:]))
    fit(vae, epochs=3)
    assert len(set(seen)) == len(seen) == 12
