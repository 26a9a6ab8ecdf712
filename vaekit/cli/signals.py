"""A run that is asked to end saves what it has first: SIGTERM and SIGHUP become ^C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from vaekit.cli.console import fail

_NAMES = ("SIGTERM", "SIGHUP")  # a scheduler, a container or `kill`; a terminal that goes away


class Interruption:
    """What has interrupted a run.

    Attributes:
        exit_code: by the shells' convention, 128 and the signal's number.
    """

    exit_code = 128 + signal.SIGINT

    def __init__(self, handled: Sequence[int]) -> None:
        self._handled = handled

    @contextmanager
    def left_to_fit(self) -> Iterator[None]:
        """The signals as the system handles them: `vaekit.fit` ends a run at the first of them, with everything saved."""
        handlers = {number: signal.getsignal(number) for number in self._handled}
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def as_interrupts() -> Iterator[Interruption]:
    """Raise KeyboardInterrupt at the first of the signals, and ignore those after it; one that nobody catches ends the command.

    A signal that is ignored already, as SIGHUP is under nohup, or that somebody else handles stays so.
    """
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # the only one that may change handlers
        numbers = []
    handled = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    interruption = Interruption(handled)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)
        interruption.exit_code = 128 + number
        raise KeyboardInterrupt

    for number in handled:
        signal.signal(number, interrupt)
    try:
        yield interruption
    except KeyboardInterrupt:
        fail("interrupted", interruption.exit_code)
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
