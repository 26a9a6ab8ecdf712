"""Keeps the best models of a run, by any of its terms."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaekit.checks import checked_size, checked_word
from vaekit.training.callbacks.base import Callback, monitored
from vaekit.training.state import RunState


class ModelCheckpoint(Callback):
    """Keeps the models of the best epochs by a term, each in a folder `epoch-0012` that `vaekit.load` reads.

    With the averaged weights where the run keeps an average. As in `History.best_epoch`, epochs in which a scheduled weight of
    the objective had not reached its final value are worse than all others; of them the latest is the best. NaN is worse than
    any number.

    Args:
        folder: made if need be.
        monitor: the term.
        mode: "min" or "max": which values of it are the best.
        keep: how many epochs.

    Raises:
        ValueError: another mode, or keep below 1; when the run begins a model that cannot be saved, and after the first epoch a
            term that the history does not have; when a run is resumed, another folder, monitor or mode than before.
        FileExistsError: the folder holds the models of an earlier run; when the run begins.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(100, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keeper = ModelCheckpoint(folder, monitor="kl", mode="max")
        ...     history = vaekit.fit(vae, x, epochs=3, callbacks=[keeper], progress=False)
        ...     best = vaekit.load(keeper.best)
        >>> keeper.best.name == f"epoch-{history['kl'].index(max(history['kl'])) + 1:04}"
        True
    """

    def __init__(self, folder: str | os.PathLike[str], monitor: str = "val_loss", mode: str = "min", keep: int = 1) -> None:
        # Absolute, as another callback may go to another folder.
        self.folder, self.monitor = Path(folder).resolve(), monitor
        self.mode, self.keep = checked_word("mode", mode, ("min", "max")), checked_size("keep", keep)
        self._kept: list[int] = []  # epochs, the best first
        self._resumes = False

    @property
    def best(self) -> Path:
        """The folder of the best model so far.

        Raises:
            ValueError: no epoch has ended yet.
        """
        if not self._kept:
            raise ValueError("ModelCheckpoint has kept no model: no epoch has ended yet")
        return self._folder_of(self._kept[0])

    def on_fit_start(self, state: RunState) -> None:
        resumes, self._resumes = self._resumes, False
        state.vae.config()  # a model that cannot be saved is refused before it is trained, not after
        if resumes:
            self._go_back_to(state)
            return
        self._kept = []
        if state.rank == 0 and (earlier := sorted(self.folder.glob("epoch-*"))):
            raise FileExistsError(f"{earlier[0]} is the model of an earlier run; choose another folder, or remove it")

    def on_epoch_end(self, state: RunState) -> None:
        values = monitored(state, self.monitor, self)
        epoch = state.history.epochs
        ranked = sorted(
            [*self._kept, epoch], key=lambda one: self._badness(values[one - 1], state.history.is_settled[one - 1], one)
        )
        self._kept, dropped = ranked[: self.keep], ranked[self.keep :]
        if state.rank:
            return
        if epoch in self._kept:
            with state.averaged() as vae:
                vae.save(self._folder_of(epoch))
        for one in dropped:  # once the better one is there
            if (folder := self._folder_of(one)).is_dir():
                shutil.rmtree(folder)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": list(self._kept), "folder": str(self.folder), "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        now = self.state_dict()
        # A folder that is gone was moved, as a run may be.
        watched = [name for name in ("folder", "monitor", "mode") if name != "folder" or Path(state["folder"]).exists()]
        if others := [f"{name} was {state[name]!r} and is {now[name]!r}" for name in watched if state[name] != now[name]]:
            raise ValueError(
                f"the state in the checkpoint is another ModelCheckpoint's: {', '.join(others)}; give the same ones in the same "
                "order"
            )
        self._kept, self._resumes = list(state["kept"]), True

    def _go_back_to(self, state: RunState) -> None:
        """Forget what the run did after its checkpoint: later models, which come again, and those they took the place of."""
        if state.rank == 0:
            for folder in self.folder.glob("epoch-*"):
                number = folder.name.removeprefix("epoch-")
                if number.isdecimal() and int(number) > state.history.epochs:
                    shutil.rmtree(folder)
        self._kept = [epoch for epoch in self._kept if self._folder_of(epoch).is_dir()]

    def _badness(self, value: float, is_settled: bool, epoch: int) -> tuple[float, ...]:
        """The smaller the better."""
        if not is_settled:
            return (1.0, 0.0, -epoch)
        signed = value if self.mode == "min" else -value
        return (0.0, math.inf if math.isnan(signed) else signed, epoch)

    def _folder_of(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04}"
