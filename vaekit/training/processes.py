"""The processes of a run: where torchrun has started this one, and what is said when one of them fails."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple

from torch import distributed

from vaekit.checks import checked_word

STRATEGIES = ("auto", "ddp", "fsdp")
_SECONDS_FOR_THE_REASON = 2.0  # that a process whose partner is gone waits for what that one has to say
_WITHOUT_A_WORD = "killed for want of memory, for example; torchrun says which one and with what code"
_runs = count()


class OtherProcessError(RuntimeError):
    """Another process of the run has failed, and this one cannot go on without it."""


class Place(NamedTuple):
    """Where torchrun has started this process.

    Attributes:
        rank: its number among all, 0, 1, ...
        world: how many there are.
        local_rank: its number on this machine.
        local_world: how many there are on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def machines(self) -> int:
        return self.world // self.local_world


def checked_devices(devices: Any) -> int | tuple[int, ...]:
    """A number of devices, or the numbers of some.

    Raises:
        ValueError: neither.
    """
    if isinstance(devices, int) and not isinstance(devices, bool) and devices >= 1:
        return devices
    if isinstance(devices, Sequence) and not isinstance(devices, str) and devices:
        numbers = tuple(devices)
        if all(type(number) is int and number >= 0 for number in numbers) and len(set(numbers)) == len(numbers):
            return numbers
    raise ValueError(f"devices has to be how many, 2 for example, or the numbers of GPUs, [0, 3] for example; got {devices!r}")


def checked_strategy(strategy: str) -> str:
    """How several processes train one model.

    Raises:
        ValueError: in another way than there is.
    """
    return checked_word("strategy", strategy, STRATEGIES)


def is_under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


def place_of_this_process(devices: int | Sequence[int] = 1) -> Place:
    """Where this process is among those of the run.

    Args:
        devices: how many were asked for, or which; 1 leaves it to torchrun.

    Raises:
        ValueError: several without torchrun, or another number than torchrun has started on this machine.
    """
    wanted = devices if isinstance(devices, int) else len(devices)
    if not is_under_torchrun():
        if wanted == 1:
            return Place()
        raise ValueError(
            f"devices={devices!r} needs a process for each device, and there is this one alone: start the program with "
            f"`torchrun --nproc-per-node {wanted} {_program()}`; `vaekit train --devices {wanted}` does so by itself"
        )
    place = Place(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
    if wanted not in (1, place.local_world) or (wanted == 1 < place.local_world and not isinstance(devices, int)):
        raise ValueError(
            f"devices={devices!r}, but torchrun has started {place.local_world} process(es) on this machine: give torchrun "
            f"--nproc-per-node {wanted}, or leave devices out"
        )
    return place


def _program() -> str:
    return os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0].endswith(".py") else "PROGRAM.py"


class Reasons:
    """Lets the processes of a run tell each other why they fail.

    They write into the store by which torchrun brings them together. One whose partner has gone away reads there why, and says
    that instead of what its broken connection looks like.

    Args:
        place: of this process.
    """

    def __init__(self, place: Place) -> None:
        self._place, self._name = place, f"vaekit/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_runs)}"
        self._store: Any = None
        if place.world > 1:
            with suppress(KeyError, ValueError, RuntimeError):  # then nobody is told
                host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                make_store = vars(distributed)["TCPStore"]  # which torch does not export for type checkers
                self._store = make_store(host, port, is_master=False, timeout=timedelta(seconds=20))

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the others of an error in here, unless it is the consequence of one that another process has told of.

        Raises:
            OtherProcessError: in place of an error of communication.
        """
        try:
            yield
        except Exception as error:
            if self._place.world == 1:
                raise
            if not _is_of_communication(error):
                self._tell(error)
                raise
            if (told := self._reason()) is None:
                raise OtherProcessError(f"another process of the run has ended without a word, {_WITHOUT_A_WORD}") from error
            rank, reason = told
            raise OtherProcessError(f"process {rank} has failed, and this one, {self._place.rank}, with it: {reason}") from None

    def _tell(self, error: Exception) -> None:
        if self._store is not None:
            text = json.dumps([self._place.rank, f"{type(error).__name__}: {error}"])
            with suppress(RuntimeError):
                self._store.compare_set(self._name, "", text)  # the first one counts

    def _reason(self) -> tuple[int, str] | None:
        """Which process has failed first, and why, as soon as it has said so."""
        deadline = time.monotonic() + _SECONDS_FOR_THE_REASON
        while self._store is not None and time.monotonic() < deadline:
            with suppress(RuntimeError):
                if self._store.check([self._name]):
                    rank, reason = json.loads(self._store.get(self._name))
                    return rank, reason
            time.sleep(0.1)
        return None


def _is_of_communication(error: Exception) -> bool:
    if isinstance(error, distributed.DistError):
        return True
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
