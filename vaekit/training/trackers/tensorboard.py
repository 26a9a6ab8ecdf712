"""What a run records as TensorBoard's event files."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.training.trackers.base import Summary, TrackedRun, Tracker, pixels, register, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVENTS_FOLDER = "tensorboard"


@register("tensorboard")
class TensorBoard(Tracker):
    """TensorBoard's event files: scalars "step/loss" and "epoch/val_loss" over steps, pictures, and the settings as text.

    Look at them with `tensorboard --logdir RUN`. Needs `pip install 'vaekit[tensorboard]'`. A run that is resumed goes on in a
    file of its own, which hides what an earlier one recorded after that step.

    Args:
        folder: `tensorboard` in the run's folder by default.

    Raises:
        ImportError: the package is not installed.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = vaekit.fit(vae, torch.rand(100, 4), epochs=2, progress=False, trackers=[TensorBoard(folder)])
        ...     print(len(list(Path(folder).glob("events.out.tfevents.*"))))
        1
    """

    shows_pictures = True

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        require("tensorboard", "tensorboard")
        self._given = folder
        self._run: TrackedRun | None = None
        self._folder = Path()
        self._open: Any = None

    def begin(self, run: TrackedRun) -> None:
        self._folder = Path(self._given).resolve() if self._given is not None else run.folder_for(self, "folder") / EVENTS_FOLDER
        self._run, self._open = run, None
        if not run.is_resumed and self._folder.is_dir() and any(self._folder.glob("events.out.tfevents.*")):
            raise FileExistsError(f"{self._folder} holds the records of an earlier run; choose another folder, or remove it")

    def log_steps(self, record: Summary) -> None:
        self._write(record, "step")

    def log_epoch(self, record: Summary) -> None:
        self._write(record, "epoch")

    def log_picture(self, name: str, figure: Figure, step: int) -> None:
        self._writer().add_image(name, pixels(figure), step, dataformats="HWC")
        self._writer().flush()

    def end(self, status: str) -> None:
        if self._open is not None:
            self._open.close()

    def _write(self, record: Summary, prefix: str) -> None:
        for name, value in record.scalars(prefix).items():
            self._writer().add_scalar(name, value, record.step)
        self._writer().flush()

    def _writer(self) -> Any:
        """Opened when there is something to write, so that a run that is refused leaves nothing."""
        if self._open is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what the package imports
                from torch.utils.tensorboard import SummaryWriter
            assert self._run is not None
            run = self._run
            self._open = SummaryWriter(str(self._folder), purge_step=run.step + 1 if run.is_resumed else None)
            self._open.add_text("settings", f"```json\n{json.dumps(run.settings(), indent=2)}\n```", run.step)
        return self._open
