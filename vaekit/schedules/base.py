"""What a schedule is, how a number or a spec becomes one, and which values it may give."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import nn

from vaekit.checks import checked_number, is_number
from vaekit.registry import Part, Registry


class Schedule(Part, ABC):
    """A number that changes with the step: the weight of a term, or a learning rate.

    Where a learning rate is given as a spec that leaves out an option called `steps`, `vaekit.fit` fills in the run's own number
    of optimizer steps.
    """

    @abstractmethod
    def __call__(self, step: int | None) -> float:
        """The value at `step` (0, 1, ...); None, used outside training, is the schedule's final value."""

    @property
    def least_steps(self) -> int | None:
        """The fewest steps of a run for which it is meant: in which it ends, or changes once where it goes on without end.

        None where it does not say; then nobody is warned that a run is too short for it.
        """
        return None


class Epochs(Protocol):
    """What a schedule sees of the epochs so far; a `vaekit.History`.

    Attributes:
        is_settled: of each epoch, whether every scheduled weight of the objective had its final value.
    """

    is_settled: list[bool]

    def __getitem__(self, name: str, /) -> list[float]: ...

    def __iter__(self) -> Iterator[str]: ...


class HistorySchedule(Schedule):
    """A learning rate that depends on how the run goes.

    It keeps nothing: what the steps of an epoch get is a function of the epochs before it, so that a resumed run continues as if
    it had never stopped. Called with a step, it gives the value before the first epoch. An objective's weight cannot be one: an
    objective does not see the history.

    Example:
        >>> class HalvedEachEpoch(HistorySchedule):
        ...     def __call__(self, step):
        ...         return 1e-3
        ...     def after(self, history):
        ...         return as_schedule(1e-3 * 0.5 ** len(history.is_settled))
    """

    @abstractmethod
    def after(self, history: Epochs) -> Schedule:
        """The schedule for the steps of the next epoch; `history` may have no epoch yet."""


registry: Registry[Schedule] = Registry("schedule", "vaekit.schedules", Schedule)


@registry.register("constant")
class Constant(Schedule):
    """The same weight at every step. Use it unless something speaks for another; a number is short for it.

    Example:
        >>> Constant(4.0)(step=10)
        4.0
    """

    def __init__(self, value: float = 1.0) -> None:
        self.value = checked_number("value", value)

    def __call__(self, step: int | None) -> float:
        return self.value


def as_schedule(weight: float | Schedule | Mapping[str, Any], offers: Mapping[str, Any] | None = None) -> Schedule:
    """A number, a schedule or a spec {"name": ..., option: ...} as a schedule.

    Args:
        weight: the number, the schedule or the spec.
        offers: options that the schedule gets if it has them and the spec does not set them, {"steps": 1000} for example.

    Raises:
        TypeError: something else, or a spec that lacks an option.

    Example:
        >>> as_schedule({"name": "linear", "steps": 10})(5)
        0.5
        >>> as_schedule({"name": "linear"}, offers={"steps": 100})(5)
        0.05
    """
    if isinstance(weight, (Schedule, Mapping)):
        return registry.build(weight, offers)
    if not is_number(weight):
        raise TypeError(f'expected a number, a Schedule or {{"name": ..., option: ...}}, got {weight!r}')
    return Constant(float(weight))


def checked_schedule(
    name: str, weight: float | Schedule | Mapping[str, Any], lowest: float = 0.0, highest: float = math.inf
) -> Schedule:
    """The weight of an objective as a schedule that refuses to give what is not a finite number in [lowest, highest].

    Args:
        name: of the option, for messages.
        weight: what `as_schedule` takes.
        lowest, highest: the range, ends included.

    Raises:
        TypeError: not a schedule, or one that depends on the history.
        ValueError: it begins or ends outside the range. What it gives at other steps is checked there.

    Example:
        >>> checked_schedule("beta", -1.0)
        Traceback (most recent call last):
        ValueError: beta has to be at least 0, got -1.0
    """
    schedule = named_schedule(name, weight)
    if isinstance(schedule, HistorySchedule):
        raise TypeError(
            f"{name}: the schedule {_name(schedule)!r} depends on the history of a run, which an objective does not see; only a "
            "learning_rate can"
        )
    return bounded(name, schedule, lowest, highest)


