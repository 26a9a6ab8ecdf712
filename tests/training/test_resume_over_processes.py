"""A run of several processes goes on where it was interrupted, with as many or as few of them."""

import os

import pytest
import torch
from helpers.ranks import results
from helpers.small_runs import X, fit, model, weights

import vaekit
from vaekit import plain

ALL = {"ema": 0.9, "learning_rate": {"name": "cosine", "start": 0.01, "end": 0.001, "steps": 12}}


class Interrupts(vaekit.Callback):
    """Interrupts in the middle of the second epoch, as SIGTERM to the last process would."""

    def on_step_end(self, state):
        if state.rank == int(os.environ.get("WORLD_SIZE", "1")) - 1 and state.step == 6:
            state.interrupt = "a test"


def run(folder, **options):
    vae = model()
    history = fit(vae, X, validation=X[:20], epochs=3, out=folder, **ALL, **options)
    return weights(vae), dict(history), history.interrupted


def in_two(whole, broken):
    never, interrupted = run(whole), run(broken, callbacks=[Interrupts()])
    return never, interrupted, run(broken, resume=True)


def go_on(folder):
    return run(folder, resume=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return results(in_two, 2, folder / "whole", folder / "broken")


def test_a_run_of_two_goes_on_bit_for_bit(two):
    for never, interrupted, resumed in two:
        assert interrupted[2]
        assert len(interrupted[1]["loss"]) == 1
        assert torch.equal(resumed[0], never[0])
        assert resumed[1] == never[1]
        assert not resumed[2]


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(before, after, two, tmp_path):
    folder = tmp_path / "run"
    if before == 1:
        run(folder, callbacks=[Interrupts()])
        ended = results(go_on, after, folder)
    else:
        results(interrupted_run, before, folder)
        ended = [go_on(folder)]
    for learned, history, _ in ended:
        torch.testing.assert_close(learned, two[0][0][0], rtol=1e-3, atol=1e-5)
        for name, values in two[0][0][1].items():
            assert history[name] == pytest.approx(values, rel=1e-4)


def interrupted_run(folder):
    run(folder, callbacks=[Interrupts()])


# Loaders that say where they are


class Rows:
    """Gives rows in an order of its own that goes on from epoch to epoch, five at a time, and says where it is."""

    def __init__(self, rows):
        self.rows, self.generator = rows, torch.Generator().manual_seed(3)
        self.order, self.place = None, 0

    def __iter__(self):
        if self.order is None or self.place >= len(self.rows):
            self.order, self.place = torch.randperm(len(self.rows), generator=self.generator), 0
        while self.place < len(self.rows):
            self.place += 5
            yield self.rows[self.order[self.place - 5 : self.place]]

    def state_dict(self):
        return {"order": self.order, "place": self.place, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.order, self.place = state["order"], state["place"]
        self.generator.set_state(state["generator"])


class InterruptsAt(vaekit.Callback):
    def __init__(self, step):
        self.step, self.steps = step, []

    def on_step_end(self, state):
        self.steps.append(state.step)
        if state.step == self.step:
            state.interrupt = "a test"


def own_rows():
    """20 of the first process, 30 of the second: so the one has 4 batches, and the other 6."""
    rank = int(os.environ.get("RANK", "0"))
    return Rows(X[20 * rank : 20 + 30 * rank])


def of(loader, folder, *callbacks, **options):
    vae = model(loss="info_vae")
    history = fit(vae, loader, epochs=3, out=folder, callbacks=callbacks, **options)
    return weights(vae), dict(history)


STEPS = (2, 5, 9, 11)  # within an epoch, also where one loader has ended; in the second


def own_loaders(folder):
    seen = {"never": of(own_rows(), None), "shared never": of(Rows(X), None)}
    for step in STEPS:
        of(own_rows(), folder / f"{step}", InterruptsAt(step))
        seen[step] = (*of(own_rows(), folder / f"{step}", count := InterruptsAt(-1), resume=True), count.steps)
    of(own_rows(), folder / "left", InterruptsAt(2))
    of(Rows(X), folder / "shared", InterruptsAt(13))
    return seen


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaders")
    return results(own_loaders, 2, folder), folder


@pytest.mark.parametrize("step", STEPS)
def test_loaders_of_several_processes_go_on_within_the_epoch_bit_for_bit(step, loaders):
    for seen in loaders[0]:
        learned, history, steps = seen[step]
        assert steps == list(range(step + 1, 19))
        assert torch.equal(learned, seen["never"][0])
        assert history == seen["never"][1]


def test_a_loader_that_all_share_goes_on_in_another_number_of_processes(loaders):
    of_ranks, folder = loaders
    learned, history = of(Rows(X), folder / "shared", count := InterruptsAt(-1), resume=True)
    assert count.steps == list(range(14, 31))
    torch.testing.assert_close(learned, of_ranks[0]["shared never"][0], rtol=1e-3, atol=1e-5)
    assert history["loss"] == pytest.approx(of_ranks[0]["shared never"][1]["loss"], rel=1e-4)


def test_loaders_of_so_many_processes_do_not_go_on_within_an_epoch_in_another_number(loaders):
    with pytest.raises(ValueError, match="within an epoch of 2 processes, each with batches of its own.*go on with 2 processes"):
        of(Rows(X[:20]), loaders[1] / "left", resume=True)


def test_a_state_goes_from_process_to_process_as_text():
    state = {
        "a": torch.arange(3),
        "b": [torch.tensor(True), torch.empty(0, 2), torch.tensor(1.5, dtype=torch.bfloat16)],
        "c": b"x",
    }
    again = plain.from_text(plain.to_text(state))
    torch.testing.assert_close(again, state, rtol=0, atol=0)
    assert [tensor.dtype for tensor in again["b"]] == [tensor.dtype for tensor in state["b"]]
