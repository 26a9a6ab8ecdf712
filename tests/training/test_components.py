"""The components of a run, each by itself: options, plan, optimizers, gate, engine, watch."""

import dataclasses
import gc
import inspect
import math
import weakref

import pytest
import torch
from helpers.small_runs import X, fit, model
from helpers.spoiled import spoil

import vaekit
from vaekit import NonFiniteLossError, UnknownNameError, fold_in, make_key
from vaekit.data import as_batches
from vaekit.training import FitOptions, watch
from vaekit.training.engine import Engine
from vaekit.training.guard import Guard, Taken
from vaekit.training.plan import Plan
from vaekit.training.progress import Progress
from vaekit.training.recorder import Recorder
from vaekit.training.state import RunState
from vaekit.training.trackers import TrackedRun
from vaekit.training.watch import Watch

CPU = torch.device("cpu")


# Options.


def test_fit_takes_the_options_with_the_defaults_that_the_record_has():
    taken = inspect.signature(vaekit.fit).parameters
    for option in dataclasses.fields(FitOptions):
        assert taken[option.name].default == option.default, option.name
        assert option.metadata["help"].endswith(".")
    others = {"vae", "train", "validation", "callbacks", "out", "resume", "progress"}
    assert taken.keys() - others == {option.name for option in dataclasses.fields(FitOptions)}


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("learning_rate", -1.0, ValueError),
        ("learning_rate", math.nan, ValueError),
        ("learning_rate", "fast", TypeError),
        ("learning_rate", {"name": "linear", "steps": 3, "end": -1.0}, ValueError),
        ("optimizer", "adamm", UnknownNameError),
        ("optimizer", {"name": "adam", "beta": 1}, TypeError),
        ("optimizer", {"name": "adam", "lr": 1e-3}, TypeError),
        ("optimizer", {"name": "adam", "eps": -1.0}, ValueError),
        ("optimizer", {"name": "adam", "eps": "x"}, TypeError),
        ("optimizer", {"name": "adam", "betas": (0.9,)}, ValueError),
        ("optimizer", {"name": "sgd", "nesterov": True}, ValueError),
        ("optimizer", 3, TypeError),
        ("optimizer", torch.optim.SGD([torch.zeros(1)]), TypeError),
        ("gradient_clip", {"value": 0.0}, ValueError),
        ("gradient_clip", {"values": 1.0}, ValueError),
        ("gradient_clip", {"value": 1.0, "norm": 1.0}, ValueError),
        ("gradient_clip", "1", TypeError),
        ("learning_rate", {"name": "warmup_cosine", "peak": 1e-3}, TypeError),
        ("gradient_clip", math.inf, ValueError),
        ("seed", 2**64, ValueError),
        ("compile", 1, TypeError),
        ("initialize_output_bias", 1, TypeError),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(option, value, error):
    with pytest.raises(error, match=f"{option}|adamm|eps"):
        FitOptions(**{option: value})


# The plan.


def test_a_plan_is_a_function_of_seed_and_step():
    plan = Plan(as_batches(X, 16), 3, CPU)
    steps = list(plan.steps(1, 4))
    noise, order = fold_in(make_key(3), torch.arange(2))
    generator = torch.Generator().manual_seed(int(fold_in(order, 1)[0]))
    for number, (step, rows) in enumerate(zip(steps, torch.randperm(50, generator=generator).split(16), strict=True), start=4):
        assert step.number == number
        assert torch.equal(step.key, fold_in(noise, number))
        assert torch.equal(step.parts[0].batch.index, rows)
        assert torch.equal(step.parts[0].batch.x, X[rows])
    assert plan.expected_steps(1) == len(steps) == 4


@pytest.mark.parametrize("first", [0, 5, 255, 256, 1000])
def test_the_key_of_a_step_does_not_depend_on_where_the_run_began(first):
    plan = Plan(as_batches(torch.rand(600, 2), 2), 0, CPU)
    noise = fold_in(make_key(0), 0)
    expected = fold_in(noise, torch.arange(first, first + 300))
    assert torch.equal(torch.stack([step.key for step in plan.steps(0, first)]), expected)


