"""Batches of data of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from vaekit.checks import checked_size, is_number
from vaekit.data.examples import Examples, as_examples
from vaekit.data.frames import is_frame, is_frame_file, is_table_source
from vaekit.data.parted import encoded_held_out, parted
from vaekit.data.readers import find_converter
from vaekit.data.schema import Schema
from vaekit.data.splits import split
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
    return Stream(data, conditional) if _is_stream(data) else Whole(as_examples(data), batch_size, conditional)


def with_validation(train: Any, validation: Any, seed: int, options: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """What is trained on and what is validated on, where a part of `train` is held out for it; otherwise both as they are.

    Args:
        train: what `as_batches` takes.
        validation: a fraction of it, the name of a column of a frame, or data. None where nothing is validated on, unless the
            examples to train on are marked as held out.
        seed: fixes what is drawn for a fraction.
        options: by which a table is read.

    Raises:
        TypeError: a fraction of a loader.
        ValueError: as `vaekit.data.splits.split`.

    Example:
        >>> import torch
        >>> [len(part) for part in with_validation(torch.rand(10, 3), 0.2, seed=0)]
        [8, 2]
    """
    options = (options or {}) if is_table_source(train) else {}
    if is_number(validation):
        if _is_stream(train):
            raise TypeError(f"validation={validation} is a fraction of whole examples; of a loader, give validation a loader too")
        return split(as_examples(train, **parted(train, options, fraction=validation, seed=seed)), validation, seed)
    if isinstance(validation, str) and is_table_source(train) and not is_frame_file(validation):
        return split(as_examples(train, **parted(train, options), held_out=validation))
    if validation is None and isinstance(train, Examples) and train.marks is not None and train.marks.held_out is not None:
        return split(train)
    return train, validation


def table_parts(frame: Any, schema: Any, validation: Any, seed: int) -> tuple[Tensor, Tensor | None, Schema]:
    """The encoded rows that are trained on, those that are held out, and their schema, which is guessed from the first alone.

    Args:
        frame: of pandas, polars or pyarrow.
        schema: one that there is, settings of columns, or None.
        validation: a fraction of the rows, the name of a column, a frame, or None.
        seed: fixes what is drawn for a fraction.

    Raises:
        TypeError, ValueError: as `Schema` and `with_validation`.

    Example:
        >>> import pandas
        >>> train, held_out, schema = table_parts(pandas.DataFrame({"x": [0.5, 1.5, 2.5, 3.5]}), None, 0.25, seed=0)
        >>> train.shape, held_out.shape
        (torch.Size([3, 1]), torch.Size([1, 1]))
    """
    if validation is None or is_frame(validation):
        known = schema if isinstance(schema, Schema) else Schema.guess(frame, schema)
        if validation is None:
            return known.encode(frame), None, known
        x, known = encoded_held_out(validation, known, is_guessed=known is not schema)
        return known.encode(frame), x, known
    train, held_out = with_validation(frame, validation, seed, {"schema": schema or "guess"})
    if not (isinstance(train, Examples) and isinstance(held_out, Examples) and train.schema is not None):
        raise TypeError(f"validation has to be a share of the rows, a column's name or a frame, got {validation!r}")
    marked = (validation,) if isinstance(validation, str) else ()
    known = Schema(train.schema, train.schema.library, (*train.schema.left_out, *marked))
    return train.x[:], held_out.x[:], known


def _is_stream(data: Any) -> bool:
    if isinstance(data, (DataLoader, IterableDataset)):
        return True
    return find_converter(data) is None and isinstance(data, Iterable) and not isinstance(data, Dataset) and not _is_whole(data)


def _is_whole(data: Any) -> bool:
    """Whether `as_examples` should accept or refuse the data, rather than a `Stream` iterate over it."""
    array_like = hasattr(data, "__array__") or hasattr(data, "toarray")
    return array_like or isinstance(data, (Examples, tuple, Mapping, str))
