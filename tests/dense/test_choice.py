"""Laws of the choice between two libraries: a function of machine and shape, the same in every process and call."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from helpers.small_runs import fit
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit import dense
from vaekit.dense import Linear, Products, choice, onednn, record

HAS_ONEDNN = onednn.obstacle() is None
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="oneDNN is not used here")
SHAPE = choice.Shape(1, 64, 300, 300)  # just large enough
FASTER = dict.fromkeys(Products._fields, (0.002, 0.001))
SLOWER = dict.fromkeys(Products._fields, (0.001, 0.002))


@pytest.fixture
def timings(monkeypatch):
    """What measuring finds is what this list says, one after the other; what was measured is noted."""
    noted, found = [], []

    def measured(shape, weight):
        noted.append(shape)
        return found.pop(0)

    monkeypatch.setattr(choice, "measured", measured)
    return found, noted


times = st.floats(1e-6, 1.0)


@given(of=st.tuples(*[st.tuples(times, times)] * 3), threads=st.integers(1, 64))
def test_what_is_clearly_faster_and_repays_the_detour_is_chosen_and_takes_its_equals_along(of, threads):
    seconds = dict(zip(Products._fields, of, strict=True))
    decision = choice.decided(seconds, threads)
    chosen = [times for times, is_chosen in zip(of, decision, strict=True) if is_chosen]
    if chosen:
        assert all(1.1 * own > other for own, other in chosen)
        assert any(own >= 1.1 * other for own, other in chosen)
        assert sum(own - other for own, other in chosen) / threads >= 40e-6 * (1 - 1e-9)
        assert all(own < 1.1 * other for own, other in set(of) - set(chosen))
    if all(own <= other for own, other in of):
        assert decision == choice.PLAIN
    if all(own >= 2 * other and own - other >= 40e-6 * threads for own, other in of):
        assert decision == Products(True, True, True)
    scaled = {name: (own, other * 0.5) for name, (own, other) in seconds.items()}
    assert all(now >= before for now, before in zip(choice.decided(scaled, threads), decision, strict=True))


@given(rows=st.integers(1, 10_000), features=st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_rows_are_rounded_up_to_a_power_of_two_and_a_name_says_all(rows, features):
    shape = choice.shape_of(rows, *features)
    assert shape.rows >= min(rows, 256)
    assert shape.rows < 2 * rows or shape.rows == 1
    assert shape.rows & (shape.rows - 1) == 0
    assert choice.Shape.named(shape.name) == shape


@needs_onednn
@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("seconds", [FASTER, SLOWER])
def test_a_shape_is_measured_once_and_the_same_with_gradients_and_without(recording, seconds, timings):
    found, noted = timings
    found.append(seconds)
    layer, x = Linear(300, 300), torch.randn(50, 300)
    with torch.set_grad_enabled(recording):
        layer(x)
    layer(x)
    Linear(300, 300)(torch.randn(64, 300))  # another layer
    assert noted == [SHAPE]
    assert choice.chosen(50, layer.weight) == choice.decided(seconds, 1)


def test_small_layers_are_not_measured(timings):
    Linear(784, 200)(torch.randn(16, 784))
    Linear(200, 50)(torch.randn(256, 200))
    assert timings[1] == []


@needs_onednn
def test_the_first_measurement_is_the_machines(timings, monkeypatch):
    found, noted = timings
    found += [FASTER, SLOWER]
    weight = torch.zeros(300, 300)
    assert choice.chosen(64, weight) == Products(True, True, True)
    monkeypatch.setattr(choice, "_decided", {})  # as in another process
    assert choice.chosen(64, weight) == Products(True, True, True)
    assert len(noted) == 1
    record.keep(SHAPE.without_threads, {"seconds": "another's"})  # which comes too late
    (file,) = record.folder().glob("*.json")
    assert json.loads(file.read_text())["machine"] == record.machine()
    file.write_text("[" * 100_000)  # damaged
    monkeypatch.setattr(choice, "_decided", {})
    assert choice.chosen(64, weight) == choice.PLAIN
    assert len(noted) == 2


@needs_onednn
def test_of_two_processes_that_measure_at_once_the_first_decides(timings, monkeypatch):
    def measured(shape, weight):
        other = {name: {"torch": own, "oneDNN": theirs} for name, (own, theirs) in FASTER.items()}
        record.keep(shape.without_threads, {"seconds": other})
        return SLOWER

    monkeypatch.setattr(choice, "measured", measured)
    assert choice.chosen(64, torch.zeros(300, 300)) == Products(True, True, True)


@needs_onednn
def test_a_folder_that_cannot_be_written_is_done_without(timings, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "file"))
    timings[0].append(FASTER)
    assert choice.chosen(64, torch.zeros(300, 300)) == Products(True, True, True)
    assert choice.chosen(64, torch.zeros(300, 300)) == Products(True, True, True)


@needs_onednn
def test_the_decisions_of_a_process_are_taken_over_on_such_a_machine_only(timings, monkeypatch):
    timings[0].extend([FASTER, SLOWER])
    weight = torch.zeros(300, 300)
    choice.chosen(64, weight)
    state = json.loads(json.dumps(dense.state()))
    for machine, expected in ((record.name(), Products(True, True, True)), ("another", choice.PLAIN)):
        monkeypatch.setattr(choice, "_decided", {})
        for file in record.folder().glob("*.json"):
            file.unlink()
        dense.restore({**state, "machine": machine})
        assert choice.chosen(64, weight) == expected
    dense.restore({})


@needs_onednn
def test_measuring_takes_real_times_and_leaves_everything_as_it_was():
    torch.set_num_threads(2)
    weight = torch.nn.Parameter(torch.randn(300, 300))
    generator = torch.get_rng_state()
    seconds = choice.measured(SHAPE, weight.detach())
    assert set(seconds) == set(Products._fields)
    assert all(0 < value < float("inf") for both in seconds.values() for value in both)
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), generator)
    assert weight.grad is None


# --- a torch that is otherwise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("_linear_pointwise", None, "has no mkldnn::_linear_pointwise"),
        ("_precision_of", None, "has no torch._C._get_fp32_precision_getter"),
        ("_linear_pointwise", lambda x, weight: x, "fails .TypeError"),
        ("_linear_pointwise", lambda x, w, b, *_: (x @ w.t()).bfloat16().float() + (0 if b is None else b), "is wrong"),
        ("_linear_pointwise", lambda x, w, b, *_: x @ w.t(), "is wrong"),
    ],
)
def test_an_operator_that_is_not_what_it_was_is_not_used_and_the_doctor_says_why(name, value, reason, monkeypatch, timings):
    monkeypatch.setattr(onednn, name, value)
    if HAS_ONEDNN:
        (words,) = dense.described().values()
        assert re.search(reason, words)
    layer, x = Linear(300, 300), torch.randn(64, 300, requires_grad=True)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    with dense.forced(Products(True, True, True)):
        assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x), expected)
    layer(x).sum().backward()
    assert timings[1] == []


def test_a_variable_turns_it_off(monkeypatch):
    monkeypatch.setenv("VAEKIT_ONEDNN", "0")
    assert dense.described() == {"dense layers": "torch (VAEKIT_ONEDNN=0 is set)"}


@needs_onednn
def test_the_doctor_says_what_was_measured(timings):
    timings[0].append(FASTER)
    choice.chosen(64, torch.zeros(300, 300))
    (record.folder() / "notes.json").write_text("{}")
    first, measured = dense.described().items()
    assert f"shapes measured: 1, with a product by oneDNN: 1; kept in {record.folder()}" in first[1]
    assert measured[0] == "64 x 300 to 300, threads: 1"
    assert measured[1].startswith(
        "oneDNN: forward, grad_input, grad_weight; torch and oneDNN in one thread: forward 2000 and 1000 us"
    )


# --- runs ----------------------------------------------------------------------------------------------------------------


def large_model():
    parts = {"encoder": {"name": "mlp", "hidden": (300, 300)}, "decoder": {"name": "mlp", "hidden": (300, 300)}}
    return vaekit.create_vae(input_shape=(300,), latent_dim=2, seed=0, likelihood="gaussian", **parts)


@needs_onednn
def test_a_run_records_what_computes_its_layers_and_goes_on_with_it(tmp_path, timings, monkeypatch):
    found, noted = timings
    x = torch.randn(64, 300)
    found.append(FASTER)
    fit(large_model(), x, validation=x, epochs=2, batch_size=64, out=tmp_path / "whole")
    assert noted == [SHAPE]
    [session] = json.loads((tmp_path / "whole" / "environment.json").read_text())
    assert session["dense layers"] == {"64 x 300 to 300, threads: 1": "oneDNN: forward, grad_input, grad_weight"}
    fit(large_model(), x, validation=x, epochs=1, batch_size=64, out=tmp_path / "parts")
    for file in record.folder().glob("*.json"):  # another container on the same machine, whose timings come out otherwise
        file.unlink()
    monkeypatch.setattr(choice, "_decided", {})
    found.append(SLOWER)
    fit(large_model(), x, validation=x, epochs=2, batch_size=64, out=tmp_path / "parts", resume=True)
    assert noted == [SHAPE]
    for name in ("history.csv", "last/model.safetensors"):
        one, other = ((tmp_path / run / name).read_bytes() for run in ("whole", "parts"))
        assert one == other


RUN = """
import torch, vaekit
torch.set_num_threads(1)
parts = {"encoder": {"name": "mlp", "hidden": (600,)}, "decoder": {"name": "mlp", "hidden": (600,)}}
vae = vaekit.create_vae(input_shape=(400,), latent_dim=2, seed=0, **parts)
x = torch.rand(80, 400, generator=torch.Generator().manual_seed(0))
history = vaekit.fit(vae, x, validation=x, epochs=2, batch_size=32, progress=False)
print(history["loss"], history["val_loss"], [p.double().sum().item() for p in vae.parameters()])
"""


def test_two_runs_of_one_command_give_the_same_bits(tmp_path):
    environment = {**os.environ, "VAEKIT_DATA": str(tmp_path / "both")}
    first, again = (
        subprocess.run(
            [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    )
    assert first == again != ""
    if HAS_ONEDNN:
        assert list((tmp_path / "both").rglob("*.json"))
