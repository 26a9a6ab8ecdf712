"""strategy="fsdp": the weights are divided within the steps, and whole wherever somebody looks at them.

That a run is the one that a single process makes is in test_over_processes.
"""

import copy
import os
import warnings

import pytest
import torch
from helpers.ranks import launch, results
from helpers.small_runs import X, fit, model, weights
from torch.distributed.tensor import DTensor

import vaekit
from vaekit.training import shards
from vaekit.training.scaling import Scaler

SCALE = {"likelihood": {"name": "gaussian", "variance": "shared"}}  # a parameter without axes
OPTIMIZERS = sorted({*vaekit.optimizers.names()} - {"adafactor"})
ALL = {"ema": 0.9, "learning_rate": {"name": "cosine", "start": 0.01, "end": 0.001, "steps": 12}}


def divided(vae, data=X, **options):
    shards.UNIT = 20  # layers of these tests are small
    return fit(vae, data, strategy="fsdp", **options)


def in_the_last():
    return int(os.environ.get("WORLD_SIZE", "1")) - 1 == int(os.environ.get("RANK", "0"))


# What there is of the model, and when


class Looks(vaekit.Callback):
    """Notes the forms of the weights, draws from the model in one process alone, and moves a weight, a mode and a flag."""

    def __init__(self):
        self.forms, self.own, self.samples, self.average = [], set(), [], []

    def note(self, state):
        self.forms.append({type(parameter) for parameter in state.vae.parameters()})

    def on_fit_start(self, state):
        self.note(state)

    def on_step_end(self, state):
        assert all(isinstance(parameter, DTensor) for parameter in state.vae.parameters())
        self.own.add(sum(parameter.to_local().numel() for parameter in state.vae.parameters()))
        held = [value for one in state.optimizer.state.values() for value in one.values() if value.ndim]
        assert all(isinstance(value, DTensor) for value in held)
        if state.rank == 0:  # alone, for what takes all of them
            with pytest.raises(RuntimeError, match="divided among the processes until the end of the epoch"):
                state.vae.sample(2)

    def on_validation_end(self, state):
        self.note(state)

    def on_epoch_end(self, state):
        self.note(state)
        if state.rank == 0:
            with state.averaged() as vae:
                self.samples.append(vae.sample(3))
        if state.epoch == 0:
            with torch.no_grad():
                state.vae.decoder.body[0].weight[7, 1] = 5.0
            state.vae.decoder.requires_grad_(False)
            self.moved = weights(state.vae.decoder).clone()
        else:
            self.stayed = torch.equal(self.moved, weights(state.vae.decoder))

    on_fit_end = note


def whole_and_in_parts(folder):
    vae = model(**SCALE)
    parameters, attributes = list(vae.parameters()), [set(vars(module)) for module in vae.modules()]
    kinds = [type(module) for module in vae.modules()]
    looks = Looks()
    keeper = vaekit.ModelCheckpoint(os.path.join(folder, "kept"), monitor="loss", keep=2)
    history = divided(vae, validation=X[:20], out=os.path.join(folder, "run"), callbacks=[looks, keeper], **ALL)
    assert all(one is other for one, other in zip(parameters, vae.parameters(), strict=True))
    assert [type(module) for module in vae.modules()] == kinds
    assert [set(vars(module)) for module in vae.modules()] == attributes
    assert not any(number for module in vae.modules() for number in module._forward_pre_hooks_with_kwargs)
    copy.deepcopy(vae)
    divided(vae, epochs=1)  # again
    return looks.forms, looks.own, looks.stayed, len(looks.samples), dict(history), weights(vae)


def refused():
    """What cannot be divided, and that a model which was refused is as before."""
    said = {}

    def why(name, vae, **options):
        before = {key: value.clone() for key, value in vae.state_dict().items()}
        with pytest.raises(ValueError, match=r"cannot|matches no parameter") as raised:
            divided(vae, **options)
        said[name] = str(raised.value)
        torch.testing.assert_close(dict(vae.state_dict()), before, rtol=0, atol=0)

    why("compiled", model(), compile=True)
    why("adafactor", model(), optimizer={"name": "adafactor"})
    why("no group", model(), optimizer={"name": "sgd", "groups": {"nobody": {"lr": 0.1}}})
    (mixed := model()).encoder.double()
    why("mixed", mixed)
    tied, turned = model(), model()
    tied.encoder.body[0].bias = tied.decoder.body[0].bias
    why("tied", tied)
    weight = turned.encoder.body[0].weight
    weight.data = weight.data.t().contiguous().t()
    why("turned", turned)
    return said


