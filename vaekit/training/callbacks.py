"""Code of one's own within a run."""

from __future__ import annotations

from dataclasses import dataclass

from vaekit.training.history import History
from vaekit.vae import VAE


@dataclass
class FitState:
    """Where a run is.

    Attributes:
        vae: the model.
        history: the epochs so far.
        epoch: the running epoch, 0, 1, ...; at the end of an epoch the one that has ended.
        step: the number of optimizer steps done.
        stop: set it to end the run after the present step or epoch.
    """

    vae: VAE
    history: History
    epoch: int = 0
    step: int = 0
    stop: bool = False


class Callback:
    """Called by `vaekit.fit`; override what you need.

    Example:
        >>> class Print(Callback):
        ...     def on_epoch_end(self, state):
        ...         print(state.epoch, state.history["loss"][-1])
    """

    def on_step_end(self, state: FitState) -> None:
        """After every optimizer step."""

    def on_epoch_end(self, state: FitState) -> None:
        """After every epoch, its validation included."""


class EarlyStopping(Callback):
    """Ends the run when a term has not improved for some epochs.

    Args:
        patience: how many epochs without improvement end the run.
        monitor: the term. Training losses under a scheduled weight do not compare from epoch to epoch; validation losses do.
        min_delta: how much lower than the best so far counts as an improvement, in nats.

    Raises:
        ValueError: a patience below 1.

    Example:
        >>> EarlyStopping(patience=3).monitor
        'val_loss'
    """

    def __init__(self, patience: int = 5, monitor: str = "val_loss", min_delta: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience has to be at least 1 epoch, got {patience}")
        self.patience, self.monitor, self.min_delta = patience, monitor, min_delta

    def on_epoch_end(self, state: FitState) -> None:
        if self.monitor not in state.history:
            raise ValueError(
                f"EarlyStopping watches {self.monitor!r}, but the history has {', '.join(state.history)}; "
                "give `fit` validation data, or another monitor"
            )
        values = state.history[self.monitor]
        best, waited = values[0], 0
        for value in values[1:]:
            best, waited = (value, 0) if value < best - self.min_delta else (best, waited + 1)
        state.stop = state.stop or waited >= self.patience
