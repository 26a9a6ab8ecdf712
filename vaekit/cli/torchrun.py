"""`vaekit train --devices 2` has torchrun start the same command once for each device, and ends as they end."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch

from vaekit.cli.console import fail
from vaekit.training.processes import Place, checked_devices, is_under_torchrun, place_of_this_process

# `python -m vaekit` would import whatever lies in the current folder.
_PROGRAM = "import sys; sys.path = [path for path in sys.path if path]; from vaekit.cli import main; main()"


def place_or_hand_over(devices: int | Sequence[int], arguments: Sequence[str]) -> Place:
    """Where this process is among those of the run; one that has started several ends when they have ended.

    Args:
        devices: how many, or which.
        arguments: of this command.

    Raises:
        ValueError: as `place_of_this_process`.
        SystemExit: the processes have ended: with their code.
    """
    devices = checked_devices(devices)
    count = devices if isinstance(devices, int) else len(devices)
    if count == 1 or is_under_torchrun():
        return place_of_this_process(devices)
    sys.exit(_code_of_processes(count, arguments))


def end_without_threads(code: int | None) -> None:
    """End this process now, if it is one of several, after what is to be done at its exit.

    Threads of gloo's that still want the interpreter while it ends abort the process; what DTensor keeps of a divided model keeps
    them alive.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code or 0)


def _code_of_processes(count: int, arguments: Sequence[str]) -> int:
    """Run the command in so many processes; returns 0, the code of the first that failed, or 128 and a signal's number."""
    threads = str(max((os.cpu_count() or 1) // count, 1))
    with _variables(OMP_NUM_THREADS=threads, LOGLEVEL="CRITICAL"):  # otherwise torchrun takes 1 thread, and talks of itself
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run

        try:
            program = ["--no-python", sys.executable, "-c", _PROGRAM]
            run(parse_args(["--standalone", "--nproc-per-node", str(count), *program, *arguments]))
        except SignalException as asked:
            return 128 + int(asked.sigval)
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if failure.exitcode < 0:  # it could say nothing itself
                name = signal.Signals(-failure.exitcode).name
                fail(f"process {rank} of {count} has been ended by {name}, and the others with it", 128 - failure.exitcode)
            return int(failure.exitcode)
    return 0


@contextmanager
def _variables(**defaults: str) -> Iterator[None]:
    """Variables of the environment that are not set are for a while."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