# The engine.


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_the_engine_leaves_the_data_as_it_is(precision):
    counts = torch.tensor([[1001.0, 257.0, 12345.0]])
    seen = []

    class Keep(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def forward(self, x):
            seen.append((x, self.linear(x)))
            return seen[0][1]

    engine, module = Engine("cpu", precision), Keep()
    wrapped = engine.setup_model(module, ())
    wrapped(counts)
    assert torch.equal(seen[0][0], counts)
    assert seen[0][0].dtype == torch.float32
    assert seen[0][1].dtype == (engine.precision.lower or torch.float32)


def test_a_poisson_model_under_autocast_sees_every_digit_of_a_count():
    counts = torch.tensor([[1001.0, 257.0, 12345.0]])
    vae = vaekit.create_vae(
        input_shape=(3,), latent_dim=1, likelihood="poisson", encoder={"hidden": ()}, decoder={"hidden": ()}, seed=0
    )
    engine = Engine("cpu", "bf16")
    wrapped = engine.setup_model(vae, ())
    rate = []
    vae.decoder.register_forward_hook(lambda module, inputs, output: rate.append(output.detach()))
    terms = wrapped(counts, key=make_key(0))
    expected = torch.nn.functional.poisson_nll_loss(rate[0][:, 0].double(), counts.double(), full=False, reduction="none").sum()
    expected += torch.lgamma(counts.double() + 1).sum()
    assert terms.reconstruction.item() == pytest.approx(float(expected), rel=1e-6)


# The watch.


def test_a_watch_looks_as_often_as_its_clock_says():
    vae, now = model(), [0.0]
    batches = as_batches(X, 10)
    guard = Guard(vae, batches)
    guard.keep()
    state = RunState(vae, torch.optim.SGD(vae.parameters()))
    recorder = Recorder(state, (), TrackedRun(None, state.history, vae, FitOptions()))
    looking = Watch(state, guard, Progress(), recorder, seconds=1.0, clock=lambda: now[0])
    for step in Plan(batches, 0, CPU).steps(0, 0):
        terms = vae(step.parts[0].batch.x, key=step.key).detach()
        looking.add(Taken.of(step, step.parts[0], terms, guard.bad))
        now[0] += 0.4
        if looking.is_due:
            looking.look()
        looked = {0: 0, 1: 0, 2: 3, 3: 3, 4: 3}[step.number]
        assert state.sums._examples.get("loss", 0) == 10 * looked
    looking.look()
    assert state.sums._examples["loss"] == 50
    looking.close()


def test_batches_of_whole_data_are_not_held_until_the_next_look(monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 1e9)
    alive = []

    class Count(vaekit.Callback):
        def on_step_end(self, state):
            gc.collect()
            alive.append(sum(x() is not None for x in seen))

    class Seen(vaekit.Elbo):
        def forward(self, model, batch, context):
            seen.append(weakref.ref(batch.x))
            return super().forward(model, batch, context)

    seen, parts = [], model()
    fit(vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Seen()), callbacks=[Count()], batch_size=5)
    assert max(alive) <= 2  # those of the present step


@pytest.mark.parametrize("after", [3, 4])
def test_an_interrupt_leaves_no_gradients_and_refuses_what_is_not_finite(after, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 1e9)

    class Interrupt(vaekit.Callback):
        def on_step_end(self, state):
            for parameter in state.vae.parameters():
                parameter.grad = torch.ones_like(parameter)
            if state.step == after:
                raise KeyboardInterrupt

    vae = spoil(model(), [3], "total")
    if after == 3:
        assert fit(vae, callbacks=[Interrupt()]).interrupted
    else:
        with pytest.raises(NonFiniteLossError, match="step 3"):
            fit(vae, callbacks=[Interrupt()])
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_an_objective_is_told_the_size_of_the_data():
    class Asks(vaekit.Elbo):
        def forward(self, model, batch, context):
            sizes.append(context.dataset_size)
            return super().forward(model, batch, context)

    sizes, parts = [], model()
    fit(vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=Asks()))
    assert set(sizes) == {50}
