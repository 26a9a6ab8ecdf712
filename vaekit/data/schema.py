"""What the columns of a table are, and the way from a table to a tensor and back.

A table of pandas, polars or pyarrow becomes a tensor [N, F] that a model trains on. What a model gives becomes such a table
again, with the names, dtypes, levels, dates, whole numbers, ranges and missing values of the one that it was guessed from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.checks import checked_word
from vaekit.data.columns import Column, text_of
from vaekit.data.guessing import guessed
from vaekit.data.native import LIBRARIES, Read, columns_of, frame_of, is_missing, read, series_of, single

_FORMAT = 1
_DIGITS = {"float": 1e-12}  # to which a number that is given has to be one that comes out


class Schema:
    """The columns of a table: names, kinds, transforms, levels, ranges, rounding, and whether values may be missing.

    Args:
        columns: one `Column` for each, in order.
        library: of the tables that `decode` makes: "pandas", "polars" or "pyarrow".
        left_out: names of columns that are not looked at.

    Attributes:
        columns: by name, in order.
        library, left_out: as given.

    Raises:
        ValueError: no columns, two of one name, another library.

    Example:
        >>> import pandas
        >>> frame = pandas.DataFrame({"age": [31, 45, 62], "smoker": ["no", None, "yes"]})
        >>> schema = Schema.guess(frame)
        >>> x = schema.encode(frame)
        >>> x.shape, schema.columns["smoker"].levels
        (torch.Size([3, 2]), ('no', 'yes'))
        >>> schema.decode(x).equals(frame)
        True
    """

    def __init__(self, columns: Iterable[Column], library: str = "pandas", left_out: Iterable[str] = ()) -> None:
        listed = list(columns)
        self.columns = {column.name: column for column in listed}
        self.library, self.left_out = library, tuple(left_out)
        if not listed or len(self.columns) < len(listed):
            raise ValueError(f"a schema needs columns of different names, got {[column.name for column in listed]}")
        if library not in LIBRARIES:
            raise ValueError(f"library has to be one of {', '.join(LIBRARIES)}, got {library!r}")

    @classmethod
    def guess(
        cls, frame: Any, settings: Mapping[str, Mapping[str, Any]] | None = None, *, leave_out: Sequence[str] = ()
    ) -> Schema:
        """The schema of a table, as its dtypes and values suggest; print it, and correct what is wrong.

        Whole numbers of at most ten values, with thirty rows for each, are levels in an order; those that begin at 0 and vary
        more than a Poisson distribution are counts; 0 and 1 are booleans.

        Args:
            frame: a DataFrame of pandas or polars, or a pyarrow.Table.
            settings: {column: {setting: value}} that are known better: "kind", "transform", "levels", "range", "decimals",
                "resolution" and "missing", as `Column` has them.
            leave_out: names of columns that are no part of it.

        Raises:
            ModuleNotFoundError: narwhals is not installed.
            TypeError: something else than a table, a column whose values have no kind, an unknown setting.
            ValueError: an empty table, text that differs in every row, infinity, settings that do not fit; names the column.

        Example:
            >>> import pandas
            >>> frame = pandas.DataFrame({"visits": [0, 0, 3, 1, 9], "rate": [0.25, None, 0.5, 0.5, 0.125]})
            >>> print(Schema.guess(frame, {"visits": {"kind": "number"}}))
            column  kind        transform  values        rounding  missing  dtype
            visits  number      quantile   0 to 9        0         no       int64
            rate    proportion  none       0.125 to 0.5  3         yes      float64
        """
        library, series = columns_of(frame)
        settings = {} if settings is None else settings
        if not isinstance(settings, Mapping) or not all(isinstance(of, Mapping) for of in settings.values()):
            raise TypeError(
                'settings have to be {column: {setting: value}}, {"visits": {"kind": "count"}} for example, got '
                f"{settings!r}"
            )
        for name in (*settings, *leave_out):
            if name not in series:
                raise ValueError(f"the table has no column {name!r}; it has: {_listed(series)}")
        taken = {name: values for name, values in series.items() if name not in leave_out}
        if not taken or not len(next(iter(taken.values()))):
            raise ValueError("the table is empty; a schema is guessed from rows and columns")
        columns = [guessed(name, read(values), settings.get(name, {})) for name, values in taken.items()]
        return cls(columns, library, leave_out)

    def with_column(self, name: str, **settings: Any) -> Schema:
        """The schema with other settings of one column.

        Args:
            name: of the column.
            settings: "kind", "transform", "levels", "range", "decimals", "resolution" and "missing", as `Column` has them.
                Another kind has its own usual transform unless one is given.

        Raises:
            TypeError: an unknown setting.
            ValueError: no such column, settings that do not fit; a kind that needs levels, which `guess` finds.

        Example:
            >>> import pandas
            >>> schema = Schema.guess(pandas.DataFrame({"visits": [2, 0, 3, 1, 2]}))
            >>> schema.with_column("visits", kind="count").likelihood()["columns"]
            {'visits': {'name': 'negative_binomial'}}
        """
        changed = self._column(name).with_changes(settings)
        return Schema((changed if n == name else c for n, c in self.columns.items()), self.library, self.left_out)

    def likelihood(self) -> dict[str, Any]:
        """The spec of a likelihood for `encode`'s tensor: a likelihood for each column; missing="ignore" where values may be.

        Example:
            >>> import pandas
            >>> Schema.guess(pandas.DataFrame({"x": [0.5, -1.5, None]})).likelihood()
            {'name': 'columns', 'columns': {'x': {'name': 'gaussian', 'variance': 'shared'}}, 'missing': 'ignore'}
        """
        spec = {"name": "columns", "columns": {name: column.likelihood for name, column in self.columns.items()}}
        return {**spec, **({"missing": "ignore"} if any(c.missing for c in self.columns.values()) else {})}

    def encode(self, frame: Any, dtype: torch.dtype = torch.float32, *, unknown: str = "refuse") -> Tensor:
        """The numbers that a model sees: a table of N rows, whose columns may be in another order -> [N, F], NaN where missing.

        Values beyond the range are encoded all the same. Missing values are, in columns that had none as well.

        Args:
            frame: a DataFrame of pandas or polars, or a pyarrow.Table.
            dtype: torch.float32 or torch.float64, which is exact for more whole numbers and times.
            unknown: "refuse" values that a column does not have, unknown levels for example, or encode them as "missing".

        Raises:
            TypeError: something else than a table; values of another sort than the column's.
            ValueError: columns that are missing or unknown, levels that are unknown, values that the kind does not have, numbers
                beyond the dtype; the message names the column.
        """
        checked_word("unknown", unknown, ("refuse", "missing"))
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype has to be torch.float32 or torch.float64, got {dtype}")
        data = self._read(frame)
        if unknown == "missing":
            data = {name: self.columns[name].known(values) for name, values in data.items()}
        encoded = np.stack([column.encode(data[name]) for name, column in self.columns.items()], axis=1)
        x = torch.from_numpy(encoded).to(dtype)
        for name, numbers in zip(self.columns, x.unbind(1), strict=True):
            if numbers.isinf().any():
                raise ValueError(f'the column {name!r} holds numbers beyond {dtype}; another transform than "none" scales them')
        return x

    def unknown(self, frame: Any) -> dict[str, list[Any]]:
        """The values of a table that its columns do not have, unknown levels for example, by column, as often as they occur.

        Args, Raises: as `encode`, but for what it gives.

        Example:
            >>> import pandas
            >>> schema = Schema.guess(pandas.DataFrame({"town": ["Bergen", "Oslo"], "age": [31.5, 40.0]}))
            >>> schema.unknown(pandas.DataFrame({"town": ["Oslo", "Molde"], "age": [-1.0, 99.0]}))
            {'town': ['Molde'], 'age': [-1.0]}
        """
        data = self._read(frame)
        found = {name: data[name].values[column.unknown(data[name])].tolist() for name, column in self.columns.items()}
        return {name: values for name, values in found.items() if values}

    def allowing(self, frame: Any, unknown: Mapping[str, Any]) -> Schema:
        """The schema whose columns may miss values where the frame does, or has values that the column has not."""
        data = self._read(frame)
        lacking = {name for name in self.columns if data[name].missing.any() or name in unknown}
        columns = (replace(c, missing=True) if name in lacking else c for name, c in self.columns.items())
        return Schema(columns, self.library, self.left_out)

    def _read(self, frame: Any) -> dict[str, Read]:
        """The columns of a table as arrays, in the schema's order."""
        _, series = columns_of(frame)
        if lacking := [name for name in self.columns if name not in series]:
            raise ValueError(f"the table lacks {_listed(lacking)}; it has: {_listed(series)}")
        if unknown := [name for name in series if name not in self.columns and name not in self.left_out]:
            raise ValueError(
                f"the schema does not know {_listed(unknown)}; drop them from the table, or guess a schema that has them"
            )
        return {name: read(series[name]) for name in self.columns}

    def decode(self, x: Tensor) -> Any:
        """The table of [N, F] numbers, with the dtypes that the schema's table had: the inverse of `encode`.

        Numbers are rounded and cut to the range; the level of a column of levels is the nearest whole number's.

        Raises:
            ValueError: another shape; NaN in a column that has no missing values; infinity.
        """
        if x.ndim != 2 or x.shape[1] != len(self.columns):
            raise ValueError(
                f"the schema has {len(self.columns)} columns, but x has the shape {tuple(x.shape)}, not [rows, columns]"
            )
        if x.isinf().any():
            raise ValueError("x holds infinity, which no column has")
        numbers = x.detach().cpu().double().numpy()
        made = {}
        for number, (name, column) in enumerate(self.columns.items()):
            made[name] = series_of(self.library, name, *column.decode(np.ascontiguousarray(numbers[:, number])), column)
        return frame_of(self.library, made, len(numbers))

    def encode_values(self, values: Mapping[str, Any]) -> Tensor:
        """The numbers of single values by column, float64 [F], NaN where there is none, or a missing one is given.

        Args:
            values: {column: value}: a number, a level, a date or time as ISO text (in UTC where the column has a time zone and
                the text none) or as an object, a timedelta; None, NaN, pandas.NA or NaT for a missing value.

        Raises:
            TypeError, ValueError: as `encode`; an unknown column, None for a column without missing values.

        Example:
            >>> import pandas
            >>> schema = Schema.guess(pandas.DataFrame({"age": [31, 45, 62], "smoker": ["no", "yes", "no"]}))
            >>> schema.encode_values({"smoker": "yes"})
            tensor([nan, 1.], dtype=torch.float64)
        """
        encoded = torch.full((len(self.columns),), torch.nan, dtype=torch.float64)
        for name, value in values.items():
            column = self._column(name)
            if is_missing(value) and not column.missing:
                raise ValueError(f"the column {name!r} has no missing values, but {value!r} is given")
            if not is_missing(value):
                encoded[list(self.columns).index(name)] = float(column.encode(single(value, column))[0])
        return encoded

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise ValueError for a single value that `decode` cannot give: beyond its column's range, or of more digits.

        Args:
            values: as `encode_values` takes them.

        Raises:
            TypeError, ValueError: as `encode_values`.

        Example:
            >>> import pandas
            >>> Schema.guess(pandas.DataFrame({"age": [31, 45, 62]})).check_values({"age": 99})
            Traceback (most recent call last):
            ValueError: the column 'age' cannot hold 99: its values are 31 to 62, rounded to 0 decimals, and the nearest is 62...
        """
        for name, value in values.items():
            column = self._column(name)
            if is_missing(value):
                continue
            if column.is_unknown:
                raise ValueError(
                    f"the column {name!r} had no values when the schema was guessed, so that nothing is known of {value!r}"
                )
            if column.levels is not None:
                continue
            given = single(value, column)
            nearest = column.nearest(given)[0]
            if nearest != given.values[0] and not math.isclose(nearest, given.values[0], rel_tol=_DIGITS.get(column.sort, 0.0)):
                _, kind, _, span, rounding, _, _ = _described(column)
                rounded = "" if not rounding else f", rounded to {rounding}{'' if column.resolution else ' decimals'}"
                shown = (
                    text_of(int(nearest), column.sort, column.ticks) if column.sort in ("date", "datetime") else nearest.item()
                )
                raise ValueError(
                    f"the column {name!r} cannot hold {value!r}: its values are {span}{rounded}, and the nearest is {shown}; "
                    f"schema.with_column({name!r}, ...) sets another range or rounding"
                )

    def filled(self, frame: Any, x: Tensor) -> Any:
        """The frame, in the schema's order, with its missing values from x [N, F], which has numbers as `decode` takes them.

        Observed values are not encoded and decoded, but stay what they are, and so does the index of a frame of pandas.

        Raises:
            ValueError: an x of another shape, or without a value where one is missing.
        """
        library, series = columns_of(frame)
        numbers = x.detach().cpu().double().numpy()
        made = {}
        for number, (name, column) in enumerate(self.columns.items()):
            data = read(series[name])
            observed, like = column.observed(data, self.library)
            if data.missing.any():
                decoded, still = column.decode(np.where(data.missing, numbers[:, number], 0.0))
                decoded = decoded.astype(observed.dtype) if observed.dtype.kind in "fO" else decoded
                decoded[~data.missing] = observed
                made[name] = series_of(self.library, name, decoded, still, like)
            else:
                made[name] = series_of(self.library, name, observed, data.missing, like)
        filled = frame_of(self.library, made, len(numbers))
        return filled.set_index(frame.index) if library == self.library == "pandas" else filled

    def to_config(self) -> dict[str, Any]:
        """Plain data, for JSON; `from_config` gives the schema back.

        Raises:
            TypeError: levels that JSON does not have.
        """
        for column in self.columns.values():
            for level in (*(column.levels or ()), *(column.categories or ())):
                if not isinstance(level, (str, int, float)):
                    raise TypeError(f"the column {column.name!r} has the level {level!r}, which JSON cannot hold; make it text")
        columns = [column.to_config() for column in self.columns.values()]
        return {"format": _FORMAT, "library": self.library, "left_out": list(self.left_out), "columns": columns}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """The schema of what `to_config` gave.

        Raises:
            ValueError: something else.

        Example:
            >>> import pandas
            >>> schema = Schema.guess(pandas.DataFrame({"x": [1.5, 2.5]}))
            >>> Schema.from_config(schema.to_config()) == schema
            True
        """
        try:
            if config["format"] != _FORMAT:
                raise ValueError(f"it has format {config['format']!r}, this vaekit reads {_FORMAT}")
            return cls([Column(**column) for column in config["columns"]], config["library"], config["left_out"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the config is not that of a schema: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.to_config() == other.to_config()

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns.values())

    def __repr__(self) -> str:
        return f"Schema of {len(self)} columns: {_listed(self.columns)}"

    def __str__(self) -> str:
        rows = [("column", "kind", "transform", "values", "rounding", "missing", "dtype"), *map(_described, self)]
        widths = [min(max(len(row[place]) for row in rows), 30) for place in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _column(self, name: str) -> Column:
        if name not in self.columns:
            raise ValueError(f"the schema has no column {name!r}; it has: {_listed(self.columns)}")
        return self.columns[name]


def _described(column: Column) -> tuple[str, ...]:
    """The cells of a row that is printed."""
    if column.levels is not None:
        shown = ", ".join(map(str, column.levels[:4]))
        values = f"{shown}, ... ({len(column.levels)})" if len(column.levels) > 4 else shown
    else:
        values = "any" if column.range is None else " to ".join(_short(bound) for bound in column.range)
    rounding = column.resolution or ("" if column.decimals is None or column.levels is not None else str(column.decimals))
    transform = "" if column.levels is not None else column.transform
    return column.name, column.kind, transform, values, rounding, "yes" if column.missing else "no", column.dtype


def _short(bound: Any) -> str:
    return f"{bound:.6g}" if isinstance(bound, float) else str(bound).partition(".000")[0].removesuffix("T00:00:00")


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name) for name in names]
    return ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "")
