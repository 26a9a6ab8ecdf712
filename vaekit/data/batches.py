"""Batches, and the checks that data passes before a model sees it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vaekit.checks import checked_size
from vaekit.data.examples import Examples, as_examples
from vaekit.losses.base import Batch
from vaekit.vae import VAE

_CHECKED_AT_ONCE = 1 << 24  # elements; a check makes temporaries


class Batches:
    """Data as an iterable of batches, whole examples and loaders alike.

    Args:
        data: what `as_examples` takes, or any iterable of batches such as a `DataLoader`, taken as it is: a batch is x, a tuple
            or list that begins with x, or a mapping with "x".
        batch_size: for whole examples; a loader has its own.
        conditional: whether a batch has its condition as well: the examples' y, what follows x in a loader's batch, or its "y".

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

    def __init__(self, data: Any, batch_size: int, conditional: bool = False) -> None:
        self.conditional = conditional
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
            yield from (
                Batch(_tensor_of(item, "x"), _tensor_of(item, "y") if self.conditional else None) for item in self._loader
            )
            return
        x, size = self.examples.x, len(self.examples)
        y = self.examples.y if self.conditional else None
        for start in range(0, size, self.batch_size):
            if order is None:
                index = torch.arange(start, min(start + self.batch_size, size))
                rows = slice(start, start + self.batch_size)
                yield Batch(x[rows], None if y is None else y[rows], index)
            else:
                index = order[start : start + self.batch_size]
                chosen = x.index_select(0, index.to(x.device)) if isinstance(x, Tensor) else x[index]
                yield Batch(chosen, None if y is None else y[index.to(y.device)], index)


def check_examples(vae: VAE, examples: Examples, name: str) -> None:
    """Raise if examples do not fit the model: their shape, infinity, NaN, the likelihood's support, the condition.

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
    if vae.condition is not None and examples.y is None:
        raise ValueError(
            f"{name}: the model is conditional: give the condition of each example as well, (x, y) instead of x, or a .npz file "
            "with x and y"
        )
    rows = max(1, _CHECKED_AT_ONCE // math.prod(vae.input_shape))
    for start in range(0, len(examples), rows):
        x = examples.x[start : start + rows]
        condition = None if vae.condition is None or examples.y is None else examples.y[start : start + len(x)]
        check_values(vae, Batch(x, condition), name, examples.numbers(torch.arange(start, start + len(x))))


def check_values(vae: VAE, batch: Batch, name: str, numbers: Tensor | None = None) -> None:
    """Raise if a value of x [B, *S] is infinite, outside the likelihood's support, or NaN where the likelihood refuses that.

    Or if the condition is not what the model takes.

    Args:
        numbers: int64 [B], by which a person knows the examples; 0 to B - 1 by default.
    """
    x = batch.x
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
        if vae.condition is not None:
            vae.condition.check(vae.condition.as_rows(batch.condition, len(x)))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def _is_whole(data: Any) -> bool:
    """Whether `as_examples` is to take the data, or to refuse it, rather than to iterate over it."""
    return isinstance(data, (Examples, Tensor, tuple, Mapping, str)) or hasattr(data, "__array__")


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _tensor_of(item: Any, name: str) -> Tensor:
    """x or y of a loader's batch."""
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
        raise TypeError(f"a loader has to give {forms} with a tensor {name}{why}, got {type(value).__name__}")
    return value
