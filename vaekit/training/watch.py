"""Looks now and then at what the steps saw: adds it up, shows it, and has what is not finite refused."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from vaekit.evaluation.terms import TermSums
from vaekit.training.guard import Guard, Taken
from vaekit.training.state import RunState

SECONDS_BETWEEN_LOOKS = 0.25


class Watch:
    """The terms of the steps stay on the device until a look, at most every `seconds`, reads them all.

    Args:
        state: of the run, whose sums the terms are added to.
        guard: that is asked whether what was seen is finite.
        total: the number of examples in the whole run, for the progress bar; None where it is not known.
        progress: show the bar.
        seconds: between two looks.
        clock: in seconds.
    """

    def __init__(
        self,
        state: RunState,
        guard: Guard,
        total: int | None,
        progress: bool,
        seconds: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._state, self._guard, self._clock = state, guard, clock
        self._seconds = SECONDS_BETWEEN_LOOKS if seconds is None else seconds
        self._pending: list[Taken] = []
        self._looked = clock()
        self._bar: Any = tqdm(
            total=total,
            unit=" samples",
            unit_scale=True,
            disable=not progress or sys.stderr is None,  # as under pythonw
            dynamic_ncols=True,
            mininterval=0.2,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def begin_epoch(self, number: int, epochs: int) -> None:
        """Name the epoch on the bar."""
        self._bar.set_description(f"epoch {number + 1}/{epochs}", refresh=False)

    def add(self, taken: Taken) -> None:
        """Note a part of a step."""
        self._pending.append(taken)
        self._bar.update(taken.count)

    def look_if_due(self) -> None:
        """Look, if the last look was long enough ago."""
        if self._clock() - self._looked > self._seconds:
            self.look()

    def look(self, *, epoch_ends: bool = False) -> None:
        """Read the losses of the steps since the last look: refuse what is not finite, add up the rest, show the mean.

        At the end of an epoch the weights are looked at as well.
        """
        self._looked = self._clock()
        pending, self._pending = self._pending, []
        if epoch_ends:
            self._guard.check_weights(pending, self._state.epoch)
        if not pending:
            return
        recent = TermSums()
        for taken in pending:
            recent.add(taken.terms)
            self._state.sums.add(taken.terms)
        means = recent.means()
        self._guard.check(pending, means, self._state.epoch)
        self._state.terms = means
        self._bar.set_postfix_str(" ".join(f"{name} {value:.1f}" for name, value in means.items()), refresh=False)
