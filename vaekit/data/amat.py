"""Reader of .amat files: rows of numbers as text, the form of the binarised MNIST.

H. Larochelle, I. Murray, "The Neural Autoregressive Distribution Estimator", AISTATS 2011: 28 x 28 zeros and ones in a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.checks import checked_sizes
from vaekit.data.arrays import parts_of
from vaekit.data.readers import Parts, reader
from vaekit.files import open_regular


@reader(".amat files", suffixes=(".amat",))
def read_amat(path: Path, *, shape: Sequence[int] | None = None) -> Parts:
    """The rows of a .amat file; of the given shape, (1, 28, 28) for example, where one is given."""
    return parts_of((_rows(path, shape), None), None, layout="auto", name=str(path))


def _files(folder: Path, part: str) -> list[Path]:
    return sorted(folder.glob(f"*{part}*.amat"))


@reader(
    "folders of a *train*.amat and a *test*.amat file",
    is_folder=lambda folder: len(_files(folder, "train")) == 1 == len(_files(folder, "test")),
)
def read_amat_folder(path: Path, *, shape: Sequence[int] | None = None) -> Parts:
    """The rows of the two files."""
    train, test = (_rows(_files(path, part)[0], shape) for part in ("train", "test"))
    return parts_of((train, None), (test, None))


def _rows(path: Path, shape: Sequence[int] | None) -> npt.NDArray[Any]:
    with open_regular(path) as stream:
        try:
            rows = np.loadtxt(stream, dtype=np.float32, ndmin=2)
        except ValueError as error:
            raise ValueError(f"{path} has to hold a row of numbers in each line, all of one length: {error}") from error
    if shape is None:
        return rows
    sizes = checked_sizes("shape", tuple(shape))
    if int(np.prod(sizes)) != rows.shape[1]:
        raise ValueError(f"{path} has {rows.shape[1]} numbers in a row, which are not of the shape {sizes}")
    return rows.reshape(len(rows), *sizes)
