"""Readers of NumPy's files: one array, .npy, or several by name, .npz."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vaekit.data.arrays import examples_of
from vaekit.data.examples import Examples, as_examples
from vaekit.data.naming import Chosen, choose, parts_named
from vaekit.data.numpy_files import member_outlines, open_array, read_members
from vaekit.data.readers import Parts, packages_of, reader


@reader(".npy files", suffixes=(".npy",))
def read_npy(path: Path, *, layout: str = "auto") -> Parts:
    """The examples in a .npy file, which stay on disk."""
    return examples_of(open_array(path), layout=layout, name=str(path)), None


@reader(".npz files", suffixes=(".npz",))
def read_npz(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in a .npz file; other arrays in it are not read, so that it does not matter what they hold.

    Of a large x, above 16 MiB, rows are read where they are indexed: from the archive, or where it is compressed from an unpacked
    copy in the cache folder, which goes with the process.

    A sparse matrix of `scipy.sparse.save_npz` stays sparse.
    """
    if _is_sparse(path):
        if arrays is not None or layout != "auto":
            raise TypeError(f"{path} holds a sparse matrix, of which arrays and layout say nothing")
        return _read_sparse(path), None
    chosen: list[Chosen] = []

    def choose_members(names: list[str]) -> list[str]:
        chosen.append(choose(names, arrays, str(path), lambda: member_outlines(path)))
        return [name for name in chosen[0] if name is not None]

    read = read_members(path, choose_members, is_x=lambda name: name in (chosen[0].x, chosen[0].x_test))
    return parts_named(chosen[0], lambda name: read[name], str(path), layout)


def _is_sparse(path: Path) -> bool:
    found: list[str] = []

    def look(names: list[str]) -> list[str]:
        found.extend(names)
        return []

    read_members(path, look)
    return {"format", "shape", "data"} <= set(found)


def _read_sparse(path: Path) -> Examples:
    with packages_of("arrays", "files of sparse matrices"):
        from scipy import sparse
    try:
        matrix = sparse.load_npz(path)
    except Exception as error:  # SciPy, NumPy and zipfile report damage in many ways
        raise ValueError(f"{path} cannot be read as a sparse matrix ({error}); it may be damaged") from error
    return as_examples(matrix)
