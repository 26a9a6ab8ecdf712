"""Ends a run that no longer gets better."""

from __future__ import annotations

import math

from vaekit.checks import checked_number, checked_size
from vaekit.training.callbacks.base import Callback, monitored
from vaekit.training.state import RunState


class EarlyStopping(Callback):
    """Ends the run when a term has not improved for some epochs.

    Epochs in which a scheduled weight of the objective had not reached its final value do not count. It has no state of its own:
    what it decides is a function of the history.

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
        best, waited = math.inf, 0
        for value, is_settled in zip(monitored(state, self.monitor, self), state.history.is_settled, strict=True):
            if not is_settled:
                continue
            best, waited = (value, 0) if value < best - self.min_delta else (best, waited + 1)
        state.stop = state.stop or waited >= self.patience
