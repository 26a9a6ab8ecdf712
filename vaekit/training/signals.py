"""Being asked to end: a run ends after the step that it is in, with everything saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from vaekit.training.history import History
from vaekit.training.processes import is_under_torchrun
from vaekit.training.state import RunState

BY_HAND = "^C"  # the reason in a history
_SECONDS_OF_ONE = 2.0  # within which a ^C comes from the terminal and from torchrun
_NAMES = ("SIGTERM", "SIGHUP")  # a scheduler, a container or `kill`; a terminal that goes away


class Terminated(SystemExit):
    """The process was asked to end by SIGTERM or SIGHUP while it trained; everything is saved.

    Attributes:
        code: the exit code, by the shells' convention 128 and the signal's number.
        history: of the run so far.
    """

    def __init__(self, number: int, history: History) -> None:
        super().__init__(128 + number)
        self.history = history


class StopRequest:
    """A signal that has asked the run to stop, if one has.

    Attributes:
        number: of the signal; None before there was one.
        when: it came.
    """

    number: int | None = None
    when: float = 0.0

    def end(self, history: History) -> None:
        """End the process where that was asked for, now that the run is saved.

        Raises:
            Terminated: it was.
        """
        number = self.number
        if number is None and history.reason in _NAMES:  # another process of the run was asked
            number = getattr(signal, history.reason)
        if number not in (None, signal.SIGINT):
            raise Terminated(int(number or 0), history)


@contextmanager
def stopping_on_signals(state: RunState, clock: Callable[[], float] = time.monotonic) -> Iterator[StopRequest]:
    """Interrupt the run at the first of the signals; a second ^C ends it at once, as KeyboardInterrupt.

    torchrun hands a ^C on to its processes, which have got it from the terminal already: there a second one counts after a while.

    A signal that is ignored already, as SIGHUP is under nohup, or that somebody else handles stays so; and so does every one
    in a thread, as only the main one may handle signals.
    """
    request = StopRequest()
    handled = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        usual = {signal.SIGINT: signal.default_int_handler, **dict.fromkeys(numbers, signal.SIG_DFL)}
        handled = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}

    def interrupt(number: int, frame: FrameType | None) -> None:
        if request.number is None:
            request.number, request.when = number, clock()
            state.interrupt = BY_HAND if number == signal.SIGINT else signal.Signals(number).name
        elif number == signal.SIGINT and not (is_under_torchrun() and clock() - request.when < _SECONDS_OF_ONE):
            raise KeyboardInterrupt

    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield request
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
