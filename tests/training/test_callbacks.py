"""Laws of callbacks: which events there are and when, what ends a run, and what comes with vaekit."""

import sys

import pytest
import torch
from helpers.small_runs import X, fit, model, weights

import vaekit
from vaekit import Callback, TimeLimit


class Clock:
    """Seconds that pass only when somebody asks."""

    def __init__(self, seconds=1.0):
        self.seconds, self.now = seconds, 0.0

    def __call__(self):
        self.now += self.seconds
        return self.now


class Record(Callback):
    """The events of a run, in order."""

    def __init__(self):
        self.events = []

    def on_fit_start(self, state):
        self.events.append("start")

    def on_step_end(self, state):
        self.events.append(state.step)

    def on_validation_end(self, state):
        self.events.append("validation")

    def on_epoch_end(self, state):
        self.events.append("epoch")

    def on_fit_end(self, state):
        self.events.append("end")


class Raises(Callback):
    def __init__(self, event, error=None):
        self.error = error or RuntimeError("from a callback")
        setattr(self, event, self._raise)

    def _raise(self, state):
        raise self.error


# Events.


def test_the_events_of_a_run_come_in_order():
    record = Record()
    fit(model(), validation=X, epochs=2, batch_size=25, callbacks=[record])
    assert record.events == ["start", 1, 2, "validation", "epoch", 3, 4, "validation", "epoch", "end"]


@pytest.mark.parametrize("event", ["on_fit_start", "on_step_end", "on_validation_end", "on_epoch_end", "on_fit_end"])
def test_the_end_is_told_however_the_run_ended(event, tmp_path):
    record, first = Record(), Record()
    with pytest.raises(RuntimeError, match="from a callback"):
        fit(model(), validation=X, epochs=1, callbacks=[first, Raises(event), record], out=tmp_path)
    assert record.events[-1] == first.events[-1] == "end"
    assert (tmp_path / "last").is_dir() == (event != "on_fit_start")


def test_the_end_is_told_after_an_interrupt_and_after_a_loss_that_is_not_finite():
    for error in (KeyboardInterrupt(), vaekit.NonFiniteLossError("planted")):
        record = Record()
        try:
            assert fit(model(), callbacks=[Raises("on_step_end", error), record]).interrupted
        except vaekit.NonFiniteLossError:
            assert not isinstance(error, KeyboardInterrupt)
        assert record.events == ["start", "end"]


def test_a_callback_has_no_state_unless_it_says_so():
    assert Callback().state_dict() == {}
    Callback().load_state_dict({})
    with pytest.raises(ValueError, match="a state for Record, best, count, but that has no load_state_dict"):
        Record().load_state_dict({"best": 1, "count": 2})


# What interrupts a run.


def test_a_time_limit_ends_the_run_at_the_next_step_with_everything_saved(tmp_path):
    vae, record = model(), Record()
    limit = TimeLimit(minutes=0.1, clock=Clock())  # 6 s; the clock has 1 s a step
    history = fit(vae, epochs=9, out=tmp_path, callbacks=[limit, record])
    assert record.events == ["start", 1, 2, 3, 4, "epoch", 5, 6, "end"]
    assert history.interrupted
    assert history.reason == "the time limit of 0.1 minutes"
    assert history.epochs == 1
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))


def test_a_time_limit_counts_from_the_beginning_of_each_run():
    clock = Clock()
    limit = TimeLimit(minutes=0.1, clock=clock)
    for _ in range(2):
        clock.now += 1000
        record = Record()
        fit(model(), epochs=9, callbacks=[limit, record])
        assert record.events[-2:] == [6, "end"]


def test_a_run_within_its_time_limit_is_not_interrupted():
    history = fit(model(), time_limit=60)
    assert (history.epochs, history.interrupted, history.reason) == (2, False, "")


def test_the_time_limit_of_fit_is_in_minutes(monkeypatch):
    record = Record()
    monkeypatch.setattr(sys.modules["vaekit.training.fit"], "TimeLimit", lambda minutes: TimeLimit(minutes, Clock(30.0)))
    assert fit(model(), epochs=9, time_limit=2.5, callbacks=[record]).interrupted
    assert record.events[-2:] == [5, "end"]


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), "1h30m", True])
def test_a_time_limit_is_a_number_of_minutes(minutes):
    with pytest.raises((TypeError, ValueError), match="minutes"):
        TimeLimit(minutes)
    with pytest.raises((TypeError, ValueError), match="time_limit"):
        fit(model(), time_limit=minutes)
