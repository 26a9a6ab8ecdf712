"""Epochs and steps, validation, stopping: the only loop over steps.

Nothing in a step waits for the device. The terms of the steps since the last look are kept where they are and read at the rate at
which progress is shown; until they are read, the guard sees to it that what is not finite leaves no trace.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from vaekit.gathering import Ranks
from vaekit.schedules import Schedule, is_final
from vaekit.training.callbacks import Callback
from vaekit.training.checkpoints import Checkpoints
from vaekit.training.guard import Guard, NonFiniteLossError, Taken
from vaekit.training.history import History
from vaekit.training.plan import Plan
from vaekit.training.state import RunState
from vaekit.training.update import Update
from vaekit.training.watch import Watch


class Loop:
    """One run, from its components.

    Args:
        state: where the run is.
        plan: what each step sees.
        update: takes a step.
        guard: keeps the last finite weights.
        watch: looks at what the steps saw.
        checkpoints: what is left in a folder.
        callbacks: code of the user's.
        validate: gives the mean terms on the validation data; None without such data.
        weights: the scheduled weights of the objective, by name.
        ranks: the processes of the run, which take the same steps, look and stop together; None for this one alone.
    """

    def __init__(
        self,
        state: RunState,
        plan: Plan,
        update: Update,
        guard: Guard,
        watch: Watch,
        checkpoints: Checkpoints,
        callbacks: Sequence[Callback],
        validate: Callable[[], dict[str, float]] | None,
        weights: Mapping[str, Schedule],
        ranks: Ranks | None = None,
    ) -> None:
        self.state, self.plan, self.update, self.guard, self.watch = state, plan, update, guard, watch
        self.checkpoints, self.callbacks, self.validate, self.weights = checkpoints, callbacks, validate, weights
        self.ranks = ranks or Ranks()

    def run(self, epochs: int) -> History:
        """Train until `epochs` are done, a callback stops the run, or ^C ends it."""
        history = self.state.history
        try:
            self._call("on_fit_start")
            for epoch in range(self.state.epoch, epochs):
                self.watch.begin_epoch(epoch)
                self._epoch(epoch)
                self._agree()
                if self.state.stop:
                    break
        except KeyboardInterrupt:
            history.interrupted = True
            if self.ranks.world == 1 or self.state.interrupt:  # otherwise the others are somewhere else
                self.watch.look()
        finally:
            self._finish()
        return history

    def _epoch(self, number: int) -> None:
        started, first = time.perf_counter(), self.state.step
        self.state.begin_epoch(number)
        self.update.begin_epoch(self.state.history)
        self.guard.keep()
        for step in self.plan.steps(number, first):
            for part, terms in zip(step.parts, self.update(step), strict=True):
                self.watch.add(Taken.of(step, part, terms, self.guard.bad))
            self.state.step += 1
            self.state.batch += len(step.parts)
            self._call("on_step_end")
            if self._agree():
                self.watch.look()
            if self.state.interrupt:
                self.state.history.reason = self.state.interrupt
                raise KeyboardInterrupt
            if self.state.stop:
                break
        self.watch.look()
        means = self.state.sums.means()
        if not means and self.state.skipped:
            self.guard.give_up(self.state)
        if not means:
            raise ValueError("the loader gave no batch in this epoch; an iterator that is used up cannot be trained on twice")
        self.guard.warn_of_skips(self.state, self.state.step - first)
        means |= self._validation()
        seconds = time.perf_counter() - started
        self.state.history.append(means, seconds, is_settled=self._is_settled(first), skipped=self.state.skipped)
        self.checkpoints.epoch_ended(self.state)
        self.watch.end_epoch(means)
        self._call("on_epoch_end")

    def _agree(self) -> bool:
        """Have all processes stop where one wants to; returns whether it is time to look, by the first one's clock."""
        of_all = self.ranks.gather([self.state.stop, self.state.interrupt, self.watch.is_due])
        self.state.stop = any(stop for stop, _, _ in of_all)
        self.state.interrupt = next((interrupt for _, interrupt, _ in of_all if interrupt), "")
        return bool(of_all[0][2])

    def _validation(self) -> dict[str, float]:
        if self.validate is None:
            return {}
        with self.state.averaged():
            validated = self.validate()
        for name, value in validated.items():
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"epoch {self.state.epoch + 1}: {name} is not finite on the validation data, {value}. "
                    "The model holds the weights of this epoch"
                )
        self.state.validation = validated
        self._call("on_validation_end")
        return {f"val_{name}": value for name, value in validated.items()}

    def _call(self, event: str) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.state)

    def _is_settled(self, first: int) -> bool:
        """Whether every scheduled weight had its final value from the first step of the epoch to its last."""
        return all(is_final(weight, step) for weight in self.weights.values() for step in range(first, self.state.step))

    def _finish(self) -> None:
        """Save what there is, if it is finite; one ^C meanwhile is noted, and the files are written all the same."""
        try:
            self.update.release()
            self.guard.restore()
            self.checkpoints.run_ended(self.state)
        except KeyboardInterrupt:
            self.state.history.interrupted = True
            self.checkpoints.run_ended(self.state)
        finally:
            self.watch.close()
            if self.state.average is not None:
                self.state.average.replace_weights()
            with ExitStack() as stack:  # every one of them, whichever raises
                for callback in reversed(self.callbacks):
                    stack.callback(callback.on_fit_end, self.state)
