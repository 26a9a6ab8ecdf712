"""Batches, and the checks that data passes before a model sees it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaekit.data.examples import Examples, as_examples
from vaekit.losses.base import Batch
from vaekit.sizes import checked_size
from vaekit.vae import VAE

_CHECKED_AT_ONCE = 1 << 24  # elements; a check makes temporaries


class Batches:
    """Data as an iterable of batches, whole examples and loaders alike.

    Args:
        data: what `as_examples` takes, or any iterable of batches such as a `DataLoader`, taken as it is: a batch is x, a tuple
            or list that begins with x, or a mapping with "x".
        batch_size: for whole examples; a loader has its own.

    Attributes:
        examples: the whole examples; None for a loader.
        size: the number of examples, None where a loader does not know it.

    Raises:
        TypeError: data of another kind.
        ValueError: no examples; a batch_size below 1.

    Example:
        >>> batches = Batches(torch.rand(5, 3), batch_size=2)
        >>> [len(batch.x) for batch in batches]
        [2, 2, 1]
    """

    def __init__(self, data: Any, batch_size: int) -> None:
        self.batch_size = checked_size("batch_size", batch_size)
        self.examples: Examples | None = None
        self._loader: Iterable[Any] = ()
        self.size: int | None
        if isinstance(data, DataLoader) or (isinstance(data, Iterable) and not isinstance(data, Dataset) and not _is_whole(data)):
            self._loader = data
            self.size = _length(getattr(data, "dataset", None))
        else:
            self.examples = as_examples(data)
            self.size = len(self.examples)
        if 0 in (self.size, _length(data)):
            raise ValueError("the dataset is empty: there is nothing to train on or to evaluate")

    def __iter__(self) -> Iterator[Batch]:
        return self.in_order(None)

    def in_order(self, order: Tensor | None) -> Iterator[Batch]:
        """The batches, with whole examples in the order of the rows int64 [N], or as they lie."""
        if self.examples is None:
            yield from (Batch(_x_of(item)) for item in self._loader)
            return
        x, size = self.examples.x, len(self.examples)
        for start in range(0, size, self.batch_size):
            if order is None:
                index = torch.arange(start, min(start + self.batch_size, size))
                yield Batch(x[start : start + self.batch_size], index)
            else:
                index = order[start : start + self.batch_size]
                yield Batch(x.index_select(0, index.to(x.device)) if isinstance(x, Tensor) else x[index], index)


def check_examples(vae: VAE, examples: Examples, name: str) -> None:
    """Raise if examples do not fit the model: their shape, infinity, NaN, the likelihood's support.

    Examples in a file are read once for it.

    Raises:
        TypeError: another dtype than the weights have.
        ValueError: names `name`, the first bad example, or the range that was seen.
    """
    if tuple(examples.x.shape[1:]) != vae.input_shape:
        expected = ", ".join(map(str, vae.input_shape))
        raise ValueError(
            f"{name}: the model takes examples of shape ({expected}), the data has ({', '.join(map(str, examples.x.shape[1:]))})"
        )
    if examples.x.dtype != (dtype := next(vae.parameters()).dtype):
        raise TypeError(
            f"{name}: x is {examples.x.dtype}, the model's weights are {dtype}; convert one, x.to({dtype}) for example"
        )
    rows = max(1, _CHECKED_AT_ONCE // math.prod(vae.input_shape))
    for start in range(0, len(examples), rows):
        x = examples.x[start : start + rows]
        check_values(vae, x, name, examples.numbers(torch.arange(start, start + len(x))))


def check_values(vae: VAE, x: Tensor, name: str, numbers: Tensor | None = None) -> None:
    """Raise if a value of x [B, *S] is infinite, outside the likelihood's support, or NaN where the likelihood refuses that.

    Args:
        numbers: int64 [B], by which a person knows the examples; 0 to B - 1 by default.
    """
    ignores_missing = vae.likelihood.missing == "ignore"
    usable = (~x.isinf() if ignores_missing else x.isfinite()).flatten(1).all(1)
    if not usable.all():
        bad = (~usable).nonzero().flatten()
        first = int(bad[0])
        is_missing = not ignores_missing and bool(x[first].isnan().any())
        raise ValueError(
            f"{name}: sample {first if numbers is None else int(numbers[first])} holds {'NaN' if is_missing else 'infinity'} "
            f"({len(bad)} such sample(s) of {len(x)} looked at); remove or fill them first"
            + (', or leave missing values out with the likelihood\'s option missing="ignore"' if is_missing else "")
        )
    try:
        vae.likelihood.check(x)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _is_whole(data: Any) -> bool:
    """Whether `as_examples` is to take the data, or to refuse it, rather than to iterate over it."""
    return isinstance(data, (Examples, Tensor, tuple, Mapping, str)) or hasattr(data, "__array__")


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _x_of(item: Any) -> Tensor:
    if isinstance(item, Mapping):
        if "x" not in item:
            raise ValueError(f'a loader\'s batch that is a mapping needs the key "x", it has: {", ".join(map(str, item))}')
        item = item["x"]
    elif isinstance(item, (tuple, list)) and item:
        item = item[0]
    if not isinstance(item, Tensor):
        raise TypeError(f'a loader has to give x, (x, ...) or {{"x": x}} with a tensor x, got {type(item).__name__}')
    return item
