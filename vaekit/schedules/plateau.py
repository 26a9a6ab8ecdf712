"""A learning rate that falls when the run no longer improves."""

from __future__ import annotations

import math

from vaekit.checks import checked_number, checked_size
from vaekit.schedules.base import Constant, Epochs, HistorySchedule, Schedule, registry


@registry.register("plateau")
class Plateau(HistorySchedule):
    """`start`, multiplied by `factor` each time that a monitored term has not improved for `patience` epochs.

    Use it as a learning rate where nobody knows how long a run takes to settle. It counts anew after each decay. Epochs in which
    a scheduled weight of the objective had not reached its final value, or that lack the term, do not count. It keeps no state:
    the rate is a function of the history.

    torch.optim.lr_scheduler.ReduceLROnPlateau with threshold_mode="abs" is the same, but for its patience, which is the number of
    epochs that it still puts up with, one less.

    Args:
        start: the value at the beginning.
        factor: between 0 and 1.
        patience: how many epochs without improvement make it fall.
        monitor: the term; "val_loss" with validation data and "loss" without by default.
        min_delta: how much lower than the best so far counts as an improvement, in nats.
        lowest: it never falls below this.

    Raises:
        TypeError, ValueError: an option outside its range; after the first epoch, a term that the history does not have.

    Example:
        >>> import vaekit
        >>> rate, history = Plateau(start=1e-3, factor=0.5, patience=2), vaekit.History()
        >>> for loss in (5.0, 4.0, 4.2, 4.1):
        ...     history.append({"loss": loss}, seconds=1.0)
        >>> rate(0), rate.after(history)(0)
        (0.001, 0.0005)
    """

    def __init__(
        self,
        start: float,
        factor: float = 0.1,
        patience: int = 10,
        monitor: str | None = None,
        min_delta: float = 0.0,
        lowest: float = 0.0,
    ) -> None:
        self.start, self.lowest = checked_number("start", start, above=0.0), checked_number("lowest", lowest, least=0.0)
        self.factor = checked_number("factor", factor, above=0.0, below=1.0)
        self.patience, self.min_delta = checked_size("patience", patience), checked_number("min_delta", min_delta, least=0.0)
        if self.lowest > self.start:
            raise ValueError(f"lowest has to be at most start, {self.start:g}, got {lowest!r}")
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(f'monitor has to be the name of a term, "val_loss" for example, got {monitor!r}')
        self.monitor = monitor

    def __call__(self, step: int | None) -> float:
        return self.start

    def after(self, history: Epochs) -> Schedule:
        rate, best, waited = self.start, math.inf, 0
        for value, is_settled in zip(self._monitored(history), history.is_settled, strict=True):
            if not is_settled or math.isnan(value):
                continue
            best, waited = (value, 0) if value < best - self.min_delta else (best, waited + 1)
            if waited >= self.patience:
                rate, waited = max(self.factor * rate, self.lowest), 0
        return Constant(rate)

    def _monitored(self, history: Epochs) -> list[float]:
        terms = list(history)
        if not terms:
            return []
        monitor = self.monitor or ("val_loss" if "val_loss" in terms else "loss")
        if monitor not in terms:
            raise ValueError(
                f"the schedule 'plateau' watches {monitor!r}, but the history has {', '.join(terms)}; give `fit` validation "
                "data, or another monitor"
            )
        return history[monitor]
