"""Reader of HDF5 files through h5py: the arrays stay on disk, and rows are read when they are indexed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.naming import choose, outline_of, parts_named
from vaekit.data.readers import Parts, reader
from vaekit.data.row_file import row_numbers
from vaekit.files import open_regular


class HDF5Item:
    """What an HDF5 file has under a name; a process that was forked, or that got it by pickle, opens the file again."""

    def __init__(self, file: str, name: str) -> None:
        self._file, self._name, self._process, self._item = file, name, -1, None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._file, self._name)

    def _opened(self) -> Any:
        if self._process != os.getpid():
            import h5py

            self._item, self._process = self._of(h5py.File(self._file, "r")[self._name]), os.getpid()
        return self._item

    def _of(self, stored: Any) -> Any:
        """What stands for h5py's object."""
        return stored


class HDF5Array(HDF5Item):
    """The array [N, *S] of an HDF5 file under a name; its rows are read when they are indexed.

    Attributes:
        shape: [N, *S].
        dtype: of the values in the file.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be read.
    """

    def __init__(self, file: str, name: str) -> None:
        super().__init__(file, name)
        array = self._opened()
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """A copy of the rows at an integer, a slice, integers [B] or a mask bool [N], in the file's dtype."""
        rows = row_numbers(index, len(self), f"{self._file}: {self._name}")
        flat = rows.reshape(-1)
        wanted, place = np.unique(flat, return_inverse=True)  # h5py takes rows in ascending order, each once
        if not len(wanted):
            return np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        is_run = int(wanted[-1]) - int(wanted[0]) + 1 == len(wanted)
        chosen: Any = slice(int(wanted[0]), int(wanted[-1]) + 1) if is_run else wanted
        values: npt.NDArray[Any] = self._opened()[chosen]
        return values[place].reshape((*rows.shape, *self.shape[1:]))


@contextmanager
def arrays_in(path: Path) -> Iterator[dict[str, Any]]:
    """The h5py datasets in a file by their names, those in groups by their paths, while the file is open.

    Raises:
        ValueError: it is not an HDF5 file, or a damaged one.
    """
    import h5py

    open_regular(path).close()
    found: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape:
            found[name] = item

    try:
        with h5py.File(path, "r") as file:
            file.visititems(take)
            yield found
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as an HDF5 file ({error}); it may be damaged or cut short") from error


def _labels(array: Any) -> npt.NDArray[Any]:
    import h5py

    values: npt.NDArray[Any] = (array.asstr() if h5py.check_string_dtype(array.dtype) else array)[()]
    return values


@reader(".h5 and .hdf5 files", suffixes=(".h5", ".hdf5"), extra="arrays")
def read_hdf5(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in an HDF5 file; x stays on disk, y is read."""
    with arrays_in(path) as found:
        chosen = choose(found, arrays, str(path), lambda: {name: outline_of(array) for name, array in found.items()})
        rows = {name: HDF5Array(str(path), name) for name in (chosen.x, chosen.x_test) if name is not None}
        read = {name: _labels(found[name]) for name in (chosen.y, chosen.y_test) if name is not None}
    return parts_named(chosen, {**read, **rows}.__getitem__, str(path), layout)
