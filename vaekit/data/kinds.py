"""Batches of data of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from vaekit.checks import checked_size
from vaekit.data.examples import Examples, as_examples
from vaekit.data.readers import find_converter
from vaekit.data.stream import Stream
from vaekit.data.whole import Whole


def as_batches(data: Any, batch_size: int, conditional: bool = False) -> Whole | Stream:
    """Batches of data of any kind: a `Whole` of examples, or a `Stream` of a loader.

    Args:
        data: anything `as_examples` takes, or an iterable of batches such as a `DataLoader`; see `Stream`.
        batch_size: for whole examples; a loader has its own.
        conditional: whether a batch carries its condition too.

    Raises:
        TypeError: data of another kind.
        ValueError: no examples, or a batch_size below 1.

    Example:
        >>> import torch
        >>> [len(batch.x) for batch in as_batches(torch.rand(5, 3), batch_size=2)]
        [2, 2, 1]
    """
    checked_size("batch_size", batch_size)
    is_loader = isinstance(data, (DataLoader, IterableDataset))
    if is_loader or (
        find_converter(data) is None and isinstance(data, Iterable) and not isinstance(data, Dataset) and not _is_whole(data)
    ):
        return Stream(data, conditional)
    return Whole(as_examples(data), batch_size, conditional)


def _is_whole(data: Any) -> bool:
    """Whether `as_examples` should accept or refuse the data, rather than a `Stream` iterate over it."""
    array_like = hasattr(data, "__array__") or hasattr(data, "toarray")
    return array_like or isinstance(data, (Examples, tuple, Mapping, str))
