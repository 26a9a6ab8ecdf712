"""Columns by name, each in its own unit: what a model sees of a table or of cells, as a person reads it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.data import Examples, Schema, Whole
from vaekit.data.columns import Column
from vaekit.inputs import checked_batches, column_names
from vaekit.likelihoods import Categorical, Columns, LibrarySize, Likelihood
from vaekit.ops import philox, streams
from vaekit.vae import VAE

MOST_ROWS = 5000  # that a picture is drawn from
_AT_ONCE = 500
_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1, "milliseconds": 1e-3, "microseconds": 1e-6}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """One column of N rows.

    Attributes:
        name: of the column.
        numbers: float64 [N]: numbers in the column's unit, of dates and times the days since 1970, as matplotlib counts them, of
            levels their numbers; NaN where one is missing.
        levels: the names of the levels 0, 1, ...; None for numbers and times.
        unit: of the numbers, where it is not the data's own.
        is_time: whether they are days since 1970.
        is_whole: whether all of them are whole numbers.
    """

    name: str
    numbers: Floats
    levels: tuple[str, ...] | None = None
    unit: str = ""
    is_time: bool = False
    is_whole: bool = False

    @property
    def observed(self) -> Floats:
        """The numbers that are not missing."""
        return self.numbers[~np.isnan(self.numbers)]

    @property
    def missing(self) -> float:
        """The share of missing values."""
        return float(np.isnan(self.numbers).mean()) if len(self.numbers) else 0.0


class Drawn(NamedTuple):
    """Held-out rows and as many synthetic ones: the same columns, in the same order and units."""

    real: list[Values]
    synthetic: list[Values]


@dataclass(frozen=True)
class Named:
    """A model whose examples are rows of columns with names.

    Attributes:
        vae: the model.
        names: of the columns, the entries of x; without the indicators.
        schema: by which a table became x, or None: x is in the data's unit then.
        indicators: the columns of which x has, behind all columns, one more that says whether each is missing.
    """

    vae: VAE
    names: tuple[str, ...]
    schema: Schema | None = None
    indicators: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, vae: VAE, examples: Examples | None = None) -> Named:
        """The columns as the model knows them, or else the data; x0, x1, ... where neither does.

        Raises:
            ValueError: examples that are no rows of columns.
        """
        if len(vae.input_shape) != 1:
            raise ValueError(
                f"examples of the shape {vae.input_shape} have no columns to be drawn one by one; see reconstructions and samples"
            )
        schema = vae.likelihood.schema if isinstance(vae.likelihood, Columns) else None
        schema = schema if schema is not None or examples is None else examples.schema
        return cls(vae, tuple(column_names(vae, examples)), schema)

    def places(self, wanted: Sequence[str] | str) -> list[int]:
        """Where these columns are.

        Raises:
            ValueError: a column that is not there; names those that are.
        """
        listed = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in listed:
            check_name(name, self.names)
        if not listed:
            raise ValueError("columns names no column; leave it out, or name some")
        return [self.names.index(name) for name in listed]

    def values(self, x: Tensor, places: Sequence[int] | None = None, *, cut: bool = False) -> list[Values]:
        """These columns of x [N, F], all by default, in their units.

        Args:
            x: as the model takes or gives it, NaN where a value is missing.
            places: of the columns.
            cut: to the schema's ranges, as what `Schema.decode` gives.
        """
        numbers = x.detach().cpu().double().numpy()
        places = range(len(self.names)) if places is None else places
        return [self._values(place, np.ascontiguousarray(numbers[:, place]), cut) for place in places]

    def drawn(self, examples: Examples, key: Tensor) -> Tensor:
        """A synthetic row for each of the examples: of its condition, and where a library is shared out with its total.

        What an indicator says is missing is NaN.
        """
        vae, told = self.vae, examples.y if self.vae.condition is not None else None
        if not isinstance(vae.likelihood, LibrarySize):
            x = vae.sample(len(examples), told, draw=True, key=key)
        else:
            vae.prior.attach(vae.encoder)
            z, parts = vae.prior.sample((len(examples), *vae.latent_shape), key=key, dtype=vae.dtype), []
            for start in range(0, len(z), _AT_ONCE):
                rows = slice(start, start + _AT_ONCE)
                parameters = vae.natural_parameters(z[rows], None if told is None else told[rows])
                likelihood, own = vae.likelihood.given_observed(parameters, examples.x[rows].to(vae.device))
                data_key = philox.fold_in(key, streams.Sample.DATA)
                parts.append(likelihood.sample(own, key=data_key, row_start=start))
            x = torch.cat(parts)
        x = x.clone()
        for number, name in enumerate(self.indicators):
            x[x[:, len(self.names) + number] > 0.5, self.names.index(name)] = torch.nan
        return x

    def reconstructed(self, examples: Examples) -> Tensor:
        """The decoded posterior means."""
        told = examples.y if self.vae.condition is not None else None
        return self.vae.reconstruct(examples.x[:].to(self.vae.device), told)

    def _values(self, place: int, numbers: Floats, cut: bool) -> Values:
        name = self.names[place]
        if self.schema is not None:
            return _in_unit(self.schema.columns[name], numbers, cut)
        levels = _levels_of(self._likelihood(place))
        present = numbers[~np.isnan(numbers)]
        return Values(name, numbers, levels, is_whole=levels is None and bool((present == np.round(present)).all()))

    def _likelihood(self, place: int) -> Likelihood:
        likelihood = self.vae.likelihood
        return likelihood.likelihoods[place] if isinstance(likelihood, Columns) else likelihood


def as_named(model: VAE | Named, examples: Examples) -> Named:
    return model if isinstance(model, Named) else Named.of(model, examples)


def few_of(model: VAE | Named, data: Any, most: int = MOST_ROWS) -> tuple[Examples, int]:
    """Up to `most` of the examples, spread evenly and checked, and how many there are.

    Args:
        model: that they are for.
        data: what `vaekit.evaluate` takes, held whole: a frame, a file, a tensor, `Examples`, ...

    Raises:
        TypeError: a loader, which is not held whole; values of another kind.
        ValueError: no examples, or some that do not fit the model.
    """
    vae = model.vae if isinstance(model, Named) else model
    batches = checked_batches(vae, data, _AT_ONCE)
    if not isinstance(batches, Whole):
        raise TypeError(f"pictures are drawn of examples held whole, got {type(data).__name__}; a tensor or a table for example")
    examples = batches.examples
    if not len(examples):
        raise ValueError("there are no rows to draw")
    count = min(len(examples), most)
    return (examples if count == len(examples) else examples.take(spread(len(examples), count))), len(examples)


def spread(total: int, count: int) -> Tensor:
    """`count` of the rows 0 to total - 1, spread evenly: int64 [count]."""
    return (torch.arange(count) * total).div(count, rounding_mode="floor")


def check_name(name: str, names: Sequence[str], what: str = "column") -> None:
    """Refuse a name that is none of these.

    Raises:
        ValueError: says which there are, and which was perhaps meant.
    """
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        shown = ", ".join(map(repr, names[:20])) + (f", ... ({len(names)})" if len(names) > 20 else "")
        raise ValueError(f"there is no {what} {name!r}{f'; did you mean {near[0]!r}?' if near else ''} There are: {shown}")


def _levels_of(likelihood: Likelihood) -> tuple[str, ...] | None:
    if isinstance(likelihood, Categorical):
        return tuple(map(str, range(likelihood.classes)))
    return None


def _in_unit(column: Column, numbers: Floats, cut: bool) -> Values:
    """A column of a table: what `Schema.decode` gives of these numbers, beyond the range too unless it is cut."""
    missing = np.isnan(numbers)
    if column.levels is not None:
        codes = np.where(missing, np.nan, np.clip(np.round(numbers), 0, max(len(column.levels) - 1, 0)))
        return Values(column.name, codes, tuple(map(str, column.levels)))
    decoded = np.where(missing, np.nan, _decoded(column, numbers, cut))
    if column.sort in ("date", "datetime"):
        return Values(column.name, decoded / (column.ticks * (1 if column.sort == "date" else 86400)), is_time=True)
    if column.sort == "duration":
        unit = _unit_of(column)
        return Values(column.name, decoded / column.ticks / _SECONDS[unit], unit=unit)
    present = decoded[~missing]
    return Values(column.name, decoded, is_whole=bool((present == np.round(present)).all()))


def _decoded(column: Column, numbers: Floats, cut: bool) -> Floats:
    """What a schema decodes; what lies beyond the range, or between two steps of the rounding, stays there unless it is cut."""
    column = replace(column, missing=True)
    rounded: Floats = replace(column, range=column.range if cut else None).decode(numbers)[0].astype(np.float64)
    if cut or column.decimals is None:
        return rounded
    exact: Floats = replace(column, range=None, decimals=None).decode(numbers)[0].astype(np.float64)
    size = float(np.nanmax(np.abs(exact), initial=0.0))
    return np.where(np.abs(exact - rounded) <= 1e-5 * size, rounded, exact)  # float32 has that much of x


def _unit_of(column: Column) -> str:
    """The unit of a duration in which the longest is at least 1."""
    longest = max(abs(quantile + column.origin) for quantile in column.quantiles) / column.ticks
    return next((unit for unit, seconds in _SECONDS.items() if longest >= seconds), "microseconds")
