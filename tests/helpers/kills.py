"""Processes that are killed at a chosen moment."""

import os
import signal
import sys
import traceback
from collections.abc import Callable


def run_killed(run: Callable[[], object], after: int | None) -> bool:
    """Run in a child process, which is killed (SIGKILL) at its call number `after` of a function; whether it came to its end.

    Calls are counted, and not seconds, so that a moment is the same on every machine.

    Args:
        run: what it runs.
        after: None lets it live.

    Raises:
        AssertionError: it failed.
    """
    child = os.fork()
    if not child:
        try:
            if after is not None:
                sys.setprofile(_Counter(after))
            run()
            sys.setprofile(None)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed; its error is above"
    return not os.WIFSIGNALED(status)


def count_calls(run: Callable[[], object]) -> int:
    """How many functions are called while it runs."""
    counter = _Counter(None)
    sys.setprofile(counter)
    try:
        run()
    finally:
        sys.setprofile(None)
    return counter.calls


class _Counter:
    def __init__(self, last: int | None) -> None:
        self.calls, self._last = 0, last

    def __call__(self, frame, event, argument):
        if event in ("call", "c_call"):
            self.calls += 1
            if self.calls == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
