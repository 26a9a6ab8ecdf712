"""The average of the weights: what it is, and that it is what is validated, saved and left."""

import pytest
import torch
from helpers.small_runs import X, fit, model, weights

import vaekit
from vaekit.training import Average


class Weights(vaekit.Callback):
    """The weights after each step, and before the first."""

    def __init__(self):
        self.seen = []

    def on_fit_start(self, state):
        self.seen.append(weights(state.vae).double())

    on_step_end = on_fit_start


def averaged(seen, decay):
    """The recurrence of Salimans et al. and of TensorFlow, by hand."""
    average = seen[0]
    for step, now in enumerate(seen[1:]):
        d = min(decay, (1 + step) / (10 + step))
        average = d * average + (1 - d) * now
    return average


@pytest.mark.parametrize("decay", [0.05, 0.3, 0.999])
def test_the_average_is_the_recurrence(decay):
    vae, seen = model(), Weights()
    fit(vae, ema=decay, learning_rate=0.05, callbacks=[seen])
    torch.testing.assert_close(weights(vae).double(), averaged(seen.seen, decay), rtol=1e-5, atol=1e-6)
    assert (weights(vae) - seen.seen[-1]).abs().max() > 1e-3


def test_training_goes_on_from_the_weights_and_not_from_their_average():
    alone, with_average = Weights(), Weights()
    fit(model(), callbacks=[alone], learning_rate=0.05)
    fit(model(), ema=0.9, callbacks=[with_average], learning_rate=0.05, validation=X[:8])
    assert all(map(torch.equal, alone.seen, with_average.seen))


def test_the_average_is_validated_saved_and_left(tmp_path):
    class Each(Weights):
        def on_epoch_end(self, state):
            with state.averaged() as vae:
                self.epochs.append(weights(vae).clone())

    vae, each = model(), Each()
    each.epochs = []
    history = fit(vae, ema=0.5, learning_rate=0.05, callbacks=[each], validation=X[:8], out=tmp_path, epochs=3, seed=4)
    for epoch, loss in enumerate(history["val_loss"]):
        start, seen = 4 * (epoch + 1), model()
        torch.nn.utils.vector_to_parameters(averaged(each.seen[: start + 1], 0.5).float(), seen.parameters())
        assert vaekit.evaluate(seen, X[:8], batch_size=16, seed=4)["loss"] == pytest.approx(loss, rel=1e-5)
    assert torch.equal(weights(vae), each.epochs[-1])
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), each.epochs[-1])
    assert torch.equal(weights(vaekit.load(tmp_path / "best")), each.epochs[history.best_epoch])


def test_frozen_weights_and_buffers_are_not_averaged():
    vae = model(encoder={"hidden": (8,), "normalization": "batch"})
    vae.decoder.requires_grad_(False)
    frozen = torch.cat([p.flatten() for p in vae.decoder.parameters()]).clone()
    buffers = []

    class Buffers(vaekit.Callback):
        def on_step_end(self, state):
            buffers.append([b.clone() for b in state.vae.buffers()])

    fit(vae, ema=0.9, callbacks=[Buffers()])
    assert torch.equal(torch.cat([p.flatten() for p in vae.decoder.parameters()]), frozen)
    assert all(map(torch.equal, vae.buffers(), buffers[-1]))


def test_the_average_begins_with_the_bias_of_the_data():
    vae, seen = model(likelihood="gaussian"), Weights()
    fit(vae, X + 50, ema=0.999, epochs=1, initialize_output_bias=True, callbacks=[seen], learning_rate=1e-9)
    assert (weights(vae) - seen.seen[0]).abs().max() < 1e-3
    assert seen.seen[0].max() > 40


@pytest.mark.parametrize("after", [1, 3, 6])
def test_weights_are_put_back_though_putting_back_is_interrupted(after, monkeypatch):
    vae = model()
    average, before, calls = Average(vae, 0.9), weights(vae).clone(), []
    for value in average.state_dict().values():
        value.add_(1.0)
    copy = torch.Tensor.copy_

    def interrupted(self, other, *rest):
        calls.append(self)
        if len(calls) == count + after:
            raise KeyboardInterrupt
        return copy(self, other, *rest)

    count = len(list(vae.parameters()))  # copies that put the averages into the model
    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt), average.in_place():
        pass
    assert torch.equal(weights(vae), before)


def test_an_average_goes_on_from_its_state():
    layer, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    average, resumed = Average(layer, 0.9), Average(other, 0.9)
    resumed.load_state_dict(average.state_dict())
    other.load_state_dict(layer.state_dict())
    for a in (average, resumed):
        a.update(0)
        a.replace_weights()
    assert all(map(torch.equal, layer.parameters(), other.parameters()))
    with pytest.raises(ValueError, match="other trainable parameters"):
        resumed.load_state_dict({"weight": torch.zeros(2, 3)})


@pytest.mark.parametrize(("decay", "error"), [(1.0, ValueError), (0.0, ValueError), (1.5, ValueError), ("fast", TypeError)])
def test_another_decay_is_refused_by_name(decay, error):
    with pytest.raises(error, match="ema"):
        fit(model(), ema=decay)
