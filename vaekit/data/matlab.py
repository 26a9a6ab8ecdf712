"""Reader of MATLAB's .mat files: to version 7 through SciPy, of version 7.3, which is HDF5, through h5py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.arrays import parts_of
from vaekit.data.hdf5 import arrays_in
from vaekit.data.naming import choose
from vaekit.data.readers import Parts, reader
from vaekit.files import open_regular

_HDF5 = b"\x89HDF\r\n\x1a\n"


@reader(".mat files", suffixes=(".mat",), extra="arrays")
def read_mat(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in a .mat file. MATLAB has no arrays of one axis: labels [N, 1] or [1, N] are [N].

    Where the labels say that the last axis counts the examples, as in SVHN's [32, 32, 3, N], it becomes the first.
    """
    outlines, read = _hdf5(path) if _is_hdf5(path) else _scipy(path)
    chosen = choose(outlines, arrays, str(path), lambda: outlines)
    names = [name for name in chosen if name is not None]
    found = read(names)
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

    def read(names: list[str]) -> dict[str, Any]:
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

    def read(names: list[str]) -> dict[str, Any]:
        with arrays_in(path) as found:
            return {name: found[name][()].T for name in names}

    return outlines, read


def _flat(y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return y.reshape(-1) if y.ndim == 2 and 1 in y.shape else y


def _with_rows_first(x: Any, y: npt.NDArray[Any] | None) -> tuple[Any, npt.NDArray[Any] | None]:
    if y is not None and x.shape[0] != len(y) == x.shape[-1]:
        return np.moveaxis(x, -1, 0), y
    return x, y
