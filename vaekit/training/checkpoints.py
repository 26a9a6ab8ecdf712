"""What a run leaves in its folder: the best and the last weights, and checkpoints from which it can go on."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from vaekit import weights
from vaekit.files import locked, writable_folder, write_atomically
from vaekit.gathering import Ranks
from vaekit.layout import BEST, CHECKPOINTS, ENVIRONMENT_FILE, HISTORY_FILE, LAST, RUN_FILE
from vaekit.saving import CONFIG_FILE, WEIGHTS_FILE
from vaekit.training.history import History
from vaekit.training.record import ClaimedFolder
from vaekit.training.snapshots import Snapshot, Snapshots
from vaekit.training.state import RunState


class Stateful(Protocol):
    """What a checkpoint keeps the state of: plain data and tensors."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> None: ...


def restore(snapshot: Snapshot, parts: Mapping[str, Stateful]) -> None:
    """Set the states of the parts of a run, by name, to those in a checkpoint."""
    for name, part in parts.items():
        part.load_state_dict(snapshot.state[name])


class Checkpoints:
    """Writes `best`, `last` and checkpoints into a folder; does nothing without one.

    Each file is written whole or not at all.

    Args:
        folder: made if need be; None for a run that leaves nothing.
        keep: how many checkpoints; 0 for none.
        minutes: between two of them.
        resume: go on with the run that the folder holds, if it holds one.
        ranks: the processes of the run, of which the first writes, and all read where they go on; None for this one alone.
        clock: in seconds.

    Attributes:
        is_resumed: whether the folder holds a run that is resumed.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        keep: int = 2,
        minutes: float = 10.0,
        resume: bool = False,
        ranks: Ranks | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ranks = ranks or Ranks()
        # Absolute, as a callback may go to another folder.
        self.folder: Path | None = None if folder is None or self._ranks.rank else writable_folder(folder).resolve()
        self._source = None if folder is None else Path(folder).resolve() / CHECKPOINTS
        self._keep, self._seconds, self._clock = keep, 60.0 * minutes, clock
        self._written, self._epochs_saved, self._has_best = clock(), 0, False
        self._about: Mapping[str, Any] = {}
        self._parts: Mapping[str, Stateful] = {}
        self._snapshots = None if self.folder is None else Snapshots(self.folder / CHECKPOINTS, max(keep, 1))
        self._has_folder = self.folder is not None  # the first process
        self._resume, self._is_claimed, self.is_resumed = resume, isinstance(folder, ClaimedFolder), False

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder as this run's alone, for as long as it takes.

        Raises:
            FileExistsError: another run is writing into it; or it holds an earlier one, and nothing was said of going on with
                that, or it left no checkpoint.
        """
        with nullcontext() if self.folder is None else locked(self.folder):
            of_first = self._ranks.gather([self.folder is not None, self._resume and bool(self._snapshots)])[0]
            self._has_folder, self.is_resumed = map(bool, of_first)
            if not self.is_resumed:
                self._check_that_it_is_new()
            yield

    def newest(self) -> Snapshot | None:
        """The checkpoint to go on from; None for a new run.

        Raises:
            ValueError: there are some, and none of them is whole.

        Warns:
            UserWarning: the last is damaged, or something else, and one before it is taken.
        """
        if not self.is_resumed:
            return None
        snapshot = None if self._snapshots is None else self._snapshots.newest()
        if snapshot is not None and snapshot.problem:
            warnings.warn(
                f"{snapshot.problem}; the run goes on from step-{snapshot.step:09d}.safetensors{self._lost(snapshot)}",
                UserWarning,
                stacklevel=3,
            )
        step = self._ranks.gather(snapshot and snapshot.step)[0]
        if snapshot is None and step is not None and self._source is not None:
            snapshot = Snapshots(self._source, 1).read(step)
        return snapshot

    def claim(self, about: Mapping[str, Any], parts: Mapping[str, Stateful]) -> None:
        """Begin: a new run makes an empty history, which only one process can be the first to do.

        Args:
            about: what the run is made from.
            parts: whose states make a checkpoint.

        Raises:
            FileExistsError: another run has just begun in the folder.
        """
        self._about, self._parts = about, parts
        if self.folder is None or self.is_resumed:
            return
        try:
            open(self.folder / HISTORY_FILE, "x").close()
        except FileExistsError as error:
            raise FileExistsError(f"{self.folder} has just become another run's; choose another folder") from error

    def go_on(self, snapshot: Snapshot, state: RunState) -> None:
        """Set the folder to what it was at a checkpoint, whose states have been restored.

        Where there was no best epoch yet, `best` stays until there is one: the run that wrote it may have come further.
        """
        if self.folder is None or self._snapshots is None:
            return
        best = self.folder / BEST / WEIGHTS_FILE
        if snapshot.best is not None:
            best.parent.mkdir(exist_ok=True)
            if snapshot.best != best:
                with open(snapshot.best, "rb") as source:
                    write_atomically(best, lambda stream: shutil.copyfileobj(source, stream))
            with weights.opened(best) as stored:
                write_atomically(best.with_name(CONFIG_FILE), (stored.metadata["vaekit"] + "\n").encode())
            self._snapshots.link(snapshot.step, best)
        self._has_best = snapshot.best is not None
        self._epochs_saved = state.history.epochs
        if self._keep and self._about["options"] != snapshot.about["options"]:  # more epochs perhaps, which a kill is not to undo
            again = self._snapshots.read(snapshot.step).state  # as it is: a loader goes to its place with the first step
            again["run"]["stop"] = state.stop
            self._snapshots.write(snapshot.step, self._about, again, best if self._has_best else None)

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return self.folder is not None and self._keep > 0 and self._clock() - self._written >= self._seconds

    def write(self, step: int) -> None:
        """Write a checkpoint of a run that has done `step` steps, unless none are kept. All processes have to do this."""
        if not self._has_folder or not self._keep:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()}  # from all processes, where they hold parts of it
        if self.folder is None or self._snapshots is None:
            return
        best = self.folder / BEST / WEIGHTS_FILE
        self._snapshots.write(step, self._about, state, best if self._has_best and best.is_file() else None)
        self._written = self._clock()

    def epoch_ended(self, state: RunState) -> None:
        """Write the weights if the epoch that has ended is the best; once for each epoch."""
        if self.folder is None or self._epochs_saved == state.history.epochs:
            return
        if state.history.best_epoch == state.history.epochs - 1:
            self._save(state, BEST)
            self._has_best = True
        self._epochs_saved = state.history.epochs

    def run_ended(self, state: RunState, is_resumable: bool) -> None:
        """Write what has not been written, and the last weights if a step was made; leave no empty history.

        Args:
            state: of the run.
            is_resumable: whether it stands between two steps, with everything that was seen looked at.
        """
        if self.folder is None or self._snapshots is None:
            if is_resumable and (state.step or self.is_resumed):
                self.write(state.step)
            return
        try:
            self.epoch_ended(state)
        finally:
            if not (state.history.epochs or self.is_resumed):
                (self.folder / HISTORY_FILE).unlink(missing_ok=True)
            if state.step:
                self._save(state, LAST)
        if (history := self.folder / HISTORY_FILE).is_file() and not history.stat().st_size:
            history.unlink()
        if not (state.step or self.is_resumed):
            self._snapshots.remove_all()
        elif is_resumable and self._keep:
            self.write(state.step)
        elif is_resumable and state.step and not state.interrupt:  # an earlier process kept some, which are behind now
            self._snapshots.remove_all()

    def _lost(self, snapshot: Snapshot) -> str:
        """What is known to have been done after a checkpoint, in words."""
        assert self.folder is not None
        try:
            lost = History.from_csv(self.folder / HISTORY_FILE).epochs - snapshot.epochs
        except (OSError, ValueError):  # there is none, or none that can be read
            lost = 0
        return f", and trains again for what {lost} {'epoch' if lost == 1 else 'epochs'} had learned" if lost > 0 else ""

    def _save(self, state: RunState, name: str) -> None:
        assert self.folder is not None
        with state.averaged() as vae:
            vae.save(self.folder / name)

    def _check_that_it_is_new(self) -> None:
        if self.folder is None:
            return
        if self._resume and self._was_killed_at_once(self.folder):
            for name in (HISTORY_FILE, *([] if self._is_claimed else [RUN_FILE])):
                (self.folder / name).unlink(missing_ok=True)
        for name in (BEST, LAST, HISTORY_FILE):
            if (self.folder / name).exists():
                if self._resume:
                    raise FileExistsError(
                        f"{self.folder} holds the {name} of an earlier run, but no checkpoint to go on from; choose another "
                        "folder, or remove it"
                    )
                advice = "resume=True goes on with it; or choose" if self._snapshots else "choose"
                raise FileExistsError(f"{self.folder} holds the {name} of an earlier run; {advice} another folder, or remove it")

    def _was_killed_at_once(self, folder: Path) -> bool:
        """Whether a run began in the folder that did not live to its first checkpoint, which it makes before its first step."""
        history = folder / HISTORY_FILE
        if not (history.exists() or (folder / ENVIRONMENT_FILE).exists()):
            return False
        has_saved = any((folder / name).exists() for name in (BEST, LAST)) or (history.exists() and history.stat().st_size)
        return not has_saved and not self._snapshots
