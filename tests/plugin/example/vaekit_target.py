"""A callback that ends a run at a target."""

from __future__ import annotations

from vaekit import Callback, RunState


class StopAtTarget(Callback):
    """Ends the run after the first epoch whose term is below a target.

    Args:
        target: in the term's own unit, nats as a rule.
        term: a name in the history.
    """

    def __init__(self, target: float, term: str = "loss") -> None:
        self.target, self.term = target, term

    def on_epoch_end(self, state: RunState) -> None:
        state.stop = state.stop or state.history[self.term][-1] < self.target
