"""What a run makes of signals, those that torchrun hands on too."""

import signal

import pytest
import torch
from helpers.small_runs import model
from helpers.terminal import usual_signals

import vaekit
from vaekit.training.signals import Terminated, stopping_on_signals
from vaekit.training.state import RunState


@pytest.fixture
def state():
    vae = model()
    with usual_signals():
        yield RunState(vae, torch.optim.SGD(vae.parameters()))


@pytest.mark.parametrize("torchrun", [False, True])
def test_a_second_interrupt_ends_at_once_unless_it_is_the_first_again(torchrun, state, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    if not torchrun:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    now = [0.0]
    with stopping_on_signals(state, clock=lambda: now[0]):
        signal.raise_signal(signal.SIGINT)
        assert state.interrupt == "^C"
        now[0] = 0.5
        if torchrun:
            signal.raise_signal(signal.SIGINT)
        else:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        now[0] = 10.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("reason", "code"), [("SIGTERM", 128 + signal.SIGTERM), ("^C", None), ("the time limit", None)])
def test_a_process_ends_as_the_one_that_got_the_signal(reason, code, state):
    history = vaekit.History()
    history.interrupted, history.reason = True, reason
    with stopping_on_signals(state) as request:
        pass
    if code is None:
        request.end(history)
    else:
        with pytest.raises(Terminated) as ended:
            request.end(history)
        assert ended.value.code == code
