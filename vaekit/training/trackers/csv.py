"""The history of a run as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaekit.layout import HISTORY_FILE
from vaekit.training.history import History
from vaekit.training.trackers.base import Summary, TrackedRun, Tracker, register


@register("csv")
class Csv(Tracker):
    """`history.csv` in the run's folder: a line an epoch, as `History.to_csv` writes it. Nothing without a folder.

    It is what `vaekit plot` draws the losses from, and written anew with every epoch, whole or not at all.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = vaekit.fit(vae, torch.rand(100, 4), epochs=2, progress=False, out=folder, trackers=["csv"])
        ...     print(Path(folder, "history.csv").read_text().splitlines()[0])
        epoch,loss,reconstruction,kl
    """

    wants_steps = False

    def __init__(self) -> None:
        self._file: Path | None = None
        self._history = History()

    def begin(self, run: TrackedRun) -> None:
        self._history, self._file = run.history, None if run.folder is None else run.folder / HISTORY_FILE
        if run.is_resumed and self._history.epochs and self._file is not None:
            self._history.to_csv(self._file)

    def log_epoch(self, record: Summary) -> None:
        if self._file is not None:
            self._history.to_csv(self._file)


def kept_current(trackers: Sequence[Tracker], folder: Path | None) -> tuple[Tracker, ...]:
    """The trackers of a run that is resumed, and a `Csv` where its folder has a table that would be stale otherwise."""
    file = None if folder is None else folder / HISTORY_FILE
    has_one = any(isinstance(tracker, Csv) for tracker in trackers)
    if has_one or file is None or not file.is_file() or not file.stat().st_size:
        return tuple(trackers)
    return (*trackers, Csv())
