"""Epochs and steps, validation, stopping: the only loop over steps.

Nothing in a step waits for the device. The terms of the steps since the last look are kept where they are and read at the rate at
which progress is shown; until they are read, the guard sees to it that what is not finite leaves no trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vaekit.gathering import Ranks
from vaekit.schedules import Schedule, is_final
from vaekit.training.callbacks import Callbacks
from vaekit.training.checkpoints import Checkpoints
from vaekit.training.guard import Guard, NonFiniteLossError, Taken
from vaekit.training.history import History
from vaekit.training.plan import Plan
from vaekit.training.recorder import Recorder
from vaekit.training.state import RunState
from vaekit.training.update import Update
from vaekit.training.warned import warn, warn_of_another
from vaekit.training.watch import Watch


class Agreed(NamedTuple):
    """What the processes of a run do after a step.

    Attributes:
        stop, interrupt: as in `RunState`.
        look: at what the steps saw.
        save: a checkpoint.
    """

    stop: bool = False
    interrupt: str = ""
    look: bool = False
    save: bool = False

    @property
    def is_over(self) -> bool:
        """Whether the run ends here."""
        return bool(self.stop or self.interrupt)


class Loop:
    """One run, from its components.

    Args:
        state: where the run is.
        plan: what each step sees.
        update: takes a step.
        guard: keeps the last finite weights.
        watch: looks at what the steps saw.
        recorder: tells the trackers what there is to record.
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
        recorder: Recorder,
        checkpoints: Checkpoints,
        callbacks: Callbacks,
        validate: Callable[[], dict[str, float]] | None,
        weights: Mapping[str, Schedule],
        ranks: Ranks | None = None,
    ) -> None:
        self.state, self.plan, self.update, self.guard, self.watch = state, plan, update, guard, watch
        self.recorder, self.checkpoints, self.callbacks, self.validate = recorder, checkpoints, callbacks, validate
        self.weights, self.ranks = weights, ranks or Ranks()

    def run(self, epochs: int) -> History:
        """Train until `epochs` are done, a callback stops the run, or ^C ends it."""
        is_whole, failed = False, True  # whole: between two steps
        self._status, self._is_agreed = "failed", False
        try:
            is_whole = self._train(epochs)
            failed = False
        finally:
            self._finish(is_whole, failed)
        return self.state.history

    def _train(self, epochs: int) -> bool:
        """Train, and say whether the run ended between two steps."""
        history, is_whole = self.state.history, False
        try:
            self.recorder.begin()
            if not self.state.step:
                self.checkpoints.write(0)
            self.callbacks.call("on_fit_start", self.state)
            agreed = self._agree()
            while history.epochs < epochs and (not agreed.is_over or self._is_cut_short(agreed)):
                self.watch.begin_epoch(history.epochs)
                self._epoch(history.epochs)
                agreed = self._agree()
            is_whole, self._status = True, "interrupted" if self.state.interrupt else "finished"
            self._is_agreed = True
        except NonFiniteLossError:  # which all processes raise together
            self._is_agreed = True
            raise
        except KeyboardInterrupt:
            history.interrupted, self._status = True, "interrupted"
            if self.ranks.world == 1 or self.state.interrupt:  # otherwise the others are somewhere else
                self.watch.look()
        return is_whole

    def _epoch(self, number: int) -> None:
        if not self.state.is_within_epoch:
            self.state.begin_epoch(number)
        started = time.perf_counter() - self.state.seconds
        self.state.take_apart()
        self.update.begin_epoch(self.state.history)
        self.guard.keep()
        agreed = Agreed()
        for step in () if self.state.stop else self.plan.steps(number, self.state.step, self.state.batch):
            for part, terms in zip(step.parts, self.update(step), strict=True):
                self.watch.add(Taken.of(step, part, terms, self.guard.bad))
            self.state.step += 1
            self.state.batch += len(step.parts)
            self.state.examples += step.count
            self.callbacks.call("on_step_end", self.state)
            agreed = self._agree()
            if agreed.look:
                self.watch.look()
            if agreed.is_over:
                break
            if agreed.save and self.plan.can_resume:
                self.watch.look()
                self.state.seconds = time.perf_counter() - started
                self.state.put_together()
                self.checkpoints.write(self.state.step)
                self.state.take_apart()
        self.watch.look()
        self.state.put_together()
        self.state.seconds = time.perf_counter() - started
        if agreed.interrupt:
            return
        if self.state.stop:
            self.plan.cut_short()
        means = self.state.sums.means()
        if not means and self.state.skipped:
            self.guard.give_up(self.state)
        if not means:
            raise ValueError("the loader gave no batch in this epoch; an iterator that is used up cannot be trained on twice")
        self.guard.warn_of_skips(self.state, self.state.step - self.state.first_step)
        means |= self._validation()
        seconds = time.perf_counter() - started
        self.state.history.append(means, seconds, is_settled=self._is_settled(), skipped=self.state.skipped)
        self.checkpoints.epoch_ended(self.state)
        self.recorder.epoch_ended()  # after the weights that it speaks of
        self.watch.end_epoch(means)
        self.callbacks.call("on_epoch_end", self.state)
        # A loader is resumed where an epoch begins.
        if self.ranks.gather(self.checkpoints.is_due)[0] or not self.plan.can_resume:
            self.checkpoints.write(self.state.step)

    def _is_cut_short(self, agreed: Agreed) -> bool:
        """Whether an epoch, which a callback had stopped, was then interrupted before it had been recorded."""
        return agreed.stop and not agreed.interrupt and self.state.is_within_epoch

    def _agree(self) -> Agreed:
        """Have all processes stop where one wants to, and look and save by the first one's clock.

        A signal may come to one of them at any time, so that only what was agreed decides where all go.
        """
        of_all = self.ranks.gather([self.state.stop, self.state.interrupt, self.watch.is_due, self.checkpoints.is_due])
        self.state.stop = any(stop for stop, _, _, _ in of_all)
        interrupt = next((interrupt for _, interrupt, _, _ in of_all if interrupt), "")
        self.state.interrupt = self.state.interrupt or interrupt
        return Agreed(self.state.stop, interrupt, *of_all[0][2:])

    def _validation(self) -> dict[str, float]:
        if self.validate is None:
            return {}
        with self.state.averaged():
            validated = self.validate()
            self.guard.check_validation(validated, self.state.epoch)
        self.state.validation = validated
        self.callbacks.call("on_validation_end", self.state)
        return {f"val_{name}": value for name, value in validated.items()}

    def _is_settled(self) -> bool:
        """Whether every scheduled weight had its final value from the first step of the epoch to its last."""
        return all(
            is_final(weight, step) for weight in self.weights.values() for step in range(self.state.first_step, self.state.step)
        )

    def _finish(self, is_whole: bool, failed: bool) -> None:
        """Save what there is, if it is finite; one ^C meanwhile is noted, and the files are written all the same.

        The error of a run that has `failed` is not hidden by one that comes here.
        """
        is_resumable = is_whole and (self.plan.can_resume or not self.state.is_within_epoch)
        has_error = True
        try:
            self._save_finite(is_resumable)
            has_error = failed
        except Exception as error:
            self._status = "failed"
            if not failed:
                raise
            warn_of_another(error)
        finally:
            self.watch.close()
            if self.state.interrupt:
                self.state.history.interrupted, self.state.history.reason = True, self.state.interrupt
            if self.state.average is not None and not self.state.shards.is_divided:
                self.state.average.replace_weights()
            if self.state.shards.is_divided:
                warn(
                    "the run ended where this process had a part of the weights only: there is no `last`, and the model holds no "
                    "weights any more; vaekit.resume goes on from the last checkpoint",
                    RuntimeWarning,
                )
            self.state.shards.end()
            try:
                self.callbacks.end(self.state, has_error)
            finally:
                self.recorder.end(self._status)

    def _save_finite(self, is_resumable: bool) -> None:
        try:
            self.update.release()
            if self._is_agreed or not self.state.shards.is_divided:  # otherwise the others are somewhere else, with their parts
                self.guard.restore()
                self.state.put_together()
                self._save(is_resumable)
        except KeyboardInterrupt:
            self.state.history.interrupted, self._status = True, "interrupted"
            if not self.state.shards.is_divided:
                self._save(is_resumable=False)

    def _save(self, is_resumable: bool) -> None:
        self.checkpoints.run_ended(self.state, is_resumable)
        self.recorder.epoch_ended()
