"""Batches of whole examples and of streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaekit.checks import checked_size
from vaekit.data.batch import Batch
from vaekit.data.conversion import check_none_missing, floats, plain
from vaekit.data.examples import Examples, as_examples
from vaekit.data.sharding import share


class Whole:
    """Examples that are all there, of which batches can be taken in any order and any number of times.

    Args:
        examples: at least one.
        batch_size: the number of examples in a batch, all processes together; the last batch may have fewer.
        conditional: whether a batch has its condition as well, the examples' y.

    Attributes:
        examples: as given.
        size: the number of examples.
        batch_size: as given.

    Raises:
        ValueError: no examples; a batch_size below 1.

    Example:
        >>> whole = Whole(as_examples(torch.arange(5.0)[:, None]), batch_size=2)
        >>> [batch.x.flatten().tolist() for batch in whole.in_order(torch.tensor([4, 2, 0, 1, 3]), start=1)]
        [[0.0, 1.0], [3.0]]
    """

    def __init__(self, examples: Examples, batch_size: int, conditional: bool = False) -> None:
        self.examples, self.batch_size, self._conditional = examples, checked_size("batch_size", batch_size), conditional
        self.size: int = len(examples)
        if not self.size:
            raise ValueError(_EMPTY)

    def __iter__(self) -> Iterator[Batch]:
        return self.in_order(None)

    def in_order(self, order: Tensor | None, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches from number `start` on.

        Args:
            order: int64 [N], the rows of the examples in the order in which they come; None is as they lie.
            start: the number of batches that are left out, those before it.
            rank, world: which of how many processes asks; it gets its `share` of every batch, which may be empty.

        Raises:
            ValueError: an order of another length, or a rank that there is not.
        """
        if order is not None and order.shape != (self.size,):
            raise ValueError(f"order has to have the shape ({self.size},), one row for each example, got {tuple(order.shape)}")
        checked_size("start", start, least=0)
        share(0, rank, world)  # refuses a rank here, not at the first batch
        return self._in_order(order, start, rank, world)

    def _in_order(self, order: Tensor | None, start: int, rank: int, world: int) -> Iterator[Batch]:
        x, y = self.examples.x, self.examples.y if self._conditional else None
        for first in range(start * self.batch_size, self.size, self.batch_size):
            part = share(min(self.batch_size, self.size - first), rank, world)
            rows = slice(first + part.start, first + part.stop)
            if order is None:
                yield Batch(x[rows], None if y is None else y[rows], torch.arange(rows.start, rows.stop))
            else:
                index = order[rows]
                chosen = x.index_select(0, index.to(x.device)) if isinstance(x, Tensor) else x[index]
                yield Batch(chosen, None if y is None else y[index.to(y.device)], index)

    def numbers(self, index: Tensor) -> Tensor:
        """The numbers by which a person knows the examples at `index` int64 [B]."""
        return self.examples.numbers(index)


class Stream:
    """Batches that come from a loader as it makes them, in its order and of its sizes; iterated over once in an epoch.

    Args:
        loader: any iterable of batches such as a `DataLoader`; a batch is x, a tuple or list that begins with x, or a mapping
            with "x".
        conditional: whether a batch has its condition as well: what follows x, or its "y".

    Attributes:
        size: the number of examples, None where the loader does not know it.

    Raises:
        ValueError: a loader that is empty.

    Example:
        >>> stream = Stream([torch.rand(2, 3), torch.rand(1, 3)])
        >>> [len(batch.x) for batch in stream], stream.size
        ([2, 1], None)
    """

    def __init__(self, loader: Iterable[Any], conditional: bool = False) -> None:
        self._loader, self._conditional = loader, conditional
        self.size: int | None = _length(getattr(loader, "dataset", None))
        if 0 in (self.size, _length(loader)):
            raise ValueError(_EMPTY)

    def __iter__(self) -> Iterator[Batch]:
        for item in self._loader:
            yield Batch(_tensor_of(item, "x"), _tensor_of(item, "y") if self._conditional else None)


def as_batches(data: Any, batch_size: int, conditional: bool = False) -> Whole | Stream:
    """Data as an iterable of batches, whole examples and loaders alike.

    Args:
        data: what `as_examples` takes, or any iterable of batches such as a `DataLoader`; see `Stream`.
        batch_size: for whole examples; a loader has its own.
        conditional: whether a batch has its condition as well.

    Raises:
        TypeError: data of another kind.
        ValueError: no examples; a batch_size below 1.

    Example:
        >>> [len(batch.x) for batch in as_batches(torch.rand(5, 3), batch_size=2)]
        [2, 2, 1]
    """
    checked_size("batch_size", batch_size)
    if isinstance(data, DataLoader) or (isinstance(data, Iterable) and not isinstance(data, Dataset) and not _is_whole(data)):
        return Stream(data, conditional)
    return Whole(as_examples(data), batch_size, conditional)


_EMPTY = "the dataset is empty: there is nothing to train on or to evaluate"


def _is_whole(data: Any) -> bool:
    """Whether `as_examples` is to take the data, or to refuse it, rather than to iterate over it."""
    return isinstance(data, (Examples, Tensor, tuple, Mapping, str)) or any(
        hasattr(data, name) for name in ("__array__", "toarray")
    )


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _tensor_of(item: Any, name: str) -> Tensor:
    """x or y of a loader's batch.

    Raises:
        TypeError: it is not a tensor, or not of the kind that a model takes; says what makes one of it.
        ValueError: a mapping without it, an x without a batch dimension, a y that is masked in part.
    """
    if isinstance(item, Batch):
        item = (item.x, item.condition)
    if isinstance(item, Mapping):
        if name not in item:
            raise ValueError(f'a loader\'s batch that is a mapping needs the key "{name}", it has: {", ".join(map(str, item))}')
        value = item[name]
    elif isinstance(item, (tuple, list)) and len(item) > (place := 0 if name == "x" else 1):
        value = item[place]
    else:
        value = item if name == "x" else None
    if not isinstance(value, Tensor):
        why = ", because the model is conditional" if name == "y" else ""
        forms = 'x, (x, ...) or {"x": x}' if name == "x" else '(x, y) or {"x": x, "y": y}'
        masked = "; torch.from_numpy(x.astype('float32').filled(float('nan'))) keeps what is masked as missing"
        advice = masked if isinstance(value, np.ma.MaskedArray) else ""
        raise TypeError(f"a loader has to give {forms} with a tensor {name}{why}, got {type(value).__name__}{advice}")
    if name == "y":
        check_none_missing(value)
        return plain(value, "y in a loader's batch")
    if not value.is_floating_point():
        advice = (
            "x.float() / 255 makes grey levels of bytes" if value.dtype == torch.uint8 else "x.float() makes them of integers"
        )
        advice = (
            "of a complex x take x.real, x.imag or x.abs()"
            if value.is_complex()
            else f"{advice}, in the dataset or in collate_fn"
        )
        raise TypeError(f"a loader has to give floating-point numbers, got {value.dtype}; {advice}")
    if value.ndim < 2:
        advice = "; x[None] makes a batch of one example" if value.ndim else ""
        raise ValueError(f"a loader has to give x of the shape [batch, ...], got {tuple(value.shape)}{advice}")
    return floats(value)
