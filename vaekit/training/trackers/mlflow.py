"""What a run records as a run of MLflow."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from vaekit.files import write_atomically
from vaekit.training.trackers.base import Summary, TrackedRun, Tracker, register, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ID_FILE = "mlflow-run.txt"  # in the run's folder: under which id it goes on
_LONGEST_VALUE = 500  # of a parameter, in the earliest version that is supported
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


@register("mlflow")
class Mlflow(Tracker):
    """A run of MLflow: options, scalars such as "step/loss" and "epoch/val_loss" over steps, pictures, and the config.

    Needs `pip install 'vaekit[mlflow]'`. A run that is resumed goes on under its id, and what it takes again is not recorded
    twice.

    Args:
        experiment: made where it is not there.
        tracking_uri: where runs are kept, "sqlite:///runs.db" or a server's address for example; by default what the environment
            variable MLFLOW_TRACKING_URI says, or else MLflow's own choice.
        run_name: by default as its folder is called.

    Raises:
        ImportError: the package is not installed.

    Example:
        >>> import vaekit
        >>> sorted(vaekit.trackers.describe("mlflow").options)
        ['experiment', 'run_name', 'tracking_uri']
        >>> tracker = {"name": "mlflow", "experiment": "digits"}  # vaekit.fit(..., trackers=["csv", tracker])
    """

    shows_pictures = True

    def __init__(self, experiment: str = "vaekit", tracking_uri: str | None = None, run_name: str | None = None) -> None:
        require("mlflow", "mlflow")
        self.experiment, self.tracking_uri, self.run_name = experiment, tracking_uri, run_name
        self._client: Any = None
        self._id = ""
        self._recorded = {"step": 0, "epoch": 0}  # up to which steps an earlier process has recorded

    def begin(self, run: TrackedRun) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client, self._recorded = MlflowClient(tracking_uri=self.tracking_uri), {"step": 0, "epoch": 0}
        file = None if run.folder is None else run.folder / _ID_FILE
        if run.is_resumed and file is not None and file.is_file():
            self._id = file.read_text().strip()
            self._client.update_run(self._id, status="RUNNING")
            for prefix in self._recorded:
                steps = [metric.step for metric in self._client.get_metric_history(self._id, f"{prefix}/loss")]
                self._recorded[prefix] = max(steps, default=0)
            return
        found = self._client.get_experiment_by_name(self.experiment)
        experiment = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        name = self.run_name or (None if run.folder is None else run.folder.name)
        self._id = self._client.create_run(experiment, run_name=name).info.run_id
        settings = run.settings()
        params = [Param(f"fit.{option}", str(value)[:_LONGEST_VALUE]) for option, value in settings["fit"].items()]
        self._client.log_batch(self._id, params=params)
        self._client.log_dict(self._id, settings, "settings.json")
        if file is not None:
            write_atomically(file, f"{self._id}\n".encode())

    def log_steps(self, record: Summary) -> None:
        self._log(record, "step")

    def log_epoch(self, record: Summary) -> None:
        self._log(record, "epoch")

    def log_picture(self, name: str, figure: Figure, step: int) -> None:
        self._client.log_figure(self._id, figure, f"{name}-{step:08}.png")

    def end(self, status: str) -> None:
        if self._client is not None and self._id:
            self._client.set_terminated(self._id, _STATUS[status])

    def _log(self, record: Summary, prefix: str) -> None:
        from mlflow.entities import Metric

        if record.step <= self._recorded[prefix]:
            return
        now, values = int(1000 * time.time()), record.scalars(prefix)
        metrics = [Metric(name, value, now, record.step) for name, value in values.items() if not math.isnan(value)]
        self._client.log_batch(self._id, metrics=metrics)
