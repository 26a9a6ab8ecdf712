"""What a run records as a run of Weights & Biases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vaekit.checks import checked_word
from vaekit.files import write_atomically
from vaekit.training.trackers.base import Summary, TrackedRun, Tracker, pixels, register, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ID_FILE = "wandb-run.txt"  # in the run's folder: under which id it goes on
_MODES = ("online", "offline", "disabled", "shared")
_EXIT_CODES = {"finished": 0, "interrupted": 255, "failed": 1}  # 255 as wandb itself reports ^C


@register("wandb")
class Wandb(Tracker):
    """A run of Weights & Biases, with its settings, scalars "step/loss" and "epoch/val_loss" over steps, and pictures.

    Needs `pip install 'vaekit[wandb]'`, and `wandb login` unless it is offline. Its files are in `wandb` in the run's folder, or
    in the current one. A run that is resumed goes on under its id, and what it takes again is not recorded twice.

    Args:
        project: as `wandb.init` takes it.
        run_name: by default as its folder is called.
        mode: "online", "offline", "disabled" or "shared"; by default what the environment variable WANDB_MODE says.

    Raises:
        ImportError: the package is not installed.

    Example:
        >>> import vaekit
        >>> sorted(vaekit.trackers.describe("wandb").options)
        ['mode', 'project', 'run_name']
        >>> tracker = {"name": "wandb", "project": "digits"}  # vaekit.fit(..., trackers=["csv", tracker])
    """

    shows_pictures = True

    def __init__(self, project: str = "vaekit", run_name: str | None = None, mode: str | None = None) -> None:
        require("wandb", "wandb")
        if mode is not None:
            checked_word("mode", mode, _MODES)
        self.project, self.run_name, self.mode = project, run_name, mode
        self._run: Any = None

    def begin(self, run: TrackedRun) -> None:
        import wandb

        file = None if run.folder is None else run.folder / _ID_FILE
        known = file.read_text().strip() if run.is_resumed and file is not None and file.is_file() else None
        init: Any = wandb.init  # whose words for a mode are a type of its own
        self._run = init(
            project=self.project,
            name=self.run_name or (None if run.folder is None else run.folder.name),
            mode=self.mode,
            dir=run.folder,
            config=run.settings(),
            id=known,
            resume=None if known is None else "allow",
            settings=wandb.Settings(console="off"),
        )
        if file is not None and known is None:
            write_atomically(file, f"{self._run.id}\n".encode())

    def log_steps(self, record: Summary) -> None:
        self._log(record.scalars("step"), record.step)

    def log_epoch(self, record: Summary) -> None:
        self._log(record.scalars("epoch"), record.step)

    def log_picture(self, name: str, figure: Figure, step: int) -> None:
        import wandb

        self._log({name: wandb.Image(pixels(figure))}, step)

    def end(self, status: str) -> None:
        if self._run is not None:
            self._run.finish(exit_code=_EXIT_CODES[status])
            self._run = None

    def _log(self, values: dict[str, Any], step: int) -> None:
        if step >= self._run.step:  # of what an earlier process has recorded, it would take nothing
            self._run.log(values, step=step)
