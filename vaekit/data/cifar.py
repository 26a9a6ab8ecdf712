"""Reader of the folders that CIFAR-10 and CIFAR-100 come in, as pickles for Python or as binary files.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, www.cs.toronto.edu/~kriz/cifar.html. The pickles are
read with nothing allowed in them but numbers, text, lists, dictionaries and NumPy's arrays: they cannot run code.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vaekit.checks import checked_word
from vaekit.data.arrays import examples_of
from vaekit.data.readers import Parts, reader
from vaekit.files import open_regular

_PIXELS = 3 * 32 * 32
_ARRAYS = {  # what the pickle of an array refers to, under its old and its new name
    (module, name)
    for core in ("numpy.core", "numpy._core")
    for module, name in ((f"{core}.multiarray", "_reconstruct"), (f"{core}.numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _Form(NamedTuple):
    """How one of the two datasets is laid out in a folder."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: dict[str, str]  # kind of label -> the key of its names
    meta: str


_TEN = _Form(tuple(f"data_batch_{number}" for number in range(1, 6)), ("test_batch",), {"labels": "label_names"}, "batches.meta")
_HUNDRED = _Form(("train",), ("test",), {"fine_labels": "fine_label_names", "coarse_labels": "coarse_label_names"}, "meta")


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAYS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no array")


def unpickled(file: Path) -> Any:
    """What a pickle of plain values and arrays holds; text of Python 2 as bytes.

    Raises:
        ValueError: it holds anything else, or is damaged.
    """
    with open_regular(file) as stream:
        try:
            return _Restricted(stream, encoding="bytes").load()
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(f"{file} is not a pickle of arrays alone, and is not loaded ({error})") from error


def _form_in(folder: Path) -> tuple[_Form, str] | None:
    """Which dataset a folder holds, and the ending of its files; None where it holds neither."""
    for form, ending in ((_TEN, ""), (_TEN, ".bin"), (_HUNDRED, ""), (_HUNDRED, ".bin")):
        if all((folder / f"{name}{ending}").is_file() for name in (*form.train, *form.test)):
            return form, ending
    return None


@reader("folders of CIFAR-10 and CIFAR-100", is_folder=lambda folder: _form_in(folder) is not None)
def read_cifar(path: Path, *, labels: str = "fine") -> Parts:
    """The pictures [N, 3, 32, 32], and the names of their labels.

    Args:
        path: the folder that the archive unpacks to.
        labels: of CIFAR-100, "fine" (100 of them) or "coarse" (20).
    """
    checked_word("labels", labels, ("fine", "coarse"))
    found = _form_in(path)
    assert found is not None
    form, ending = found
    kind = f"{labels}_labels" if form is _HUNDRED else "labels"
    read = _binary if ending else _pickled
    names = _names(path, form, kind, ending)
    train, test = (
        examples_of(*read([path / f"{name}{ending}" for name in files], form, kind), layout="NCHW", label_names=names)
        for files in (form.train, form.test)
    )
    return train, test


def _pickled(files: list[Path], form: _Form, kind: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    pixels, labels = [], []
    for file in files:
        batch = unpickled(file)
        try:
            rows, numbers = batch[b"data"], np.asarray(batch[kind.encode()])
            pixels.append(rows.reshape(-1, 3, 32, 32))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{file} has to hold data, uint8 [N, {_PIXELS}], and {kind}, as CIFAR's batches do") from error
        labels.append(numbers)
    return np.concatenate(pixels), np.concatenate(labels)


def _binary(files: list[Path], form: _Form, kind: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    before = len(form.names)  # bytes of labels before the pixels; coarse ones come first
    place = 0 if kind in ("labels", "coarse_labels") else 1
    rows = []
    for file in files:
        with open_regular(file) as stream:
            content = np.frombuffer(stream.read(), np.uint8)
        if not len(content) or len(content) % (before + _PIXELS):
            raise ValueError(f"{file} has {len(content)} bytes, which are not rows of {before} + {_PIXELS}: it may be cut short")
        rows.append(content.reshape(-1, before + _PIXELS))
    joined = np.concatenate(rows)
    return joined[:, before:].reshape(-1, 3, 32, 32), joined[:, place]


def _names(folder: Path, form: _Form, kind: str, ending: str) -> list[str] | None:
    """The labels' names; None where the file that has them is not there."""
    if not ending:
        file = folder / form.meta
        if not file.is_file():
            return None
        names = unpickled(file).get(form.names[kind].encode())
        return None if names is None else [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    file = folder / (f"{form.names[kind]}.txt" if form is _HUNDRED else "batches.meta.txt")
    return file.read_text().split() or None if file.is_file() else None
