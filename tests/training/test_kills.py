"""A run is killed at any moment, the disk is full, ^C comes twice: nothing is lost, and what goes on is exact."""

import errno
import os
import random
import signal

import pytest
import torch
from helpers.interrupts import InterruptedOS
from helpers.kills import count_calls, run_killed
from helpers.small_runs import X, fit, model, weights
from helpers.terminal import usual_signals

import vaekit
from vaekit import files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
OPTIONS = {"epochs": 3, "validation": X[:9], "checkpoint_minutes": 0.0, "ema": 0.9}


def train(out):
    vae = model(encoder={"hidden": (8,), "dropout": 0.3})
    return vae, fit(vae, out=out, resume=True, **OPTIONS)


def content(folder):
    """What a run leaves, but for what says when it was begun and how long it took; no temporary files among it."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "environment.json" and not file.name.startswith("step-")
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    vae, history = train(folder)
    return weights(vae), dict(history), content(folder)


def assert_whole(out, whole):
    vae, history = train(out)  # finished, and looked at again
    assert torch.equal(weights(vae), whole[0])
    assert dict(history) == whole[1]
    assert content(out) == whole[2]


def test_a_run_that_is_killed_at_random_moments(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    kills = 100 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 12
    counted, run = count_calls(lambda: train(tmp_path / "counted")), 0
    while kills > 0:
        out, moments = tmp_path / str(run), random.Random(run)
        while not run_killed(lambda out=out: train(out), after=(after := moments.randint(1, counted))):
            print(f"run {run} is killed at call {after}")
            kills -= 1
        assert_whole(out, whole)
        run += 1


def test_a_run_that_is_killed_at_every_call_of_a_save(whole, tmp_path, monkeypatch):
    """Of the save after the sixth step, with two checkpoints there, one too many to be kept."""
    count = _calls_of_a_save(tmp_path / "counted", monkeypatch)
    assert count > 8
    for number in range(count):
        out = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            assert not run_killed(lambda out=out, number=number, patch=patch: _killed_in_a_save(out, number, patch), None)
        assert_whole(out, whole)


class Kill(BaseException):
    def __init__(self, *_):
        os.kill(os.getpid(), signal.SIGKILL)


def _killed_in_a_save(out, number, patch, exception=Kill):
    from vaekit.training.snapshots import Snapshots

    write, calls = Snapshots.write, []

    def watched(self, step, *arguments):
        if step == 6 and not calls:
            calls.append(InterruptedOS(number, exception))
            patch.setattr(files, "os", calls[0])
            patch.setattr("vaekit.training.snapshots.os", calls[0])
        try:
            write(self, step, *arguments)
        finally:
            patch.setattr(files, "os", os)
            patch.setattr("vaekit.training.snapshots.os", os)

    patch.setattr(Snapshots, "write", watched)
    train(out)
    return calls[0].calls


def _calls_of_a_save(out, monkeypatch):
    with monkeypatch.context() as patch:
        return _killed_in_a_save(out, None, patch)


def test_a_full_disk_ends_the_run_with_what_was_there_before(whole, tmp_path):
    full, refused = OSError(errno.ENOSPC, "No space left on device"), 0
    for number in range(1, 7):
        out = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            try:
                _killed_in_a_save(out, number, patch, exception=full)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                refused += 1
        assert_whole(out, whole)
    assert refused > 2


@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_second_c_ends_a_run_at_once(times, whole, tmp_path):
    class Again(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == 6:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
                seen.append("after")

    seen, vae = [], model(encoder={"hidden": (8,), "dropout": 0.3})
    with usual_signals():
        history = fit(vae, out=tmp_path, callbacks=[Again()], **OPTIONS)
    assert history.interrupted
    assert seen == (["after"] if times == 1 else [])
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))
    assert_whole(tmp_path, whole)


def test_sigterm_ends_a_process_with_its_code_when_everything_is_saved(whole, tmp_path):
    class End(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == 6:
                signal.raise_signal(signal.SIGTERM)

    with usual_signals():
        with pytest.raises(SystemExit) as ended:
            fit(model(encoder={"hidden": (8,), "dropout": 0.3}), out=tmp_path, callbacks=[End()], **OPTIONS)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert ended.value.code == 143
    assert ended.value.history.epochs == 1
    assert_whole(tmp_path, whole)
