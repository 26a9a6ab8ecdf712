"""A step that failed fails again from its folder, bit for bit, with everything that it depends on; and says where it began."""

import json
import math
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from helpers.ranks import results
from helpers.small_runs import X, fit, model, weights
from helpers.spoiled import Spoiled
from typer.testing import CliRunner

import vaekit
from vaekit import NonFiniteLossError
from vaekit.cli import app
from vaekit.training import replay, watch
from vaekit.training.plan import layers_seeds

SPOILED = "test-spoiled"


@pytest.fixture(autouse=True)
def _registered(own_registries):
    @vaekit.losses.register(SPOILED)
    class Registered(Spoiled):  # not the class itself, which other tests take for one that no folder can hold
        pass


NETWORKS = {"encoder": {"hidden": (8,), "normalization": "batch", "dropout": 0.3}, "decoder": {"hidden": (8,), "dropout": 0.2}}


def failing(out, vae, data=X, **options):
    """The message of a run, and what its loss gave in each step."""
    seen = []
    original = type(vae.loss).forward

    class Keeps(type(vae.loss)):
        def forward(self, *arguments):
            terms = original(self, *arguments)
            seen.append((arguments[2].step, terms.detach(), arguments[1].x.clone()))
            return terms

    vae.loss.forward = Keeps.forward.__get__(vae.loss)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(vae, data, out=out, **{"epochs": 3, "batch_size": 12, "learning_rate": 0.02, **options})
    del vae.loss.forward
    return str(caught.value), seen


