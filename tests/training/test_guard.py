"""A step that is not finite leaves no trace: the gate, what is observed, and steps that are left out."""

import copy
import math
import warnings
from functools import partial

import pytest
import torch
from helpers.small_runs import Interrupt, Stop, X, fit, model, weights
from helpers.spoiled import Spoiled, spoil

import vaekit
from vaekit import History, NonFiniteLossError, seeding
from vaekit.data import as_batches
from vaekit.training import guard as guards
from vaekit.training import optimizers, watch
from vaekit.training.gate import Gate
from vaekit.training.guard import Guard
from vaekit.training.plan import Plan

MOMENTUM = {"name": "sgd", "momentum": 0.9}
GOOD, BAD = torch.tensor(False), torch.tensor(True)


def spoiled(steps, how="term", **parts):
    return spoil(model(**parts), steps, how)


# The gate.


def optimizer_of(vae, kind):
    made = {
        "fused": lambda: torch.optim.Adam(vae.parameters(), lr=0.1, fused=True),
        "momentum": lambda: torch.optim.SGD(vae.parameters(), lr=0.1, momentum=0.9, dampening=0.5, fused=True),
        "other": lambda: torch.optim.SGD(vae.parameters(), lr=0.1, fused=False),
    }
    return made[kind]()


def gated_step(vae, optimizer, guard, value):
    guard.begin()
    loss = sum((p * value).sum() for p in vae.parameters())
    optimizer.zero_grad()
    loss.backward()
    guard.observe(loss)
    if guard.judge():
        optimizer.step()
    guard.end()


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
@pytest.mark.parametrize("kind", ["fused", "momentum", "other"])
def test_no_step_after_a_bad_one_moves_the_weights_or_with_skip_that_one_alone(kind, on_nonfinite):
    vae, alone = model(), model()
    guard, optimizer = Guard(vae, as_batches(X, 16), on_nonfinite), optimizer_of(vae, kind)
    guard.attach(optimizer)
    plain = optimizer_of(alone, kind)
    for value in (math.nan, 1.0, math.inf, 2.0, -math.inf, 3.0):
        before, state = weights(vae), copy.deepcopy(optimizer.state_dict())
        gated_step(vae, optimizer, guard, value)
        if on_nonfinite == "skip" and math.isfinite(value):
            plain.zero_grad()
            sum((p * value).sum() for p in alone.parameters()).backward()
            plain.step()
            assert torch.equal(weights(vae), weights(alone))
        else:
            assert torch.equal(weights(vae), before)
            torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("scaler", [0.0, 1.0])
@pytest.mark.parametrize("bad", [False, True])
def test_the_gate_joins_the_flag_of_a_grad_scaler_and_gives_it_back(scaler, bad):
    vae = model()
    optimizer = optimizer_of(vae, "fused")
    gate = Gate(optimizer)
    for parameter in vae.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert gate.lets_through(GOOD)
    optimizer.step()
    before, flag = weights(vae), torch.tensor(scaler)
    optimizer.found_inf = flag  # as GradScaler.step sets it, and deletes it afterwards
    assert gate.lets_through(BAD if bad else GOOD)
    optimizer.step()
    assert optimizer.found_inf is flag
    assert torch.equal(weights(vae), before) == (bad or scaler == 1.0)
    del optimizer.found_inf
    assert gate.lets_through(GOOD)
    optimizer.step()
    assert not hasattr(optimizer, "found_inf")


# A run that stops.


