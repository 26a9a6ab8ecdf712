"""Examples held whole, in memory, or on disk and converted a batch at a time."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vaekit.data.conversion import MISSING, plain
from vaekit.data.labels import named_labels
from vaekit.data.mapped import MappedArray
from vaekit.data.readers import find_converter
from vaekit.data.schema import Schema
from vaekit.data.splits import Marks


class Examples(Dataset[Any]):
    """N examples with or without labels; also a map-style dataset for `torch.utils.data.DataLoader`.

    Attributes:
        x: float [N, *S]: a tensor, or a `MappedArray`, which is indexed like one.
        y: labels int64 [N], -1 where one is missing, vectors float [N, K], or None: a conditional model's condition. Labels also
            colour pictures.
        rows: int64 [N], the examples' numbers in the file or array they were split from; None where they are 0 to N - 1.
        label_names: what the labels 0, 1, ... are called; None where they have no names.
        columns: what the entries of x [N, F] are called; None where they have no names.
        marks: what they are split by besides their labels: groups or times, see `vaekit.data.splits`; None for nothing.
        schema: by which a table became x; None where there was none.

    Raises:
        TypeError: x or y is not a tensor, or x is not dense or not floating-point; `as_examples` converts.
        ValueError: no feature dimension, a different number of labels than of examples, or labels that have no name although
            there are `label_names`.

    Example:
        >>> import torch
        >>> examples = Examples(torch.rand(10, 1, 8, 8), torch.arange(10))
        >>> len(examples), examples.x[:5].shape
        (10, torch.Size([5, 1, 8, 8]))
    """

    def __init__(
        self,
        x: Tensor | MappedArray,
        y: Tensor | None = None,
        rows: Tensor | None = None,
        label_names: Sequence[str] | None = None,
        marks: Marks | None = None,
        columns: Sequence[str] | None = None,
        schema: Schema | None = None,
    ) -> None:
        for name, value, kinds in (("x", x, (Tensor, MappedArray)), ("y", y, (Tensor, type(None)))):
            if not isinstance(value, kinds):
                raise TypeError(f"{name} has to be a tensor, got {type(value).__name__}; vaekit.data.as_examples converts arrays")
        if isinstance(x, Tensor) and not (x := plain(x, "x")).is_floating_point():
            raise TypeError(f"x has to be floating-point numbers, got {x.dtype}; vaekit.data.as_examples converts others")
        if len(x.shape) < 2:
            raise ValueError(
                f"data has to have the shape [examples, ...], got {tuple(x.shape)}; a single column is "
                "x[:, None], a single example x[None]"
            )
        if y is not None and len(y) != len(x):
            raise ValueError(f"there are {len(x)} examples but {len(y)} labels")
        self.x, self.y, self.rows, self.marks, self.schema = x, y, rows, marks, schema
        self.columns = None if columns is None else tuple(columns)
        self.label_names = None if label_names is None else _checked_names(label_names, y)

    def numbers(self, index: Tensor) -> Tensor:
        """The numbers of the examples at `index` int64 [B] in the file or array they came from."""
        return index if self.rows is None else self.rows[index.to(self.rows.device)]

    def take(self, rows: Tensor) -> Examples:
        """The examples in `rows` int64 [M], which keep their numbers; those on disk stay there."""
        x = self.x.take(rows) if isinstance(self.x, MappedArray) else self.x[rows]
        marks = None if self.marks is None else self.marks.take(rows)
        y = None if self.y is None else self.y[rows]
        return self.changed(x=x, y=y, rows=self.numbers(rows), marks=marks)

    def changed(self, **changes: Any) -> Examples:
        """The examples with other values of some of their attributes."""
        return Examples(**{name: getattr(self, name) for name in inspect.signature(Examples).parameters} | changes)

    def numbered_as(self, names: Sequence[str] | None) -> Examples:
        """The examples with the labels of these names 0, 1, ...; as they are where either has no names.

        Raises:
            ValueError: a label of another name.
        """
        if self.y is None or self.label_names is None or names is None or self.label_names == tuple(names):
            return self
        known = {name: number for number, name in enumerate(names)}
        there = [self.label_names[number] for number in self.y.unique().tolist() if number != MISSING]
        if unknown := [name for name in there if name not in known]:
            raise ValueError(
                f"the labels {', '.join(map(repr, unknown))} are not among those trained on, {', '.join(map(repr, names))}; "
                "leave those examples out, or train on some of them"
            )
        numbers = torch.tensor([*(known.get(name, MISSING) for name in self.label_names), MISSING])  # that of -1 is the last
        return self.changed(y=numbers[self.y], label_names=names)

    def with_label_names(self, names: Sequence[str]) -> Examples:
        """The examples with names for their labels, unless they have some, or y are no labels from 0 to len(names) - 1."""
        y = self.y
        if (
            self.label_names is not None
            or y is None
            or y.ndim != 1
            or not len(y)
            or not MISSING <= int(y.min()) <= int(y.max()) < len(names)
        ):
            return self
        return self.changed(label_names=names)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        return self.x[index] if self.y is None else (self.x[index], self.y[index])


def _checked_names(names: Sequence[str], y: Tensor | None) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"label_names has to be a sequence of strings, one for each label, got {names!r}")
    if y is None or y.ndim != 1:
        raise ValueError("label_names name labels, whole numbers [examples], but y is " + ("None" if y is None else "vectors"))
    if len(y) and not MISSING <= int(y.min()) <= int(y.max()) < len(names):
        raise ValueError(f"there are {len(names)} label_names, but the labels are from {int(y.min())} to {int(y.max())}")
    return tuple(names)


def as_examples(data: Any, **options: Any) -> Examples:
    """Examples from a tensor, an array, a table, a path, or a pair (x, y) of one and labels; `Examples` are returned as they are.

    - Floating-point tensors keep their dtype. Arrays become float32; a memory map stays on disk.
    - uint8 means grey levels and is divided by 255, unless all are 0 or 1. Other integers and booleans keep their values, rounded
      to float32.
    - Images become [N, channels, height, width]. What is which axis is seen from the shape, where it leaves no doubt, or said by
      the option `layout`, "NHWC" for example; see `vaekit.data.axes.form_of`.
    - Masked elements, of `numpy.ma` or `torch.masked`, are missing: NaN.
    - y [N] becomes int64 where its numbers are whole, and floats [N, 1] where they are not; y [N, K] becomes floats. Text,
      categories and booleans become numbered labels with names; see `vaekit.data.labels.named_labels`. A label that is missing,
      None, NaN or masked, is -1.
    - A frame of pandas, polars or pyarrow gives its columns of numbers; see `vaekit.data.framed`.
    - A `datasets.Dataset` of Hugging Face has them in its columns "x" and, if there is one, "y"; x stays where it is.
    - A name or a path, see `load`, gives its training examples: all of them where it has no test set of its own.

    Args:
        data: see above.
        options: of what converts the data, by name.

    Raises:
        TypeError: data of another kind, values that are not real numbers, or a sparse tensor; says how to convert it. An option
            that data of this kind does not take.
        ValueError: numbers beyond float32's range; vectors that are missing, labels outside int64's range. Names the first
            such example.

    Example:
        >>> import numpy as np
        >>> as_examples(np.full((2, 3), 255, dtype=np.uint8)).x
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    if isinstance(data, Examples):
        if options:
            raise TypeError(f"Examples are taken as they are, without options, got {', '.join(options)}")
        return data
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    found = find_converter(x)
    if found is None:
        raise TypeError(
            "data has to be a tensor, an array, a pair (x, y) of them or vaekit.data.Examples, "
            f"got {type(x).__name__}{_advice(x)}"
        )
    examples: Examples = found(x, options)
    if y is None:
        return examples
    numbered, names = named_labels(y)
    return examples.changed(y=numbered, label_names=names)


def _advice(x: Any) -> str:
    """How to convert something that is not data."""
    if isinstance(x, Dataset):
        return "; put it into a torch.utils.data.DataLoader"
    if hasattr(x, "to_numpy"):
        return "; x.to_numpy() converts it, with pandas x.to_numpy(dtype='float32', na_value=float('nan'))"
    if hasattr(x, "toarray"):
        return "; x.toarray() converts it"
    return "; np.asarray(x) converts it" if hasattr(x, "__array__") else ""
