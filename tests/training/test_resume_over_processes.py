"""A run of several processes goes on where it was interrupted, with as many or as few of them."""

import os

import pytest
import torch
from helpers.ranks import results
from helpers.small_runs import X, fit, model, weights

import vaekit

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
