"""The learning rate of a run, step by step, and the groups of an optimizer that follow it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vaekit.checks import checked_number, is_number
from vaekit.schedules import Constant, Epochs, HistorySchedule, Schedule, bounded, named_schedule, registry

_NAME = "learning_rate"
_LONG = 10**9  # steps of a run that is not known yet


def check(learning_rate: Any) -> None:
    """Refuse what is no learning rate, before it is known how many steps the run has.

    Raises:
        TypeError, ValueError: neither a number above 0, a schedule, nor the spec of one; one that begins or ends below 0.
        UnknownNameError: a schedule that is not registered.
    """
    if is_number(learning_rate):
        checked_number(_NAME, learning_rate, above=0.0)
    bounded(_NAME, named_schedule(_NAME, learning_rate, {"steps": _LONG}))


def is_planned_by_epochs(learning_rate: Any) -> bool:
    """Whether it is a spec that gets the run's own number of steps.

    Example:
        >>> is_planned_by_epochs({"name": "cosine", "start": 1e-3})
        True
        >>> is_planned_by_epochs({"name": "cosine", "start": 1e-3, "steps": 100})
        False
    """
    return isinstance(learning_rate, Mapping) and "steps" not in learning_rate and registry.takes(learning_rate["name"], "steps")


class LearningRate:
    """The rate of each step.

    Args:
        given: a number, a schedule, or the spec of one.
        steps: of the run, for a spec that leaves them out; None where they are not known.

    Raises:
        TypeError: a spec without steps for a run whose length is not known.
        ValueError: a schedule that does not fit into the run's steps; later, a value that is negative or not finite.
    """

    def __init__(self, given: float | Schedule | Mapping[str, Any], steps: int | None) -> None:
        try:
            self._schedule = named_schedule(_NAME, given, None if steps is None else {"steps": steps})
        except TypeError as error:
            if steps is not None:
                raise
            raise TypeError(f"{error}: the run's own cannot be counted, because the loader has no length") from error
        self._now = bounded(_NAME, self._schedule)

    @property
    def is_constant(self) -> bool:
        """Whether it is the same at every step of the run."""
        return isinstance(self._schedule, Constant)

    @property
    def least_steps(self) -> int | None:
        """The fewest steps of a run for which the schedule is meant; None where it does not say."""
        return self._schedule.least_steps

    @property
    def final(self) -> float:
        """Its final value."""
        return self._now(None)

    @property
    def follows_history(self) -> bool:
        """Whether it has to be told of the epochs so far."""
        return isinstance(self._schedule, HistorySchedule)

    def begin_epoch(self, history: Epochs) -> None:
        """Take what the epochs so far say of the rate."""
        if isinstance(self._schedule, HistorySchedule):
            self._now = bounded(_NAME, named_schedule(_NAME, self._schedule.after(history)))

    def __call__(self, step: int) -> float:
        return self._now(step)

    def set(self, groups: Iterable[dict[str, Any]], step: int) -> None:
        """Give the groups that follow the rate the one of this step."""
        if self.is_constant:
            return
        rate = self(step)
        for group in groups:
            if "lr_factor" in group:
                group["lr"] = group["lr_factor"] * rate
