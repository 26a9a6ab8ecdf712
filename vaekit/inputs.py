"""Checks of data before a model sees it: shape, dtype, infinity, NaN, the likelihood's support, the condition."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vaekit.conditions import Labels
from vaekit.data import Batch, Batches, Cells, Examples, Whole, as_batches, as_examples, is_named, is_table_source, load_test
from vaekit.data.cells import columns_of, parts_of
from vaekit.likelihoods import Columns, LibrarySize
from vaekit.vae import VAE

_ELEMENTS_AT_ONCE = 1 << 24  # to bound the temporaries of a check
_ELEMENTS_READ_TWICE = 1 << 26  # 256 MiB: examples on disk up to this size are read as a whole before anything is done with them


def checked_batches(vae: VAE, data: Any, batch_size: int, name: str = "data") -> Batches:
    """Data as batches, `is_checked` if their values were: those of a loader, or of a large file, are when they come.

    Args:
        vae: the model; one that is told a condition gets it with each batch.
        data: what `vaekit.data.as_batches` takes. Of a name or a path, "train" gets the training examples and any
            other name the test set, or all where there is none.
        batch_size: for whole examples.
        name: what the data is called in messages.

    Raises:
        TypeError, ValueError: as `as_batches` and `check_examples`.
    """
    check_model(vae)
    data = as_rows(vae, data)
    reading = reading_of(vae) if is_table_source(data) else {}
    if name != "train" and is_named(data):
        data = load_test(data, **reading)
    elif reading:
        data = as_examples(data, **reading)
    batches = as_batches(data, batch_size, conditional=vae.told is not None)
    if isinstance(batches, Whole):
        batches.examples = named_as_trained(vae, batches.examples)
        x = batches.examples.x
        batches.is_checked = isinstance(x, Tensor) or math.prod(x.shape) <= _ELEMENTS_READ_TWICE
        check_examples(vae, batches.examples, name, rows=None if batches.is_checked else torch.arange(0))
    return batches


def as_rows(vae: VAE, data: Any) -> Any:
    """Data {modality: array}, or a pair of it and y, as the rows that the model's likelihood makes of it; other data as it is."""
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if not isinstance(x, Mapping) or not isinstance(vae, VAE):
        return data
    each = {name: as_examples(value).x for name, value in x.items() if value is not None}
    return (vae.likelihood.joined({name: value[:] for name, value in each.items()}), y)


def check_model(vae: Any) -> None:
    """Raise TypeError where something else than a model was given: its folder, or the data in its place."""
    if not isinstance(vae, VAE):
        advice = "; vaekit.load(folder) loads one" if isinstance(vae, (str, os.PathLike)) else ""
        raise TypeError(f"the first argument has to be a model, a vaekit.VAE, got {type(vae).__name__}{advice}")


def reading_of(vae: VAE) -> dict[str, Any]:
    """The options by which a table becomes what the model takes: its schema, and the column of its labels, where it has them."""
    schema = vae.likelihood.schema if isinstance(vae.likelihood, Columns) else None
    label = vae.told.column if isinstance(vae.told, Labels) else None
    return {name: value for name, value in (("schema", schema), ("label", label)) if value is not None}


def named_as_trained(vae: VAE, examples: Examples) -> Examples:
    """The examples with labels that have the numbers of the model's classes, where both have names; cells with its genes too.

    Raises:
        ValueError: a label that is none of the model's classes, a gene that is not there.

    Warns:
        UserWarning: genes in another order, or that are not the model's.
    """
    if isinstance(examples, Cells):
        features = vae.likelihood.features if isinstance(vae.likelihood, LibrarySize) else None
        cells = examples if features is None else examples.of_genes(features)
        return cells if vae.condition is None else cells.told_as(vae.config()["condition"])
    return examples.numbered_as(getattr(vae.told, "names", None) if isinstance(vae.told, Labels) else None)


def column_names(vae: VAE, examples: Examples | None) -> list[str]:
    """The names of the elements of x: the data's, or those that the likelihood has, or x0, x1, ..."""
    size = math.prod(vae.input_shape)
    named = examples.genes if isinstance(examples, Cells) else None if examples is None else examples.columns
    if named is None and isinstance(vae.likelihood, (Columns, LibrarySize)):
        named = vae.likelihood.names if isinstance(vae.likelihood, Columns) else vae.likelihood.features
    return [f"x{number}" for number in range(size)] if named is None or len(named) != size else list(named)


