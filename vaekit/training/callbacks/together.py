"""The callbacks of a run, as the loop calls them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vaekit.training.callbacks.base import Callback
from vaekit.training.state import RunState
from vaekit.training.warned import warn_of_another


class Callbacks:
    """Several callbacks, in order.

    Example:
        >>> Callbacks([Callback()]).state_dict()
        {'states': []}
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = tuple(callbacks)

    def call(self, event: str, state: RunState) -> None:
        """Tell every one of an event, "on_step_end" for example."""
        for callback in self._callbacks:
            getattr(callback, event)(state)

    def end(self, state: RunState, failed: bool) -> None:
        """Tell every one of the end, whichever raises; the error of a run that has `failed` is not hidden by theirs."""
        errors = []
        for callback in self._callbacks:
            try:
                callback.on_fit_end(state)
            except Exception as error:
                errors.append(error)
        for also in errors if failed else errors[1:]:
            warn_of_another(also)
        if errors and not failed:
            raise errors[0]

    def state_dict(self) -> dict[str, Any]:
        """The states of those that have one, with the names of their classes."""
        states = [(type(callback).__qualname__, callback.state_dict()) for callback in self._callbacks]
        return {"states": [named for named in states if named[1]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give each its own state back: to the first of its class that has none yet. New ones begin without.

        Raises:
            ValueError: there is no callback any more whose state that is.
        """
        left = list(self._callbacks)
        for name, own in state["states"]:
            callback = next((callback for callback in left if type(callback).__qualname__ == name), None)
            if callback is None:
                raise ValueError(
                    f"the run had a callback {name} with a state, which has to be given again: callbacks=[{name}(...)]"
                )
            left.remove(callback)
            callback.load_state_dict(own)
