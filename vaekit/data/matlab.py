"""Reader of MATLAB's .mat files: to version 7 through SciPy, of version 7.3, which is HDF5, through h5py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vaekit.data import row_file
from vaekit.data.arrays import parts_of
from vaekit.data.hdf5 import arrays_in
from vaekit.data.naming import choose
from vaekit.data.readers import Parts, reader
from vaekit.files import open_regular

_PIECE, _LARGEST_CHUNK = 1 << 22, 1 << 26  # bytes that are copied at a time; chunks above are read more than once
_HDF5 = b"\x89HDF\r\n\x1a\n"


@reader(".mat files", suffixes=(".mat",), extra="arrays")
def read_mat(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in a .mat file. MATLAB has no arrays of one axis: labels [N, 1] or [1, N] are [N].

    Where the labels say that the last axis counts the examples, as in SVHN's [32, 32, 3, N], it becomes the first. A large x of
    version 7.3, above 16 MiB, is copied into a file in the cache folder, some rows at a time; it goes with the process.
    """
    outlines, read = _hdf5(path) if _is_hdf5(path) else _scipy(path)
    chosen = choose(outlines, arrays, str(path), lambda: outlines)
    names = [name for name in chosen if name is not None]
    found = read(names, by_rows=(chosen.x, chosen.x_test))
    train = _with_rows_first(found[chosen.x], None if chosen.y is None else _flat(found[chosen.y]))
    test = None
    if chosen.x_test is not None:
        test = _with_rows_first(found[chosen.x_test], None if chosen.y_test is None else _flat(found[chosen.y_test]))
    return parts_of(train, test, layout=layout, name=f"{path}: {chosen.x}")


def _is_hdf5(path: Path) -> bool:
    with open_regular(path) as stream:
        return any(stream.seek(place) >= 0 and stream.read(8) == _HDF5 for place in (0, 512))  # after MATLAB's own header


def _scipy(path: Path) -> tuple[dict[str, str], Any]:
    from scipy import io

    try:
        outlines = {name: f"{kind} {list(shape)}" for name, shape, kind in io.whosmat(path)}
    except Exception as error:  # SciPy reports damage in many ways
        raise ValueError(f"{path} cannot be read as a .mat file ({error}); it may be damaged or cut short") from error

    def read(names: list[str], by_rows: tuple[str | None, ...]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = io.loadmat(path, variable_names=names)
        except Exception as error:
            raise ValueError(f"{path}: {', '.join(names)} cannot be read ({error}); the file may be damaged") from error
        return found

    return outlines, read


def _hdf5(path: Path) -> tuple[dict[str, str], Any]:
    # MATLAB stores columns first, so that HDF5 has the axes in the opposite order; "#..." are its own.
    with arrays_in(path) as found:
        outlines = {name: f"{array.dtype} {list(array.shape[::-1])}" for name, array in found.items() if name[0] != "#"}

    def read(names: list[str], by_rows: tuple[str | None, ...]) -> dict[str, Any]:
        with arrays_in(path) as found:
            large = {name for name in names if name in by_rows and found[name].nbytes > row_file.MOST_IN_MEMORY}
            return {name: Stored(path, name, found[name].shape[::-1]) if name in large else found[name][()].T for name in names}

    return outlines, read


class Stored(NamedTuple):
    """A large array of MATLAB's, in a file of version 7.3.

    Attributes:
        path, name: where it is.
        shape: as MATLAB has it.
    """

    path: Path
    name: str
    shape: tuple[int, ...]

    def rows(self, axis: int) -> row_file.RowFile:
        """What is along the first axis, 0, or the last one, -1, as rows: copied into the cache folder, some at a time.

        HDF5 has the axes in the opposite order, so that a row may be all over the file.
        """
        with arrays_in(self.path) as found:
            array, others = found[self.name], self.shape[1:] if axis == 0 else self.shape[:-1]
            count, of_row = self.shape[axis], array.nbytes // self.shape[axis]
            step, chunk = max(1, _PIECE // of_row), array.chunks[-1 if axis == 0 else 0] if array.chunks else 1
            if chunk * of_row <= _LARGEST_CHUNK:
                step = -(-step // chunk) * chunk

            def pieces() -> Iterator[npt.NDArray[Any]]:
                for start in range(0, count, step):
                    some = slice(start, min(start + step, count))
                    yield array[..., some].T if axis == 0 else np.moveaxis(array[some].T, -1, 0)

            return row_file.kept_on_disk((count, *others), array.dtype, pieces())


def _flat(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return y.reshape(-1) if y.ndim == 2 and 1 in y.shape else y


def _with_rows_first(x: Any, y: npt.NDArray[Any] | None) -> tuple[Any, npt.NDArray[Any] | None]:
    is_last = y is not None and x.shape[0] != len(y) == x.shape[-1]
    if isinstance(x, Stored):
        return x.rows(-1 if is_last else 0), y
    return (np.moveaxis(x, -1, 0) if is_last else x), y