def checked(vae: VAE, batches: Batches) -> Iterator[Batch]:
    """The batches, once through, with their values checked unless they have been.

    Raises:
        TypeError, ValueError: as `check_values`.
    """
    for number, batch in enumerate(batches):
        if not batches.is_checked:
            check_batch(vae, batches, batch, f"batch {number}")
        yield batch
    batches.all_checked()


def check_examples(vae: VAE, examples: Examples, name: str, rows: Tensor | None = None) -> None:
    """Check that the examples fit the model: shape, dtype and condition of all, and values. Those on disk are read once for it.

    Args:
        vae: the model.
        examples: the examples.
        name: what the data is called in messages, "train" for example.
        rows: int64 [B], the rows whose values are checked; all by default.

    Raises:
        TypeError: a dtype that differs from the weights'.
        ValueError: another shape, a missing condition, or values that `check_values` refuses.
    """
    own = vae.likelihood.schema if isinstance(vae.likelihood, Columns) else None
    if own is not None and examples.schema is not None and own != examples.schema:
        raise ValueError(
            f"{name}: the table was encoded by another schema than the model's; encode it by that, "
            "vaekit.data.as_examples(table, schema=vae.likelihood.schema)"
        )
    if tuple(examples.x.shape[1:]) != vae.input_shape:
        expected = ", ".join(map(str, vae.input_shape))
        raise ValueError(
            f"{name}: the model takes examples of shape ({expected}), the data has ({', '.join(map(str, examples.x.shape[1:]))})"
            + (f", the columns {_listed(examples.columns)}" if examples.columns else "")
        )
    if examples.x.dtype != (dtype := vae.dtype):
        raise TypeError(
            f"{name}: x is {examples.x.dtype}, the model's weights are {dtype}; convert one, x.to({dtype}) for example"
        )
    has_to_be_told = vae.told is not None and not vae.told.infers
    if has_to_be_told and vae.condition is not None and examples.y is None and isinstance(examples, Cells):
        told = [name for part in parts_of(vae.config()["condition"]) for name in columns_of(part)]
        raise ValueError(
            f"{name}: the model is told {', '.join(map(repr, told)) or 'a condition'} of each cell, and these were read without; "
            "vaekit.cells.matching(vae, adata) reads what the model needs, vaekit.data.as_examples(adata, batch=..., "
            "covariates=[...]) what you name"
        )
    if has_to_be_told and examples.y is None:
        why = "the model is conditional" if vae.condition is not None else "the prior is told a condition"
        raise ValueError(
            f"{name}: {why}: give the condition of each example as well, (x, y) instead of x, or a .npz file with x and y"
        )
    at_once = max(1, _ELEMENTS_AT_ONCE // math.prod(vae.input_shape))
    for start in range(0, len(examples) if rows is None else len(rows), at_once):
        some = slice(start, min(start + at_once, len(examples))) if rows is None else rows[start : start + at_once]
        condition = None if vae.told is None or examples.y is None else examples.y[some]
        numbers = torch.arange(some.start, some.stop) if isinstance(some, slice) else some
        with naming_the_layer(examples):
            check_values(vae, Batch(examples.x[some], condition), name, examples.numbers(numbers))


@contextmanager
def naming_the_layer(examples: Examples) -> Iterator[None]:
    """Errors of cells' values say how other counts are read."""
    try:
        yield
    except ValueError as error:
        if not isinstance(examples, Cells):
            raise
        raise ValueError(
            f'{error} What is read of cells is X, or layer="counts", the layer of that name; adata.raw.to_adata() has what '
            "adata.raw holds"
        ) from error


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def check_batch(vae: VAE, batches: Batches, batch: Batch, name: str) -> None:
    """Check the values of one of the batches; messages have the numbers that its examples have in their file or array.

    Raises:
        TypeError, ValueError: as `check_values`.
    """
    numbers = None if batch.index is None else batches.numbers(batch.index.cpu())
    check_values(vae, batch, name, numbers)


def check_values(vae: VAE, batch: Batch, name: str, numbers: Tensor | None = None) -> None:
    """Check the values of a batch, and its condition where the model takes one.

    Args:
        vae: the model.
        batch: with x [B, *S] of the model's shape.
        name: what the data is called in messages.
        numbers: int64 [B], the examples' numbers in messages; 0 to B - 1 by default.

    Raises:
        TypeError: a condition of another type than the model takes.
        ValueError: infinity, NaN unless the likelihood ignores missing values, values outside the likelihood's support, or an
            invalid condition. Names the first bad example, or the range of the values.
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
        if vae.told is not None:
            vae.told.check(vae.told.as_rows(batch.condition, len(x)))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
