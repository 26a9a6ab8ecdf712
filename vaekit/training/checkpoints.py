"""What a run leaves in its folder: the best and the last weights, and the history."""

from __future__ import annotations

import os
from pathlib import Path

from vaekit.files import writable_folder
from vaekit.layout import BEST, HISTORY_FILE, LAST
from vaekit.training.state import RunState


class Checkpoints:
    """Writes `best`, `last` and `history.csv` into a folder; does nothing without one.

    Each file is written whole or not at all, and weights before the history that speaks of them.

    Args:
        folder: made if need be; None for a run that leaves nothing.

    Raises:
        FileExistsError: the folder holds an earlier run.
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        # Absolute, as a callback may go to another folder.
        self.folder: Path | None = None if folder is None else writable_folder(folder).resolve()
        self._epochs_saved = 0
        if self.folder is None:
            return
        for name in (BEST, LAST, HISTORY_FILE):
            if (self.folder / name).exists():
                raise FileExistsError(f"{self.folder} holds the {name} of an earlier run; choose another folder, or remove it")

    def claim(self) -> None:
        """Make the folder this run's own, by an empty history that only one process can be the first to make.

        Raises:
            FileExistsError: another run has just begun in it.
        """
        if self.folder is None:
            return
        try:
            open(self.folder / HISTORY_FILE, "x").close()
        except FileExistsError as error:
            raise FileExistsError(f"{self.folder} has just become another run's; choose another folder") from error

    def epoch_ended(self, state: RunState) -> None:
        """Write the weights if the epoch that has ended is the best, and the history; once for each epoch."""
        if self.folder is None or self._epochs_saved == state.history.epochs:
            return
        if state.history.best_epoch == state.history.epochs - 1:
            self._save(state, BEST)
        state.history.to_csv(self.folder / HISTORY_FILE)
        self._epochs_saved = state.history.epochs

    def run_ended(self, state: RunState) -> None:
        """Write what has not been written, and the last weights if a step was made; a history only of what has epochs."""
        try:
            self.epoch_ended(state)
        finally:
            if self.folder is not None and not state.history.epochs:
                (self.folder / HISTORY_FILE).unlink(missing_ok=True)
            if self.folder is not None and state.step:
                self._save(state, LAST)

    def _save(self, state: RunState, name: str) -> None:
        assert self.folder is not None
        with state.averaged() as vae:
            vae.save(self.folder / name)