@pytest.mark.parametrize("optimizer", optimizers.names())
def test_a_bad_step_leaves_everything_of_the_step_before_with_every_optimizer(optimizer, monkeypatch):
    kept = []

    class Keep(vaekit.Callback):
        def on_step_end(self, state):
            kept.append((weights(state.vae), copy.deepcopy(state.optimizer.state_dict()), copy.deepcopy(state.average)))
            last[:] = [state]

    last = []
    vae = spoiled({5})
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 1e9)
    with pytest.raises(NonFiniteLossError, match="(?s)step 5: reconstruction is not finite.*the weights from before that step"):
        fit(vae, epochs=5, batch_size=4, ema=0.9, optimizer=optimizer, callbacks=[Keep()])
    assert len(kept) > 6
    for _, state, average in kept[5:]:  # of the bad step, and of all after it
        torch.testing.assert_close(state, kept[4][1], rtol=0, atol=0)
        torch.testing.assert_close(average.state_dict(), kept[4][2].state_dict(), rtol=0, atol=0)
    assert torch.equal(kept[-1][0], kept[4][0])


def test_buffers_stay_as_they_were_before_the_bad_step(monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 1e9)
    kept = []

    class Keep(vaekit.Callback):
        def on_step_end(self, state):
            kept.append({name: tensor.clone() for name, tensor in state.vae.named_buffers()})

    vae = spoiled({5}, encoder={"hidden": (8,), "normalization": "batch"})
    with pytest.raises(NonFiniteLossError):
        fit(vae, epochs=3, batch_size=10, callbacks=[Keep()])
    assert "num_batches_tracked" in str(list(kept[0]))
    assert not torch.equal(*(next(iter(kept[step].values())) for step in (3, 4)))
    for name, tensor in vae.named_buffers():
        assert torch.equal(tensor, kept[4][name]), name


def test_an_extra_that_is_not_finite_stops_the_run_too():
    with pytest.raises(NonFiniteLossError, match="step 2: odd is not finite\n"):
        fit(spoiled({2}, "extra"))


def test_weights_that_the_optimizer_makes_infinite_are_found_and_those_of_the_epochs_beginning_come_back():
    """Every loss and gradient is finite; one step is too long."""

    class Long(vaekit.schedules.Schedule):
        def __call__(self, step):
            return 1e38 if step == 5 else 1e-3

    class Steep(vaekit.Elbo):
        def forward(self, model, batch, context):
            terms = super().forward(model, batch, context)
            return terms._replace(total=terms.total * 1e3)

    class StopAtOnce(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == 6:
                raise KeyboardInterrupt  # before anything sees those weights

    parts, good = model(), model()
    vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Steep())
    parts = model()
    good = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Steep())
    fit(good, epochs=1, ema=0.5, optimizer="sgd", learning_rate=1e-3)
    message = "(?s)epoch 2: after step 5.*weights are not finite.*the weights from the beginning of the epoch"
    with pytest.raises(NonFiniteLossError, match=message):
        fit(vae, epochs=3, ema=0.5, optimizer="sgd", learning_rate=Long(), callbacks=[StopAtOnce()])
    assert torch.equal(weights(vae), weights(good))


# Steps that are left out.


