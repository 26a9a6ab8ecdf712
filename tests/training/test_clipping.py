"""Gradients clipped by norm and by value, against the gradient itself."""

import math

import pytest
import torch
from helpers.small_runs import X, fit, model, weights

import vaekit
from vaekit import NonFiniteLossError
from vaekit.training.clipping import Clip


def gradient():
    """The gradient of the one step that `first_step` takes."""
    vae = model()
    vae(X[vaekit.epoch_order(0, 0, len(X))], key=vaekit.step_key(0, 0), step=0).total.backward()
    return torch.cat([p.grad.flatten() for p in vae.parameters()])


def first_step(clip):
    """How far a step of gradient descent with the rate 1 goes."""
    vae = model()
    before = weights(vae)
    fit(vae, optimizer="sgd", learning_rate=1.0, gradient_clip=clip, batch_size=50, epochs=1)
    return before - weights(vae)


def test_a_step_has_the_gradient_or_one_of_the_norm_or_none_of_a_larger_element():
    whole = gradient()
    norm, size = float(whole.norm()), float(whole.abs().median())
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(first_step(None), whole, **close)
    for clip in (norm / 3, {"norm": norm / 3}):
        torch.testing.assert_close(first_step(clip), whole / 3, **close)
    torch.testing.assert_close(first_step({"value": size}), whole.clamp(-size, size), **close)
    for clip in (2 * norm, {"norm": 2 * norm}, {"value": 2 * norm}):
        torch.testing.assert_close(first_step(clip), whole, **close)


@pytest.mark.parametrize("clip", [1.0, {"value": 1.0}], ids=str)
@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_noticed_though_it_would_be_clipped_to_something_finite(clip, bad):
    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            return torch.full_like(slope, bad)

    class Spoiled(vaekit.Elbo):
        def forward(self, model, batch, context):
            terms = super().forward(model, batch, context)
            return terms if context.step != 2 else terms._replace(total=Spoil.apply(terms.total))

    class Keep(vaekit.Callback):
        def on_step_end(self, state):
            if state.step <= 2:
                kept[:] = [weights(state.vae)]

    kept, parts = [], model()
    vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Spoiled())
    with pytest.raises(NonFiniteLossError, match="a gradient is not finite"):
        fit(vae, gradient_clip=clip, callbacks=[Keep()])
    assert torch.equal(weights(vae), kept[0])


def test_each_group_of_the_objectives_has_a_norm_of_its_own_and_patterns_of_names_have_none():
    class WithScale(vaekit.Elbo):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.zeros(4))

        def parameter_groups(self):
            return [{"params": [self.scale], "lr": 1.0}]

        def forward(self, *arguments):
            return super().forward(*arguments)._replace(auxiliary=1000.0 * self.scale.sum())

    parts, start = model(), model()
    vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=WithScale())
    optimizer = {"name": "sgd", "groups": {"encoder.*": {"lr_factor": 1.0}, "*.bias": {"momentum": 0.1}, "loss.*": {"lr": 2.0}}}
    fit(vae, optimizer=optimizer, learning_rate=1.0, gradient_clip=0.5, batch_size=50, epochs=1)
    torch.testing.assert_close(vae.loss.scale.detach(), torch.full((4,), -2.0 * 0.5 / 2.0))
    moved = torch.cat([weights(vae.encoder), weights(vae.decoder)]) - weights(start)
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)


def test_parameters_without_a_gradient_are_left_out():
    one, other = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    one.grad = torch.tensor([3.0, 4.0])
    assert [float(size) for size in Clip({"norm": 1.0}, [[one, other], [other]])()] == [5.0]
    assert list(Clip({"value": 0.1}, [[one, other], [other]])()) == []
    assert other.grad is None
    assert one.grad.tolist() == pytest.approx([0.1, 0.1])
