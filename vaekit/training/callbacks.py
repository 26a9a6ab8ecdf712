"""Code of one's own within a run."""

from __future__ import annotations

import math

from vaekit.checks import checked_number, checked_size
from vaekit.training.state import RunState


class Callback:
    """Called by `vaekit.fit`; override what you need.

    Example:
        >>> class Print(Callback):
        ...     def on_epoch_end(self, state):
        ...         print(state.epoch, state.history["loss"][-1])
    """

    def on_fit_start(self, state: RunState) -> None:
        """Before the first step of the run."""

    def on_step_end(self, state: RunState) -> None:
        """After every optimizer step."""

    def on_validation_end(self, state: RunState) -> None:
        """After every validation, whose terms are in `state.validation`."""

    def on_epoch_end(self, state: RunState) -> None:
        """After every epoch, when its terms are in `state.history` and its files are written."""

    def on_fit_end(self, state: RunState) -> None:
        """After the run, however it ended, when its files are written."""


class EarlyStopping(Callback):
    """Ends the run when a term has not improved for some epochs.

    Epochs in which a scheduled weight of the objective had not reached its final value do not count.

    Args:
        patience: how many epochs without improvement end the run.
        monitor: the term.
        min_delta: how much lower than the best so far counts as an improvement, in nats.

    Raises:
        ValueError: a patience below 1.

    Example:
        >>> EarlyStopping(patience=3).monitor
        'val_loss'
    """

    def __init__(self, patience: int = 5, monitor: str = "val_loss", min_delta: float = 0.0) -> None:
        self.patience, self.monitor = checked_size("patience", patience), monitor
        self.min_delta = checked_number("min_delta", min_delta)

    def on_epoch_end(self, state: RunState) -> None:
        if self.monitor not in state.history:
            raise ValueError(
                f"EarlyStopping watches {self.monitor!r}, but the history has {', '.join(state.history)}; "
                "give `fit` validation data, or another monitor"
            )
        best, waited = math.inf, 0
        for value, is_settled in zip(state.history[self.monitor], state.history.is_settled, strict=True):
            if not is_settled:
                continue
            best, waited = (value, 0) if value < best - self.min_delta else (best, waited + 1)
        state.stop = state.stop or waited >= self.patience