@pytest.mark.parametrize("looks", [0.0, 1e9])
@pytest.mark.parametrize("how", ["term", "gradient"])
@pytest.mark.parametrize("bad", [{0}, {5}, {3, 4, 5}, {1, 7}])
def test_a_run_with_steps_left_out_is_the_loop_by_hand_without_them(bad, how, looks, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", looks)
    parts = {"encoder": {"hidden": (8,), "normalization": "batch", "dropout": 0.3}}
    vae, by_hand = spoiled(bad, how, **parts), model(**parts)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        history = fit(vae, batch_size=13, ema=0.9, learning_rate=1e-3, optimizer=MOMENTUM, on_nonfinite="skip")
    assert f"The first was step {min(bad)}: " in str(warned[0].message)

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=1e-3, fused=True, momentum=0.9)
    averages = [p.detach().clone() for p in by_hand.parameters()]
    plan = Plan(as_batches(X, 13), 0, torch.device("cpu"), reseed=partial(seeding.reseed, torch.device("cpu")))
    for epoch in range(2):
        for step in plan.steps(epoch, 4 * epoch):
            if step.number in bad:
                continue
            optimizer.zero_grad()
            by_hand.train()(step.parts[0].batch.x, key=step.key, step=step.number).total.backward()
            optimizer.step()
            decay = min(0.9, (1 + step.number) / (10 + step.number))
            for average, p in zip(averages, by_hand.parameters(), strict=True):
                average.lerp_(p.detach(), 1 - decay)
    torch.nn.utils.vector_to_parameters(torch.cat([average.flatten() for average in averages]), by_hand.parameters())
    for (name, one), other in zip(vae.state_dict().items(), by_hand.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert history.skipped == [sum(step < 4 for step in bad), sum(step >= 4 for step in bad)]
    assert all(map(math.isfinite, history["loss"]))


def test_terms_of_steps_that_are_left_out_do_not_count():
    """With a rate that moves nothing, an epoch's mean is that of the examples of its other steps."""
    seen = []

    class Keep(vaekit.Callback):
        def on_step_end(self, state):
            seen.append(dict(state.terms))

    with pytest.warns(UserWarning, match="1 of 5 steps"):
        history = fit(spoiled({2}), epochs=1, batch_size=10, learning_rate=1e-30, on_nonfinite="skip")
    each = []
    for step in (0, 1, 3, 4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            others = set(range(5)) - {step}
            each.append(fit(spoiled(others), epochs=1, batch_size=10, learning_rate=1e-30, on_nonfinite="skip")["loss"][0])
    assert history["loss"][0] == pytest.approx(sum(each) / 4, rel=1e-6)


def test_the_number_of_steps_left_out_is_in_the_file(tmp_path):
    with pytest.warns(UserWarning, match="left out"):
        history = fit(spoiled({5}), epochs=3, on_nonfinite="skip")
    assert history.skipped == [0, 1, 0]
    again = History.from_csv(history.to_csv(tmp_path / "history.csv"))
    assert (again.skipped, dict(again)) == (history.skipped, dict(history))
    without = fit(model())
    assert without.skipped == [0, 0]
    assert "skipped" not in without.to_csv(tmp_path / "other.csv").read_text()


@pytest.mark.parametrize("looks", [0.0, 1e9])
def test_a_run_gives_up_after_an_epoch_of_nothing_else(looks, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", looks)
    good, vae = model(), spoiled(range(3, 100))
    fit(good, epochs=1, callbacks=[Stop(3)])
    message = "(?s)epoch 2, step 3: reconstruction is not finite.*the first of 5 steps in a row.*the last good step was 2"
    with pytest.warns(UserWarning, match="epoch 1: 1 of 4"), pytest.raises(NonFiniteLossError, match=message):
        fit(vae, epochs=9, on_nonfinite="skip")
    assert torch.equal(weights(vae), weights(good))


def test_a_run_gives_up_after_too_many_in_a_row_and_not_after_as_many_apart(monkeypatch):
    monkeypatch.setattr(guards, "MOST_SKIPPED_IN_A_ROW", 4)
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.0)
    with pytest.warns(UserWarning, match="9 of 13 steps"):
        fit(spoiled(set(range(13)) - {3, 7, 10, 12}), epochs=1, batch_size=4, on_nonfinite="skip")
    with pytest.raises(NonFiniteLossError, match="(?s)step 6: .*the first of 4 steps in a row"):
        fit(spoiled(set(range(6, 10))), epochs=1, batch_size=4, on_nonfinite="skip")


@pytest.fixture
def spoiled_from_4_on(own_registries):
    """Makes models that a folder can hold, whose loss is not finite from step 4 on, the first of the second epoch."""

    @vaekit.losses.register("spoiled-from-4-on")
    class SpoiledFrom4On(Spoiled):
        def __init__(self):
            super().__init__(range(4, 100))

    return lambda: model(loss="spoiled-from-4-on")


def test_an_epoch_of_bad_steps_that_was_interrupted_at_its_end_is_explained_by_the_first(spoiled_from_4_on, tmp_path):
    fit(spoiled_from_4_on(), out=tmp_path, epochs=3, on_nonfinite="skip", callbacks=[Interrupt(8)])
    message = "epoch 2: all 4 steps were left out.*The first was step 4: reconstruction is not finite"
    with pytest.raises(NonFiniteLossError, match=message):
        vaekit.resume(tmp_path, X, progress=False, device="cpu")


def test_bad_steps_in_a_row_are_counted_across_a_resume(spoiled_from_4_on, tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "MOST_SKIPPED_IN_A_ROW", 3)
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.0)
    fit(spoiled_from_4_on(), out=tmp_path, epochs=3, on_nonfinite="skip", callbacks=[Interrupt(6)])
    message = "(?s)epoch 2, step 6: .*one of 3 steps in a row.*the last good step was 3"
    with pytest.raises(NonFiniteLossError, match=message):
        vaekit.resume(tmp_path, X, progress=False, device="cpu")


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="on_nonfinite has to be one of 'stop', 'skip', got 'ignore'"):
        fit(model(), on_nonfinite="ignore")


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
def test_in_float16_a_step_is_left_out_without_a_change_of_the_scale_and_the_run_goes_on(optimizer):
    with pytest.warns(UserWarning, match="epoch 1: 2 of 10 steps were left out"):
        history = fit(spoiled({2, 3}, "extra"), epochs=1, batch_size=5, optimizer=optimizer, precision="16", on_nonfinite="skip")
    assert history.skipped == [2]
    assert math.isfinite(history["loss"][0])


