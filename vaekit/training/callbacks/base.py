"""What a callback is: the events of a run, and a state that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit.training.state import RunState


class Callback:
    """Called by `vaekit.fit`; override what you need.

    In a run of several processes every one of them calls its callbacks; `state.rank` is 0 in the one that may write and draw.
    An exception ends the run: the weights are saved as `last`, `on_fit_end` is called, and `fit` raises it. The run can be
    resumed from its last checkpoint.

    Example:
        >>> class Print(Callback):
        ...     def on_epoch_end(self, state):
        ...         print(state.epoch, state.history["loss"][-1])
    """

    def on_fit_start(self, state: RunState) -> None:
        """Before the first step of the run."""

    def on_step_end(self, state: RunState) -> None:
        """After every optimizer step. Reading a tensor here makes the step wait for the device; `state.terms` are numbers.

        With strategy="fsdp" the weights are parts here, and the model cannot be called.
        """

    def on_validation_end(self, state: RunState) -> None:
        """After every validation, whose terms are in `state.validation`."""

    def on_epoch_end(self, state: RunState) -> None:
        """After every epoch, when its terms are in `state.history` and its files are written."""

    def on_fit_end(self, state: RunState) -> None:
        """After the run, however it ended, when its files are written; also where another callback raises here."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the run keeps of this callback: plain data and tensors, as `vaekit.plain.pack` takes them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; called before `on_fit_start` of a run that is resumed.

        Raises:
            ValueError: this callback has no state, and there is one.
        """
        if state:
            raise ValueError(
                f"the checkpoint has a state for {type(self).__name__}, {', '.join(map(str, state))}, but that has no "
                "load_state_dict; resume with the callbacks with which the run began"
            )


def monitored(state: RunState, term: str, by: Callback) -> list[float]:
    """The values of a term in the history, for a callback that watches it.

    Raises:
        ValueError: the history does not have it.
    """
    if term not in state.history:
        raise ValueError(
            f"{type(by).__name__} watches {term!r}, but the history has {', '.join(state.history)}; "
            "give `fit` validation data, or another monitor"
        )
    return state.history[term]
