"""The `vaekit` command in this process, and small data and models for it."""

from pathlib import Path

import numpy as np
import pytest

from vaekit import cli
from vaekit.plots.catalogue import Entry

SMALL = ["--set", "encoder.hidden=[16]", "--set", "decoder.hidden=[16]"]
QUICK = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--no-progress"]
LEFT = {"run.json", "environment.json", "history.csv", "best", "last", "checkpoints", "report.html"}  # by a run, besides pictures


def command(*arguments) -> int:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    return 0 if caught.value.code is None else caught.value.code


def write_data(file: Path, n=40, shape=(1, 8, 8), labels=True, **changes) -> Path:
    """A .npy file, or a .npz file with three classes; each of `changes` is put into the second example."""
    x = np.random.default_rng(0).random((n, *shape), dtype=np.float32)
    for value in changes.values():
        x[(1, *(0 for _ in shape))] = value
    if file.suffix == ".npy":
        np.save(file, x)
    else:
        np.savez(file, x=x, **({"y": np.arange(n) % 3} if labels else {}))
    return file


class StubFigure:
    """Stands for a picture where a test is not about pictures."""

    def savefig(self, stream, format):
        stream.write(b"a picture")


STUB_CATALOGUE = {"stub": Entry(lambda subject: True, lambda subject: StubFigure())}