# Validation.


@pytest.mark.parametrize("as_loader", [False, True])
def test_what_is_not_finite_on_the_validation_data_is_named_by_its_numbers(as_loader):
    held_out = X[:40].clone()
    held_out[[7, 33]] = 1e30
    vae = model(likelihood="gaussian", decoder={"hidden": (8, 8)})
    data = torch.utils.data.DataLoader(held_out, batch_size=16) if as_loader else held_out
    with pytest.raises(NonFiniteLossError) as caught:
        fit(vae, validation=data)
    said = str(caught.value).split("\n")
    assert said[0].startswith("epoch 1, on the validation data: ")
    assert said[0].endswith(f"in 2 of 40 examples, in {'the batch' if as_loader else 'validation'} these: 7, 33")
    assert any("latent dimensions in which the divergence is not finite: z[0] and z[1]" in line for line in said)
    assert any("logvar is from" in line for line in said)
    assert any("every step of the epoch was good; the model holds the weights of this epoch" in line for line in said)


def test_validation_data_that_can_be_read_only_once_are_told_of():
    class Once:
        def __init__(self):
            self.is_read = False

        def __iter__(self):
            if not self.is_read:
                yield torch.full((4, 6), 1e30)
            self.is_read = True

    with pytest.raises(NonFiniteLossError, match="on the validation data: a closer look was not possible: .*loader gave no exam"):
        fit(model(likelihood="gaussian"), validation=Once())


class Wide(vaekit.Elbo):
    """An ELBO in one step of which the gradient of the decoder's last weights alone is NaN."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def forward(self, model, batch, context):
        terms = super().forward(model, batch, context)
        if context.step == self.step:
            terms = terms._replace(total=terms.total + (0 * model.decoder.head.weight).abs().sqrt().sum())
        return terms


def test_a_gradient_of_a_wide_layer_alone_is_found_by_the_next_step(monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 1e9)
    made = vaekit.create_vae(input_shape=(6,), latent_dim=2, decoder={"name": "mlp", "hidden": (1000,)}, likelihood="gaussian")
    vae = vaekit.VAE(made.encoder, made.decoder, likelihood=made.likelihood, loss=Wide(15))
    kept = []

    class Keep(vaekit.Callback):
        def on_epoch_end(self, state):
            kept.append(weights(state.vae))

    with pytest.raises(NonFiniteLossError, match="(?s)step 16: .*the weights from the beginning of the epoch"):
        fit(vae, X, epochs=5, batch_size=4, callbacks=[Keep()])
    assert vae.decoder.head.weight.numel() > guards._SMALL
    assert torch.equal(weights(vae), kept[-1])
