"""Hands what a run records to its trackers: the means of every 50 steps, every epoch's, and pictures.

Which steps are in a record depends on their numbers alone, not on when somebody looked, so that two runs record the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from vaekit.evaluation.terms import TermSums
from vaekit.training.guard import Taken
from vaekit.training.state import RunState
from vaekit.training.trackers.base import Summary, TrackedRun, Tracker
from vaekit.training.warned import warn_of_another

STEPS_IN_A_RECORD = 50


class Recorder:
    """The trackers of a run, told of each thing once.

    Args:
        state: of the run.
        trackers: none in a process that is not the first.
        run: what they are told when it begins.
        clock: in seconds.
    """

    def __init__(
        self, state: RunState, trackers: Sequence[Tracker], run: TrackedRun, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._state, self._trackers, self._run, self._clock = state, trackers, run, clock
        self._wants_steps = [tracker for tracker in trackers if tracker.wants_steps]
        self._begun: list[Tracker] = []
        self._epochs = run.history.epochs  # that the trackers have been told of, but for those in `_owed`
        self._owed: list[tuple[Tracker, Summary]] = []
        self._window = state.step // STEPS_IN_A_RECORD  # that `state.window` is of
        self._taken: dict[int, tuple[float, int, float]] = {}  # of a window: learning rate, examples and seconds
        self._last = clock()

    def begin(self) -> None:
        """Open the trackers."""
        if not self._wants_steps:  # what an earlier process kept was for others
            self._state.window = TermSums()
        for tracker in self._trackers:
            self._begun.append(tracker)
            tracker.begin(self._run)

    def begin_epoch(self) -> None:
        """What has passed since the last step is not the time of a step."""
        self._last = self._clock()

    def took(self, taken: Taken) -> None:
        """A part of a step was taken; nothing is read yet."""
        if not self._wants_steps:
            return
        window, now = taken.number // STEPS_IN_A_RECORD, self._clock()
        _, examples, seconds = self._taken.get(window, (0.0, 0, 0.0))
        self._taken[window] = (self._state.learning_rate, examples + sum(taken.counts), seconds + now - self._last)
        self._last = now

    def saw(self, seen: Sequence[tuple[int, TermSums]]) -> None:
        """The terms of these parts, of all processes, can be read, and are finite: the number of the step with each."""
        if not self._wants_steps:
            return
        for number, sums in seen:
            self._close_windows(number)
            self._state.window.include(sums)
        self._close_windows(self._state.step)

    def epoch_ended(self) -> None:
        """Tell of the epoch that the history has grown by, if it has; whom ^C kept from hearing of it, the next time."""
        history = self._state.history
        if self._epochs != history.epochs:
            terms = {name: values[-1] for name, values in history.items() if not math.isnan(values[-1])}
            rate, examples = self._state.learning_rate, self._state.examples - self._state.first_example
            record = Summary(self._state.step, history.epochs, terms, rate, examples, history.seconds[-1])
            self._owed, self._epochs = [(tracker, record) for tracker in self._trackers], history.epochs
        errors = []
        while self._owed:
            tracker, record = self._owed[0]
            try:
                tracker.log_epoch(record)
            except Exception as error:
                errors.append(error)
            self._owed = self._owed[1:]
        if errors:
            raise errors[0]

    def end(self, status: str) -> None:
        """Close the trackers, every one of them, whichever raises."""
        begun, self._begun, errors = self._begun, [], []
        for tracker in begun:
            try:
                tracker.end(status)
            except Exception as error:
                errors.append(error)
        if errors and status != "failed":
            raise errors[0]
        for also in errors:  # what has ended the run is not hidden by it
            warn_of_another(also)

    def _close_windows(self, step: int) -> None:
        """Tell of every window that has ended by this step."""
        while step >= (self._window + 1) * STEPS_IN_A_RECORD:
            terms, self._state.window = self._state.window.means(), TermSums()
            rate, examples, seconds = self._taken.pop(self._window, (self._state.learning_rate, 0, 0.0))
            self._window += 1
            record = Summary(self._window * STEPS_IN_A_RECORD, self._state.epoch + 1, terms, rate, examples, seconds)
            for tracker in self._wants_steps if terms else ():
                tracker.log_steps(record)
