"""Ends a run before somebody else does."""

from __future__ import annotations

import time
from collections.abc import Callable

from vaekit.checks import checked_number
from vaekit.training.callbacks.base import Callback
from vaekit.training.state import RunState


class TimeLimit(Callback):
    """Ends the run at the first step after so many minutes, with everything saved, as ^C would.

    For a job that a scheduler will end: leave it the minutes that a validation and the last save take. The epoch that is running
    is not in the history (`History.interrupted` is set, and `History.reason` says why), so that the run can be resumed where it
    was; a resumed run has the whole time again. `vaekit.fit(..., time_limit=90)` is short for it.

    Args:
        minutes: from the beginning of the run.
        clock: gives the time in seconds.

    Raises:
        TypeError, ValueError: minutes that are not a number above 0.

    Example:
        >>> TimeLimit(minutes=90).minutes
        90.0
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.minutes, self._clock = checked_number("minutes", minutes, above=0.0), clock
        self._began = clock()

    def on_fit_start(self, state: RunState) -> None:
        self._began = self._clock()

    def on_step_end(self, state: RunState) -> None:
        if self._clock() - self._began >= 60 * self.minutes:
            state.interrupt = f"the time limit of {self.minutes:g} minutes"