def named_schedule(name: str, weight: float | Schedule | Mapping[str, Any], offers: Mapping[str, Any] | None = None) -> Schedule:
    """`as_schedule(weight, offers)`, or an error that names the option."""
    try:
        return as_schedule(weight, offers)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def bounded(name: str, schedule: Schedule, lowest: float = 0.0, highest: float = math.inf) -> Schedule:
    """The schedule with each value checked when it is given.

    Raises:
        TypeError: here or at a later step, a value that is not a number.
        ValueError: here or at a later step, one that is not finite or outside [lowest, highest]. The message names the option,
            the schedule, the step and the value.
    """
    if isinstance(schedule, _Bounded):
        schedule = schedule._stands_for
    checked = _Bounded(name, schedule, lowest, highest)
    for step in (0, None):
        checked(step)
    return schedule if isinstance(schedule, Constant) else checked


class _Bounded(Schedule):
    """Stands for another schedule, and checks its values."""

    def __init__(self, name: str, schedule: Schedule, lowest: float, highest: float) -> None:
        self.name, self.lowest, self.highest = name, lowest, highest
        self._stands_for = schedule  # which a config has in its place, see recorded_spec

    @property
    def least_steps(self) -> int | None:
        return self._stands_for.least_steps

    def __call__(self, step: int | None) -> float:
        value = self._stands_for(step)
        if isinstance(value, float) and self.lowest <= value <= self.highest and value - value == 0.0:
            return value
        return self._number(value, step)

    def _number(self, value: Any, step: int | None) -> float:
        """The value as a float where it is another kind of number.

        Raises:
            TypeError, ValueError: it is none that the option can have.
        """
        which = "" if isinstance(self._stands_for, Constant) else f"; the schedule {_name(self._stands_for)!r} gave it "
        which += "" if not which else "as its final value" if step is None else f"at step {step}"
        if not is_number(value):
            raise TypeError(f"{self.name} has to be a number, got {value!r}{which}")
        if math.isfinite(value) and self.lowest <= value <= self.highest:
            return float(value)
        allowed = f"at least {self.lowest:g}" if self.highest == math.inf else f"between {self.lowest:g} and {self.highest:g}"
        if not math.isfinite(value):
            allowed = f"finite and {allowed}"
        raise ValueError(f"{self.name} has to be {allowed}, got {value!r}{which}")


def scheduled(module: nn.Module) -> dict[str, Schedule]:
    """The weights of an objective that change with the step, by the names of the attributes that hold them.

    Example:
        >>> import vaekit
        >>> list(scheduled(vaekit.losses.create("elbo", beta={"name": "linear", "steps": 10})))
        ['beta']
    """
    held = {
        f"{path}.{name}" if path else name: value
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Schedule)
    }
    return {name: schedule for name, schedule in held.items() if not isinstance(schedule, Constant)}


def is_final(weight: Schedule, step: int) -> bool:
    """Whether a weight has its final value at a step, to a thousandth: some schedules only come near it.

    Example:
        >>> import vaekit
        >>> weight = vaekit.schedules.Linear(steps=10)
        >>> is_final(weight, 9), is_final(weight, 10)
        (False, True)
    """
    return math.isclose(weight(step), weight(None), rel_tol=1e-3)


def warn_of_final_values(objective: nn.Module, stacklevel: int) -> None:
    """Warn of an objective with scheduled weights that is trained without a step, and so with their final values."""
    if names := list(scheduled(objective)):
        weights, values = (
            ("scheduled weights", "their final values") if len(names) > 1 else ("scheduled weight", "its final value")
        )
        warnings.warn(
            f"the model is being trained without step=, so the objective's {weights} {' and '.join(names)} had {values}; "
            "call vae(x, step=step) with the number of optimizer steps done so far. Where nothing is "
            "trained, call it under torch.no_grad() or after vae.eval()",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def between(start: float, end: float, fraction: float) -> float:
    """A straight line from `start` at fraction 0 to `end` at 1, and `end` after it."""
    fraction = min(fraction, 1.0)
    return start * (1.0 - fraction) + end * fraction


def cosine_between(start: float, end: float, fraction: float) -> float:
    """Half a wave of a cosine from `start` at fraction 0 to `end` at 1, and `end` after it."""
    return between(start, end, 0.5 - 0.5 * math.cos(math.pi * min(fraction, 1.0)))


def _name(schedule: Schedule) -> str:
    """What a message calls a schedule."""
    return str(vars(type(schedule)).get("_registered_name", type(schedule).__name__))
