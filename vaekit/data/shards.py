"""Arrays in several .npy files that together do not fit into memory: shards, which stay on disk and are read row by row.

`numpy.save` makes them: np.save("x-000.npy", first), np.save("x-001.npy", second), and so on; with labels, y-000.npy beside
x-000.npy, for the same examples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.arrays import examples_of, parts_of
from vaekit.data.conversion import labels
from vaekit.data.examples import Examples
from vaekit.data.numpy_files import ArrayFile, open_array
from vaekit.data.readers import Parts, reader
from vaekit.data.row_file import row_numbers

PathLike = str | os.PathLike[str]

_MOST_OPEN = 256  # files at once; systems allow a process 1,024 as a rule
_NAME = re.compile(r"([xy])[-_.]?(\d+)\.npy")


class Shards:
    """The array [N, *S] of which several .npy files hold the rows, one file after the other; indexed like an `ArrayFile`.

    Args:
        files: at least one, in C order, as `np.save` writes an ordinary array; of one dtype, and of one shape but for the rows.

    Attributes:
        shape: [N, *S].
        dtype: of the values in the files.

    Raises:
        OSError: a file cannot be read.
        TypeError: an array of anything but real numbers.
        ValueError: no files, or a damaged one, or one of another dtype or shape than the first; the message names it. When
            indexed, a file that has changed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number, rows in enumerate(([[0, 1], [2, 3]], [[4, 5]])):
        ...         np.save(f"{folder}/x-{number}.npy", rows)
        ...     Shards([f"{folder}/x-0.npy", f"{folder}/x-1.npy"])[np.array([2, 0])].tolist()
        [[4, 5], [0, 1]]
    """

    def __init__(self, files: Sequence[PathLike]) -> None:
        self._files = [os.fspath(file) for file in files]
        if not self._files:
            raise ValueError("there are no shards: give at least one .npy file")
        self._open = lru_cache(_MOST_OPEN)(ArrayFile)
        shapes, first = [], self._open(self._files[0])
        for name in self._files:
            file = self._open(name)
            if file.shape[1:] != first.shape[1:] or file.dtype != first.dtype:
                raise ValueError(
                    f"{name} holds {file.dtype} {list(file.shape[1:])} in each row, {self._files[0]} {first.dtype} "
                    f"{list(first.shape[1:])}; the shards of an array have to be alike"
                )
            shapes.append(file.shape)
        self._shapes, self._ends = shapes, np.cumsum([shape[0] for shape in shapes])
        self.dtype, self.shape = first.dtype, (int(self._ends[-1]), *first.shape[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._files,)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """A copy of the rows at an integer, a slice, integers [B] or a mask bool [N], in the files' dtype."""
        rows = row_numbers(index, len(self), "the shards")
        flat = rows.reshape(-1)
        values = np.empty((len(flat), *self.shape[1:]), self.dtype)
        where = np.searchsorted(self._ends, flat, side="right")
        for number in np.unique(where).tolist():
            mine = where == number
            values[mine] = self._opened(number)[flat[mine] - (self._ends[number] - self._shapes[number][0])]
        return values.reshape((*rows.shape, *self.shape[1:]))

    def _opened(self, number: int) -> ArrayFile:
        file = self._open(self._files[number])  # again, if it was closed for others
        if file.shape != self._shapes[number] or file.dtype != self.dtype:
            raise ValueError(
                f"{self._files[number]} has changed while it was in use: it holds {file.dtype} {list(file.shape)} now"
            )
        return file


def open_shards(x: PathLike | Sequence[PathLike], y: Sequence[PathLike] | None = None, *, layout: str = "auto") -> Examples:
    """Examples in .npy files, one file after the other. x stays on disk and is converted a batch at a time; y is read.

    Args:
        x: the files [N_i, *S], of one dtype and shape S; or a folder with the files x-NUMBER.npy and, if there are labels,
            y-NUMBER.npy, in the order of the numbers ("x_0.npy" and "x0.npy" will do too).
        y: the files [N_i] or [N_i, K] that belong to those of x.
        layout: of `vaekit.data.axes.LAYOUTS`.

    Raises:
        OSError: a file cannot be read.
        TypeError: values that are not real numbers.
        ValueError: files that do not fit together, are damaged, or whose names in a folder say nothing; names the file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number, count in enumerate((3, 2)):
        ...         np.save(f"{folder}/x-{number}.npy", np.full((count, 4), number))
        ...     open_shards(folder).x[2:4]
        tensor([[0., 0., 0., 0.],
                [1., 1., 1., 1.]])
    """
    if isinstance(x, (str, os.PathLike)):
        if y is not None:
            raise ValueError(f"y was given beside a folder: the labels of {os.fspath(x)} are its files y-NUMBER.npy")
        return examples_of(*_folder(Path(x)), layout=layout)
    return examples_of(Shards(x), None if y is None else _labels_of(x, y), layout=layout)


def _folder(folder: Path) -> tuple[Shards, Any]:
    x, y = _shards_in(folder)
    return Shards(x), None if y is None else _labels_of(x, y)


def _holds_files(folder: Path) -> bool:
    return any(folder.glob("*.npy")) and not any(folder.glob("*idx?-ubyte*"))


def _is_of_shards(folder: Path) -> bool:
    parts = [folder / part for part in ("train", "test")]
    return _holds_files(folder) or all(part.is_dir() and _holds_files(part) for part in parts)


@reader("folders of shards (x-000.npy, x-001.npy, ...)", is_folder=_is_of_shards)
def _read_folder(path: Path, *, layout: str = "auto") -> Parts:
    if _holds_files(path):
        return open_shards(path, layout=layout), None
    return parts_of(_folder(path / "train"), _folder(path / "test"), layout=layout)


def _shards_in(folder: Path) -> tuple[list[Path], list[Path] | None]:
    """The files of x and y in a folder, in the order of their numbers."""
    found: dict[str, dict[int, Path]] = {"x": {}, "y": {}}
    for file in sorted(folder.glob("*.npy")):
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise ValueError(f"{file} is neither x-NUMBER.npy nor y-NUMBER.npy, x-000.npy for example, as shards are called")
        kind, number = match[1], int(match[2])
        if number in found[kind]:
            raise ValueError(f"{file} and {found[kind][number]} have the same number")
        found[kind][number] = file
    x, y = found["x"], found["y"]
    if not x:
        raise ValueError(f"{folder} has no shards: there is no file x-NUMBER.npy, x-000.npy for example, in it")
    for number in sorted(x.keys() ^ y.keys() if y else ()):
        file, other = (x[number], "y") if number in x else (y[number], "x")
        raise ValueError(f"{file} has no file of {other} with the same number beside it")
    return [x[number] for number in sorted(x)], [y[number] for number in sorted(y)] or None


def _labels_of(x: Sequence[PathLike], y: Sequence[PathLike]) -> Any:
    if len(x) != len(y):
        raise ValueError(f"there are {len(x)} files of x but {len(y)} of y")
    parts: list[npt.NDArray[Any]] = []
    for file, of in zip(y, x, strict=True):
        part, count = np.asarray(open_array(Path(file))[:]), len(ArrayFile(of))
        if len(part) != count:
            raise ValueError(f"{os.fspath(file)} has {len(part)} rows, but {os.fspath(of)} has {count}")
        if parts and part.shape[1:] != parts[0].shape[1:]:
            raise ValueError(f"{os.fspath(file)} has rows of shape {part.shape[1:]}, {os.fspath(y[0])} of {parts[0].shape[1:]}")
        parts.append(part)
    return labels(np.concatenate(parts))
