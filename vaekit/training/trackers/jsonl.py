"""What a run records as lines of JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaekit.files import writable_folder, write_atomically
from vaekit.training.trackers.base import Summary, TrackedRun, Tracker, register

METRICS_FILE = "metrics.jsonl"


@register("jsonl")
class JsonLines(Tracker):
    """An object a line: what the run is made from, then the means of every 50 steps, and every epoch's.

    Each line has an "event", "run", "steps" or "epoch"; the last two have "step", "epoch", "learning_rate", "seconds",
    "samples_per_second" and "terms". A line is with the operating system before the run goes on, so that nothing is lost when it
    is killed. A number that JSON does not have is null.

    Args:
        file: `metrics.jsonl` in the run's folder by default.

    Raises:
        FileExistsError: the file is there already; when a run begins that does not go on with that one.

    Example:
        >>> import tempfile, torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     history = vaekit.fit(vae, torch.rand(100, 4), epochs=2, progress=False, out=folder, trackers=["jsonl"])
        ...     print([json.loads(line)["event"] for line in open(f"{folder}/metrics.jsonl")])
        ['run', 'epoch', 'epoch']
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        self._given = file
        self._file: Path | None = None
        self._first: dict[str, Any] | None = None

    def begin(self, run: TrackedRun) -> None:
        # Absolute, as a callback may go to another folder.
        file = Path(self._given).resolve() if self._given is not None else run.folder_for(self, "file") / METRICS_FILE
        writable_folder(file.parent)
        self._file, self._first = file, {"event": "run", **run.settings()}
        if not file.exists():
            return
        if not run.is_resumed:
            raise FileExistsError(f"{file} holds the records of an earlier run; choose another file, or remove it")
        kept = [line + b"\n" for line in _lines_until(file.read_bytes(), run.step, run.history.epochs)]
        write_atomically(file, b"".join(kept))
        self._first = None if kept else self._first

    def log_steps(self, record: Summary) -> None:
        self._write("steps", record)

    def log_epoch(self, record: Summary) -> None:
        self._write("epoch", record)

    def _write(self, event: str, record: Summary) -> None:
        first, self._first = self._first, None  # not before there is something to say of the run
        values = {"event": event, "step": record.step, "epoch": record.epoch, "learning_rate": record.learning_rate}
        values |= {"seconds": record.seconds, "samples_per_second": record.samples_per_second, "terms": dict(record.terms)}
        assert self._file is not None
        with open(self._file, "ab") as stream:
            stream.write(b"".join(_line(each) for each in (first, values) if each is not None))


def _line(values: dict[str, Any]) -> bytes:
    return json.dumps(_without_nan(values), allow_nan=False).encode() + b"\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines_until(content: bytes, step: int, epochs: int) -> Iterator[bytes]:
    """The whole lines of what was recorded up to a step, and to the end of so many epochs."""
    for line in content.split(b"\n")[:-1]:
        values = json.loads(line)
        is_later = {"steps": values.get("step", 0) > step, "epoch": values.get("epoch", 0) > epochs}
        if not is_later.get(values["event"], False):
            yield line
