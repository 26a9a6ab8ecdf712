"""Looks now and then at what the steps saw: adds it up, shows it, and has what is not finite refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from vaekit.evaluation.terms import TermSums, over_all_processes
from vaekit.gathering import Ranks
from vaekit.training.guard import Guard, Taken
from vaekit.training.progress import Progress
from vaekit.training.recorder import Recorder
from vaekit.training.signs import Signs
from vaekit.training.state import RunState

SECONDS_BETWEEN_LOOKS = 0.25


class Watch:
    """The terms of the steps stay on the device until a look, at most every `seconds`, reads them all.

    Args:
        state: of the run, whose sums the terms are added to.
        guard: that is asked which steps were good.
        progress: shows them to a person.
        recorder: writes them down.
        ranks: the processes of the run, which look together; None for this one alone.
        signs: looks for what will spoil the run; None for nobody.
        seconds: between two looks.
        clock: in seconds.
    """

    def __init__(
        self,
        state: RunState,
        guard: Guard,
        progress: Progress,
        recorder: Recorder,
        ranks: Ranks | None = None,
        signs: Signs | None = None,
        seconds: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._state, self._guard, self._clock, self._ranks = state, guard, clock, ranks or Ranks()
        self._seconds = SECONDS_BETWEEN_LOOKS if seconds is None else seconds
        self._pending: list[Taken] = []
        self._looked = clock()
        self._progress, self._recorder, self._signs = progress, recorder, signs

    def close(self) -> None:
        """Nothing is looked at any more."""
        self._progress.close()

    def begin_epoch(self, number: int) -> None:
        """Epoch `number`, 0, 1, ..., begins."""
        self._progress.begin_epoch(number)
        self._recorder.begin_epoch()

    def end_epoch(self, terms: Mapping[str, float]) -> None:
        """It has ended, with these terms, those of the validation included."""
        self._progress.end_epoch(terms, self._state.learning_rate)
        if self._signs is not None:
            self._signs.epoch_ended()

    def add(self, taken: Taken) -> None:
        """Note a part of a step."""
        self._pending.append(taken)
        self._progress.add(sum(taken.counts))
        self._recorder.took(taken)

    @property
    def is_due(self) -> bool:
        """Whether the last look was long enough ago."""
        return self._clock() - self._looked > self._seconds

    def look(self) -> None:
        """Read what the steps since the last look saw: refuse or leave out what is not finite, add up the rest, show the mean."""
        self._looked = self._clock()
        pending, self._pending = self._pending, []
        good = self._guard.check(pending, self._state)
        if not good:
            return
        if self._signs is not None:
            self._signs.look(good)
        recent = TermSums()
        seen = over_all_processes([TermSums.of(taken.terms) for taken in good], self._ranks)
        for sums in seen:
            recent.include(sums)
            self._state.sums.include(sums)
        self._state.terms = means = recent.means()
        self._recorder.saw([(taken.number, sums) for taken, sums in zip(good, seen, strict=True)])
        self._progress.show(means, self._state.learning_rate)
