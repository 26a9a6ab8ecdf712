"""Some rows of a dataset that only its loader reads: what tells it from another of the same size."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vaekit import seeding
from vaekit.data.fingerprint import hash_of

ROWS = 64
SECONDS = 2.0  # after which no more rows are read
_SEEDS = seeding.Seeds(0, 1, 2)  # so that what augments by the global generators does so in the same way each time
_GOLDEN = 0.6180339887498949  # multiples of which are spread evenly over the unit interval, however many there are


class Sample(NamedTuple):
    """What could be seen of a dataset.

    Attributes:
        hashes: of some rows; two samples of a dataset begin alike, and one may be longer.
        why_not: why there are none, in words.
    """

    hashes: list[str]
    why_not: str = ""


def sample_of(loader: Any, clock: Callable[[], float] = time.monotonic) -> Sample:
    """Hashes of up to 64 rows, read as the loader reads them, through `dataset[row]`; of a slow dataset those of two seconds.

    A loader with workers has them read by a worker: a file that a dataset opens when it is first asked must not be open before
    its workers are there. The global generators are afterwards as they were before.

    Args:
        loader: any iterable of batches.
        clock: in seconds.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> one, other = (sample_of(DataLoader(TensorDataset(value * torch.ones(5, 2)))) for value in (0, 1))
        >>> len(one.hashes), one == other
        (5, False)
        >>> sample_of([torch.ones(5, 2)]).why_not
        'list has no rows that can be read one by one'
    """
    dataset: Any = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        kind = type(loader if dataset is None else dataset).__name__
        return Sample([], f"{kind} has no rows that can be read one by one")
    rows = _spread(len(dataset))
    try:
        with seeding.own_generators(torch.device("cpu")):
            hashes = _until(SECONDS, _hashes(loader, [*rows[:1], *rows]), clock)
    except Exception as error:  # a dataset's own, that only its sampler knows how to ask for example
        kind = f"{type(error).__name__}: "
        said = (str(error).strip().splitlines() or [""])[-1].removeprefix(kind)  # a worker's has its traceback before it
        return Sample([], f"reading its rows one by one failed, {kind}{said}")
    if len(hashes) > 1 and hashes[0] != hashes[1]:
        return Sample([], "its rows have other values each time that they are read")
    return Sample(hashes[1:])


def _spread(count: int) -> list[int]:
    """Up to 64 of so many rows, any first few of which are spread over all."""
    if count <= ROWS:
        return list(range(count))
    return list(dict.fromkeys(int(place * _GOLDEN % 1.0 * count) for place in range(ROWS)))


def _hashes(loader: Any, rows: list[int]) -> Generator[str]:
    if not getattr(loader, "num_workers", 0):
        for row in rows:
            seeding.reseed(torch.device("cpu"), _SEEDS)
            yield _hash(loader.dataset[row])
        return
    yield from DataLoader(
        loader.dataset,
        batch_size=None,
        sampler=rows,
        num_workers=1,
        collate_fn=_seeded_hash,
        worker_init_fn=_Worker(loader.worker_init_fn),
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator().manual_seed(0),
    )


class _Worker:
    """Begins a worker as the loader's owner does, and seeds what its first row draws."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self._init = init

    def __call__(self, worker: int) -> None:
        if self._init is not None:
            self._init(worker)
        seeding.reseed(torch.device("cpu"), _SEEDS)


def _seeded_hash(item: Any) -> str:
    seeding.reseed(torch.device("cpu"), _SEEDS)  # for the next row
    return _hash(item)


def _until(seconds: float, items: Generator[str], clock: Callable[[], float]) -> list[str]:
    """The items that come in so many seconds, and at least two."""
    started, taken = clock(), list[str]()
    with closing(items):  # which ends a worker
        for item in items:
            taken.append(item)
            if len(taken) > 1 and clock() - started > seconds:
                break
    return taken


def _hash(item: Any) -> str:
    made = hashlib.blake2b(digest_size=8)
    _include(made, item)
    return made.hexdigest()


def _include(made: Any, item: Any) -> None:
    """Add a value to a hash.

    Raises:
        TypeError: it is of a kind that has no values to be compared.
    """
    if isinstance(item, Tensor):
        made.update(hash_of([item.to_dense() if item.layout != torch.strided else item], 16).digest())
    elif isinstance(item, (str, bytes, bool, int, float, type(None))):
        made.update(f"{type(item).__name__} {item!r}".encode())
    elif isinstance(item, Mapping):
        _include(made, list(item.items()))
    elif isinstance(item, (list, tuple)):
        made.update(f"{len(item)}:".encode())
        for each in item:
            _include(made, each)
    elif (array := np.asarray(item)).dtype != object:  # an image of PIL's is one too
        made.update(f"{array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    else:
        raise TypeError(f"{type(item).__name__} cannot be compared")
