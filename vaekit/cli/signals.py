"""A run that is asked to end saves what it has first: SIGTERM and SIGHUP become ^C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
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


@contextmanager
def as_interrupts() -> Iterator[Interruption]:
    """Raise KeyboardInterrupt at the first of the signals, and ignore those after it; one that nobody catches ends the command.

    A signal that is ignored already, as SIGHUP is under nohup, or that somebody else handles stays so.
    """
    interruption = Interruption()
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # the only one that may change handlers
        numbers = []
    handled = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

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