def optimized(name, strategy="fsdp"):
    """The weights after a run with this optimizer."""
    shards.UNIT = 20
    vae = model(**SCALE).double()
    fit(vae, X.double(), optimizer=name, strategy=strategy, epochs=1, learning_rate=1e-3)
    return weights(vae)


def in_one_program(folder):
    seen = {"whole": whole_and_in_parts(folder), "refused": refused(), "overflow": overflow()}
    return {**seen, "optimized": {name: optimized(name) for name in OPTIMIZERS}}


def overflow():
    """The scales of a run in float16 in which the gradient of a weight's last row, which the second process has, overflows."""
    vae, scales, update = model(), [], Scaler.update
    layer, head = vae.encoder.body[0], vae.encoder.head
    with torch.no_grad():
        layer.weight[-1], layer.bias[-1], head.weight[:2, -1], head.weight[2:, -1] = 0.0, 1e-4, 1e4, 0.0

    def noted(scaler, new_scale=None):
        update(scaler, new_scale)
        scales.append(scaler.get_scale())

    Scaler.update = noted
    try:
        divided(vae, precision="16", epochs=1)
    finally:
        Scaler.update = update
    return scales


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return results(in_one_program, 2, str(folder)), folder


def test_it_is_in_parts_within_the_steps_and_whole_elsewhere(program):
    of_ranks, folder = program
    total = sum(parameter.numel() for parameter in model(**SCALE).parameters())
    own = [next(iter(rank["whole"][1])) for rank in of_ranks]
    assert sum(own) == total + 1  # of the scale each has one
    assert max(own) <= 0.51 * total
    for forms, steps, stayed, _, history, learned in (rank["whole"] for rank in of_ranks):
        assert len(steps) == 1
        assert forms == [{torch.nn.Parameter}] * 6
        assert stayed  # what a callback freezes, and sets
        assert torch.equal(learned, of_ranks[0]["whole"][5])
        assert history == of_ranks[0]["whole"][4]
    assert [rank["whole"][3] for rank in of_ranks] == [2, 0]
    for name in ("run/best", "run/last", "kept/epoch-0002"):
        assert vaekit.load(folder / name).sample(2).shape == (2, 6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("compiled", "compile=True compiles a model that is whole"),
        ("adafactor", "PyTorch's Adafactor takes means over the rows and columns of whole weights"),
        ("mixed", "the weights are float32 and float64, and have to be of one dtype"),
        ("tied", "encoder.body.0.bias and decoder.body.0.bias are one parameter"),
        ("turned", "encoder.body.0.weight is not contiguous in memory"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_a_reason(name, reason, program):
    for rank in program[0]:
        assert f'strategy="fsdp" cannot divide this run: {reason}' in rank["refused"][name]
        assert 'strategy="ddp" has the whole model in every process' in rank["refused"][name]


def test_a_gradient_that_overflows_in_one_part_is_left_out_in_all(program):
    first, second = (rank["overflow"] for rank in program[0])
    assert first[0] == 2.0**15
    assert first == second


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_updates_parts_as_it_updates_the_whole(name, program):
    for rank in program[0]:
        torch.testing.assert_close(rank["optimized"][name], optimized(name, "auto"), rtol=1e-8, atol=1e-9)


def test_one_process_has_one_part():
    fit(alone := model())
    divided(vae := model())
    assert torch.equal(weights(vae), weights(alone))


# Going on with a run


class Interrupts(vaekit.Callback):
    """Interrupts within the second epoch, as SIGTERM to the last process would."""

    def on_step_end(self, state):
        if in_the_last() and state.step == 6:
            state.interrupt = "a test"


def run(folder, strategy, **options):
    shards.UNIT = 20
    vae = model(**SCALE)
    history = fit(vae, X, validation=X[:20], epochs=3, out=folder, strategy=strategy, **ALL, **options)
    return weights(vae), dict(history)


def resumed(folder):
    """Runs that were interrupted, and those that go on with them."""
    never = run(folder / "never", "fsdp")
    run(folder / "same", "fsdp", callbacks=[Interrupts()])
    run(folder / "left", "fsdp", callbacks=[Interrupts()])
    return {
        "never": never,
        "by as many": run(folder / "same", "fsdp", resume=True),
        "after one alone": run(folder / "alone", "fsdp", resume=True),
        "whole": run(folder / "ddp", "ddp", callbacks=[Interrupts()])[0:0] or run(folder / "ddp", "fsdp", resume=True),
    }


def test_a_run_goes_on_with_another_number_of_parts(tmp_path):
    run(tmp_path / "alone", "auto", callbacks=[Interrupts()])
    first, second = results(resumed, 2, tmp_path)
    alone = run(tmp_path / "left", "auto", resume=True)
    for one in (first, second):
        assert torch.equal(one["by as many"][0], one["never"][0])
        assert one["by as many"][1] == one["never"][1]
    for learned, history in (*first.values(), *second.values(), alone):
        torch.testing.assert_close(learned, first["never"][0], rtol=1e-3, atol=1e-5)
        for name, values in first["never"][1].items():
            assert history[name] == pytest.approx(values, rel=1e-4)


# Failures


def not_finite(folder, strategy):
    """As in test_processes: example 12, which the second process has, is too large."""
    shards.UNIT = 20
    x = X.clone()
    x[12] = 1e30
    vae = model(likelihood="gaussian")
    with pytest.raises(vaekit.NonFiniteLossError) as raised:
        fit(vae, x, batch_size=len(x), out=os.path.join(folder, "run"), strategy=strategy, ema=0.9)
    skipping = model(likelihood="gaussian")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = fit(skipping, x, batch_size=25, on_nonfinite="skip", strategy=strategy, ema=0.9)
    return str(raised.value), weights(vae), weights(skipping), dict(history), history.skipped


def test_all_end_at_what_is_not_finite_on_one_as_one_process_does(tmp_path):
    first, second = results(not_finite, 2, str(tmp_path / "two"), "fsdp")
    alone = not_finite(str(tmp_path / "one"), "auto")
    assert first[0] == second[0] == alone[0].replace(str(tmp_path / "one"), str(tmp_path / "two"))
    for rank in (first, second):
        assert torch.equal(rank[1], weights(model(likelihood="gaussian")))
        torch.testing.assert_close(rank[2], alone[2], rtol=1e-3, atol=1e-5)
        assert rank[3:] == first[3:]
    assert first[4] == [1, 1]
    [folder] = (tmp_path / "two" / "run").glob("nonfinite-*")
    assert vaekit.training.replay(folder).differences == []
    assert torch.equal(weights(vaekit.load(tmp_path / "two" / "run" / "last")), first[1])


class Fails(vaekit.Callback):
    def __init__(self, event):
        setattr(self, event, self.fail)

    def fail(self, state):
        if in_the_last() and state.step >= 6:
            raise KeyError("the reason")


def fails(folder, event):
    divided(vae := model(), out=os.path.join(folder, "run"), callbacks=[Fails(event)], checkpoint_minutes=0.0)
    return weights(vae)


@pytest.mark.parametrize("event", ["on_step_end", "on_epoch_end"])
def test_a_process_that_fails_ends_the_others_and_leaves_the_last_checkpoint(event, tmp_path):
    first, second = launch(fails, 2, str(tmp_path), event, seconds=60)
    assert (first.code, second.code) == (1, 1)
    assert "OtherProcessError: process 1 has failed, and this one, 0, with it: KeyError: 'the reason'" in first.error
    assert "KeyError: 'the reason'" in second.error
    if event == "on_step_end":
        assert "the run ended where this process had a part of the weights only" in first.output
    assert vaekit.resume(tmp_path / "run", X, progress=False).epochs == 2
