"""What the processes of a run say and do: who writes, who draws what, how they end together, and what is said when one fails."""

import math
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from helpers.ranks import launch, results
from helpers.small_runs import X, fit, model, weights
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import vaekit
from vaekit.training.processes import Place, checked_devices, place_of_this_process

RANK = "RANK"


def rank():
    return int(os.environ[RANK])


# Several things that end well, in one launch


class StopsOnTheSecond(vaekit.Callback):
    def on_step_end(self, state):
        state.stop = state.rank == 1 and state.step == 3


class InterruptsOnTheSecond(vaekit.Callback):
    def on_step_end(self, state):
        if state.rank == 1 and state.step == 5:
            state.interrupt = "a test"


class Counts(vaekit.Callback):
    def __init__(self):
        self.steps, self.ranks = 0, set()

    def on_step_end(self, state):
        self.steps += 1
        self.ranks.add(state.rank)


class Draws(nn.Module):
    """Dropout of a half, and what it let through."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        kept = torch.rand_like(x[:, :1]) < 0.5
        self.seen.append(kept.flatten().tolist())
        return x * kept * 2.0


def with_dropout():
    vae = model()
    vae.encoder.body.append(draws := Draws())
    return vae, draws


def ends_well(folder):
    seen = {
        "stopped": (counts := Counts()) and fit(model(), callbacks=[counts, StopsOnTheSecond()]).epochs,
        "steps": counts.steps,
    }
    history = fit(model(), callbacks=[counts := Counts(), InterruptsOnTheSecond()])
    seen["interrupted"] = (history.interrupted, history.reason, history.epochs, counts.steps, counts.ranks)
    vae, draws = with_dropout()
    fit(vae)
    again, draws_again = with_dropout()
    fit(again)
    seen["dropout"] = (draws.seen, draws_again.seen, weights(vae))

    dataset = TensorDataset(X)
    sharded = DataLoader(dataset, batch_size=8, sampler=DistributedSampler(dataset, shuffle=False))
    seen["sharded"] = weights(trained(sharded, progress=True))
    seen["shared"] = weights(trained(DataLoader(dataset, batch_size=16), progress=True))
    schedule = {"name": "linear", "start": 0.01, "end": 0.0}  # over the whole run, which is as long as the longest shard
    uneven = DataLoader(TensorDataset(X[20 * rank() : 20 + 30 * rank()]), batch_size=5)
    fit(scheduled := model(), uneven, learning_rate=schedule)
    seen["uneven"] = weights(scheduled)
    seen["shuffled"] = weights(trained(DataLoader(dataset, batch_size=16, shuffle=True)))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss = {"name": "elbo", "beta": {"name": "linear", "steps": 1000, "end": 1.0}}
        history = fit(model(loss=loss), out=os.path.join(folder, "run"), progress=True, validation=X)
    seen["warnings"] = [str(one.message) for one in caught if one.category is UserWarning]
    seen["history"] = dict(history)
    return seen


def trained(loader, **options):
    vae = model(loss="beta_tc")
    fit(vae, loader, validation=loader, **options)
    return vae


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ended = launch(ends_well, 2, str(folder))
    assert [one.code for one in ended] == [0, 0], "\n".join(one.error for one in ended)
    return ended, folder


def test_all_stop_at_the_step_at_which_one_wants_to(ended):
    for one in ended[0]:
        assert (one.result["stopped"], one.result["steps"]) == (1, 3)
        assert one.result["interrupted"][:4] == (True, "a test", 1, 5)
    assert [one.result["interrupted"][4] for one in ended[0]] == [{0}, {1}]


def test_layers_draw_for_each_process_and_the_same_again(ended):
    first, second = (one.result["dropout"] for one in ended[0])
    assert first[0] == first[1]
    assert second[0] == second[1]
    assert first[0][0] != second[0][0]
    assert torch.equal(first[2], second[2])


def test_a_loader_for_all_or_of_shards_gives_the_run_of_one_process(ended):
    alone = weights(trained(DataLoader(TensorDataset(X), batch_size=16)))
    shuffled = weights(trained(DataLoader(TensorDataset(X), batch_size=16, shuffle=True)))
    # DistributedSampler deals examples out in turn: rank 0 has 0, 2, 4, ..., so that a batch of both has another order.
    dealt = [row for first in range(0, 50, 16) for r in range(2) for row in range(50)[r::2][first // 2 : first // 2 + 8]]
    sharded = weights(trained(DataLoader(TensorDataset(X[dealt]), batch_size=16)))
    for one in ended[0]:
        torch.testing.assert_close(one.result["shared"], alone, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(one.result["shuffled"], shuffled, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(one.result["sharded"], sharded, rtol=1e-3, atol=1e-5)


def test_the_learning_rate_is_the_same_in_all_however_long_their_shards_are(ended):
    first, second = (one.result["uneven"] for one in ended[0])
    assert torch.equal(first, second)


def test_the_first_process_says_once_how_a_loader_is_divided(ended):
    first, second = (one.output for one in ended[0])
    assert first.count("each of the 2 processes reads batches of its own") == 1
    assert first.count("the 2 processes read the same batches, and each takes its share of every one") == 1
    assert "reads batches" not in second


def test_the_first_process_alone_writes_and_says_anything(ended):
    (first, second), folder = ended
    assert {file.name for file in (folder / "run").iterdir()} >= {"best", "last", "history.csv"}
    assert "epoch" in first.output
    assert second.output == ""
    assert "find_unused_parameters" not in first.output
    assert len(first.result["warnings"]) == 1
    assert second.result["warnings"] == []
    assert first.result["history"] == second.result["history"]


def alone_under_torchrun():
    fit(vae := model(), devices=1)
    return weights(vae), distributed.is_initialized()


def test_one_process_under_torchrun_is_a_run_without_it():
    [(learned, is_initialized)] = results(alone_under_torchrun, 1)
    fit(vae := model())
    assert torch.equal(learned, weights(vae))
    assert not is_initialized


# What is not finite on one of them


def not_finite(folder):
    """The messages, weights and histories of runs in which example 12, which the second process has, is too large."""
    x = X.clone()
    x[12] = 1e30
    vae = model(likelihood="gaussian")
    with pytest.raises(vaekit.NonFiniteLossError) as raised:
        fit(vae, x, batch_size=len(x), out=os.path.join(folder, "run"))
    skipping = model(likelihood="gaussian")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(skipping, x, batch_size=25, on_nonfinite="skip")
    said = [str(one.message) for one in caught if "left out" in str(one.message)]
    return str(raised.value), weights(vae), weights(skipping), dict(history), history.skipped, said


def test_all_end_at_what_is_not_finite_on_one_as_one_process_does(tmp_path):
    assert vaekit.epoch_order(0, 0, len(X)).tolist().index(12) >= 25  # of the second process
    first, second = results(not_finite, 2, str(tmp_path / "two"))
    alone = not_finite(str(tmp_path / "one"))
    assert first[0] == second[0] == alone[0].replace(str(tmp_path / "one"), str(tmp_path / "two"))
    assert "1 of 50 examples, in train these: 12" in first[0]
    assert torch.equal(first[1], weights(model(likelihood="gaussian")))
    assert torch.equal(first[2], second[2])
    torch.testing.assert_close(first[2], alone[2], rtol=1e-3, atol=1e-5)
    assert (first[3], first[4]) == (second[3], second[4])
    assert first[4] == [1, 1]
    assert second[5] == []
    assert first[5] == alone[5]
    [folder] = (tmp_path / "two" / "run").glob("nonfinite-*")
    replayed = vaekit.training.replay(folder)
    assert replayed.differences == []
    assert sum(len(part.batch.x) for part in replayed.step.parts) == 50


# Failures


class Fails(vaekit.Callback):
    def __init__(self, how):
        self.how = how

    def on_step_end(self, state):
        if state.rank == 1 and state.step == 2:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("the reason")


def fails(how):
    fit(model(), callbacks=[Fails(how)])


@pytest.mark.parametrize(
    ("how", "code", "told"),
    [
        ("raises", 1, "OtherProcessError: process 1 has failed, and this one, 0, with it: KeyError: 'the reason'"),
        ("killed", -signal.SIGKILL, "OtherProcessError: another process of the run has ended without a word"),
    ],
)
def test_a_process_that_fails_ends_the_others_which_say_why(how, code, told):
    first, second = launch(fails, 2, how, seconds=60)
    assert second.code == code
    assert first.code == 1
    assert told in first.error
    assert ("KeyError: 'the reason'" in second.error) == (how == "raises")


def refused(folder):
    (vaekit.files.writable_folder(folder) / "history.csv").touch()
    fit(model(), out=folder)


def test_what_only_the_first_process_refuses_ends_all(tmp_path):
    first, second = launch(refused, 2, str(tmp_path), seconds=60)
    assert "FileExistsError" in first.error.splitlines()[-1]
    assert "OtherProcessError: process 0 has failed, and this one, 1, with it: FileExistsError" in second.error


# Where a process is


def test_several_devices_need_torchrun():
    with pytest.raises(
        ValueError, match=r"devices=2 needs a process for each device.*torchrun --nproc-per-node 2 .*vaekit train --devices 2"
    ):
        fit(model(), devices=2)
    assert place_of_this_process([3]) == Place()


@pytest.mark.parametrize("devices", [0, -1, True, 2.0, "2", [], [0, 0], [-1], [1.0], None])
def test_devices_are_a_number_or_numbers(devices):
    with pytest.raises(ValueError, match="devices has to be how many"):
        checked_devices(devices)


@pytest.mark.parametrize(
    ("devices", "fits"), [(1, True), (2, True), ([4, 5], True), (3, False), ([0], False), ([0, 1, 2], False)]
)
def test_torchrun_decides_how_many_processes_there_are(devices, fits, monkeypatch):
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_RUN_ID": "a"}.items():
        monkeypatch.setenv(name, str(value))
    if fits:
        place = place_of_this_process(checked_devices(devices))
        assert (place, place.machines) == (Place(5, 8, 1, 2), 4)
    else:
        with pytest.raises(ValueError, match=r"but torchrun has started 2 process\(es\) on this machine"):
            place_of_this_process(checked_devices(devices))


def test_another_strategy_is_refused():
    with pytest.raises(ValueError, match="strategy has to be one of 'auto', 'ddp', 'fsdp', got 'dp'; did you mean 'ddp'"):
        fit(model(), strategy="dp")
    assert math.isfinite(fit(model(), strategy="ddp")["loss"][0])


PROGRAM = """
import atexit, os
from torch import distributed
atexit.register(lambda: os.write(1, f"at the end: {distributed.is_initialized()}\\n".encode()))  # runs last
import torch, vaekit
vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (4,)}, decoder={"hidden": (4,)}, seed=0)
vaekit.fit(vae, torch.rand(8, 4), epochs=1, device="cpu", progress=False)
os.write(1, f"after fit: {distributed.is_initialized()}\\n".encode())
"""


def test_a_program_of_ones_own_parts_from_the_others_when_it_ends():
    """Threads of gloo that are left to the interpreter's end can abort the process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run([*command, sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("after fit: True") == 2
    assert done.stdout.count("at the end: False") == 2