@pytest.mark.parametrize("how", ["term", "gradient", "extra"])
@pytest.mark.parametrize("step", [0, 6])
@pytest.mark.parametrize(
    ("data", "options"),
    [
        ("whole", {}),
        ("whole", {"optimizer": "adamax", "ema": 0.9, "gradient_clip": 3.0}),
        ("whole", {"accumulate": 2, "batch_size": 5}),
        ("loader", {"optimizer": {"name": "sgd", "momentum": 0.9}, "accumulate": 2}),
        ("whole", {"precision": "bf16"}),
    ],
    ids=["plain", "ema", "parts", "loader", "bf16"],
)
def test_a_step_fails_again_as_it_did(tmp_path, monkeypatch, step, how, data, options):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 1e9)
    before = []

    class Keep(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == step:
                before.append((weights(state.vae), {n: b.clone() for n, b in state.vae.named_buffers()}))
                before.append(json.dumps(state.optimizer.state_dict(), default=lambda tensor: tensor.tolist()))

    given = X if data == "whole" else torch.utils.data.DataLoader(X, batch_size=6, shuffle=True)
    accumulated = options.get("accumulate", 1)
    vae = model(loss={"name": SPOILED, "steps": [step], "how": how}, **NETWORKS)
    start = (weights(vae), {n: b.clone() for n, b in vae.named_buffers()})
    message, seen = failing(tmp_path, vae, given, callbacks=[Keep()], **options)
    folder = tmp_path / f"nonfinite-{step:06d}"
    assert f"to take that step again: vaekit replay {folder}" in message
    torch.manual_seed(99)
    replayed = replay(folder)
    assert replayed.is_same, replayed.differences
    assert replayed.step.number == step
    held, buffers = before[0] if step else start
    assert torch.equal(weights(replayed.vae), held)
    for name, buffer in replayed.vae.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    if step:
        assert json.dumps(dict(replayed.optimizer), default=lambda tensor: tensor.tolist()) == before[1]
    assert (replayed.average is None) == ("ema" not in options)
    in_run = [(terms, x) for number, terms, x in seen if number == step][:accumulated]  # afterwards the guard takes it again
    assert len(in_run) == len(replayed.step.parts) == accumulated
    for (terms, x), again, part in zip(in_run, replayed.findings.terms, replayed.step.parts, strict=True):
        assert torch.equal(x, part.batch.x)
        torch.testing.assert_close(terms[:3], again[:3], rtol=0, atol=0, equal_nan=True)
    gradients = [p.grad for p in replayed.vae.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients) == (how != "gradient")
    assert [line for line in message.split("\n") if "vaekit replay" not in line] == replayed.message.split("\n")


def test_the_gradients_are_those_of_a_loop_by_hand(tmp_path):
    vae = model(loss={"name": SPOILED, "steps": [2], "how": "extra"})
    failing(tmp_path, vae)
    replayed = replay(tmp_path / "nonfinite-000002")
    by_hand = vaekit.load(tmp_path / "last").train()
    step = replayed.step
    by_hand(step.parts[0].batch.x, key=step.key, step=2).total.backward()
    for one, other in zip(by_hand.parameters(), replayed.vae.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_the_first_module_and_the_first_gradient_that_are_not_finite_are_named(tmp_path):
    vae = model(decoder={"hidden": (8, 8)})
    vae.decoder.body[2].register_forward_hook(lambda module, given, output: output / 0 if vae.training else output)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(vae, out=tmp_path)
    said = str(caught.value)
    assert "the first output that is not finite: decoder.body.2 (Linear), 128 of 128 values" in said
    assert "the first gradient that is not finite: decoder.head" in said
    replayed = replay(tmp_path / "nonfinite-000000")  # where the hook is missing
    assert not replayed.is_same
    assert "reconstruction" in replayed.differences
    names = [row[0] for row in replayed.table()]
    assert names.index("encoder.body.0") < names.index("encoder") < names.index("decoder.body.2") < names.index("decoder")
    assert {row[0] for row in replayed.gradients()[1:]} == {name for name, _ in vae.named_parameters()}


def test_frozen_parts_and_modules_in_evaluation_mode_are_so_again(tmp_path):
    vae = model(loss={"name": SPOILED, "steps": [1]}, **NETWORKS)
    vae.encoder.requires_grad_(False).eval()
    failing(tmp_path, vae)
    again = replay(tmp_path / "nonfinite-000001")
    assert again.is_same
    assert not any(module.training for module in again.vae.encoder.modules())
    assert all(module.training for module in again.vae.decoder.modules())
    assert [p.requires_grad for p in again.vae.parameters()] == [p.requires_grad for p in vae.parameters()]


def test_a_conditional_model_is_told_the_same_again(tmp_path):
    vae = model(loss={"name": SPOILED, "steps": [1]}, condition={"name": "labels", "classes": 3})
    failing(tmp_path, vae, (X, torch.arange(50) % 3))
    again = replay(tmp_path / "nonfinite-000001")
    assert again.is_same
    assert torch.equal(again.step.parts[0].batch.condition, again.step.parts[0].batch.index % 3)


def test_nothing_is_left_without_a_folder_and_the_message_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message, _ = failing(None, model(loss={"name": SPOILED}))
    assert "out= would have left a folder with that step, for `vaekit replay`" in message
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_does_not_hide_the_failure(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["vaekit.training.replay"], "write_atomically", full)
    with pytest.raises(NonFiniteLossError, match="(?s)step 3: reconstruction is not finite.*no folder could be .*No space left"):
        fit(model(loss={"name": SPOILED, "steps": [3]}), out=tmp_path)


def test_what_layers_draw_from_python_and_numpy_is_drawn_again_when_the_step_is():
    vae = model(loss={"name": SPOILED, "steps": [3]})
    vae.encoder.register_forward_pre_hook(lambda m, given: (given[0] * (random.random() + np.random.rand()) / 2, *given[1:]))
    with pytest.raises(NonFiniteLossError) as caught:
        fit(vae)
    assert "step 3" in str(caught.value)
    assert "something in it is random" not in str(caught.value)


def test_an_error_while_the_step_is_taken_again_does_not_hide_the_failure(tmp_path):
    vae, calls = model(loss={"name": SPOILED, "steps": [3]}), []

    def once(module, given):
        calls.append(module)
        if len(calls) > 5:
            raise RuntimeError("no more")

    vae.encoder.register_forward_pre_hook(once)

    class Stop(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == 4:
                raise KeyboardInterrupt

    calls.append(None)
    with pytest.raises(NonFiniteLossError, match="(?s)step 3: reconstruction.*could not be taken again .* RuntimeError: no more"):
        fit(vae, out=tmp_path, callbacks=[Stop()])


def test_a_step_that_draws_from_elsewhere_is_said_to_be_random(tmp_path):
    generator = torch.Generator()
    vae = model(loss={"name": SPOILED, "steps": [3]})
    vae.encoder.register_forward_hook(
        lambda module, given, output: vaekit.DiagonalGaussian(output.mu + torch.rand(2, generator=generator), output.logvar)
    )
    with pytest.raises(
        NonFiniteLossError, match="taken again, the step gave other values: reconstruction and kl; something in it is random"
    ):
        fit(vae)


def test_a_run_that_gives_up_after_steps_left_out_leaves_the_first_of_the_last_row(tmp_path):
    vae = model(loss={"name": SPOILED, "steps": [7]})
    original = vae.loss.forward

    def always(given, batch, context):
        terms = original(given, batch, context)
        return terms if context.step is None or context.step < 6 else terms._replace(total=terms.total * math.nan)

    vae.loss.forward = always
    with pytest.warns(UserWarning, match="epoch 2: 2 of 4"), pytest.raises(NonFiniteLossError, match="nonfinite-000006"):
        fit(vae, epochs=5, out=tmp_path, on_nonfinite="skip")
    assert torch.equal(weights(replay(tmp_path / "nonfinite-000006").vae), weights(vae))


# Folders that are none, or damaged.


@pytest.fixture
def folder(tmp_path):
    failing(tmp_path, model(loss={"name": SPOILED, "steps": [1]}))
    return tmp_path / "nonfinite-000001"


def test_nothing_is_pickled(folder, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    for module in (pickle, torch.serialization.pickle):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert replay(folder).is_same
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors", "step.json", "step.safetensors"}


@pytest.mark.parametrize("file", ["step.json", "step.safetensors", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_folder_that_is_damaged_is_refused_by_name(folder, file, damage):
    content = (folder / file).read_bytes()
    if damage == "missing":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises((ValueError, OSError), match="nonfinite-000001"):
        replay(folder)


def test_another_folder_is_refused(tmp_path):
    fit(model(), out=tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"has no step.json: it is not the folder of a step that failed, nonfinite-000123"
    ):
        replay(tmp_path)


# Of several processes


class SpoiledByChance(vaekit.Elbo):
    """Not finite in a step in which a number drawn as layers draw it is above a limit."""

    def __init__(self, step, above):
        super().__init__()
        self.step, self.above = step, above

    def forward(self, model, batch, context):
        terms = super().forward(model, batch, context)
        if context.step == self.step and float(torch.rand(())) > self.above:
            return terms._replace(total=terms.total * math.nan)
        return terms


BY_CHANCE = "test-spoiled-by-chance"


def drawn(step, part):
    """What the processes of a run draw first in a step."""
    with torch.random.fork_rng():
        torch.manual_seed(layers_seeds(vaekit.step_key(0, step), part).torch)
        return float(torch.rand(()))


def in_processes(folder):
    """The messages of two runs: the objective is not finite in both processes, or in the second alone."""
    vaekit.losses.register(BY_CHANCE)(SpoiledByChance)
    said = []
    for name, above in (("both", -1.0), ("second", drawn(STEP, 0))):
        vae = model(loss={"name": BY_CHANCE, "step": STEP, "above": above})
        with pytest.raises(NonFiniteLossError) as caught:
            fit(vae, X, out=folder / name, epochs=3)
        said.append(str(caught.value))
    return said


STEP = next(step for step in range(3, 12) if drawn(step, 1) > drawn(step, 0))


def test_a_failure_that_needs_several_processes_says_so(tmp_path, own_registries):
    first, second = results(in_processes, 2, tmp_path)
    assert first == second
    vaekit.losses.register(BY_CHANCE)(SpoiledByChance)
    both, alone = (replay(tmp_path / name / f"nonfinite-{STEP:06d}") for name in ("both", "second"))
    assert both.is_same
    assert alone.is_same
    assert (both.processes, both.fails, alone.fails) == (2, True, False)
    needs = "taken again by one process, the step is finite: the failure needs the 2 processes of the run"
    assert needs not in first[0]
    assert needs in first[1]
    ended = CliRunner().invoke(app, ["replay", str(tmp_path / "both" / f"nonfinite-{STEP:06d}")])
    assert ended.exit_code == 0
    assert "is as it was when one of the 2 processes of the run took it again, bit for bit" in ended.output
    ended = CliRunner().invoke(app, ["replay", str(tmp_path / "second" / f"nonfinite-{STEP:06d}")])
    assert ended.exit_code == 1
    assert needs in " ".join(ended.output.split())
