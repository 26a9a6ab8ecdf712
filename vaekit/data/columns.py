"""One column of a table: what kind of values it has, and how they become numbers for a model and values again.

Numbers are described by their quantiles, from which every transform takes its parameters, so that another one can be chosen
without the data. The usual one is that of `vaekit.data.quantiles`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.checks import checked_word
from vaekit.data.native import Array, Read
from vaekit.data.quantiles import SMALLEST_SCALE, normal_scores, values_of_scores

KINDS: dict[str, tuple[str, ...]] = {  # and the transforms that each can have, the usual one first
    "number": ("quantile", "standardise", "none"),
    "positive": ("quantile", "log", "standardise", "none"),
    "count": ("none", "quantile", "log", "standardise"),
    "proportion": ("none", "quantile", "standardise"),
    "date": ("quantile", "standardise"),
    "datetime": ("quantile", "standardise"),
    "category": ("none",),
    "ordered": ("none",),
    "boolean": ("none",),
}
WITH_LEVELS = ("category", "ordered", "boolean")
_TIMES = ("date", "datetime", "duration")
RESOLUTIONS = {"day": 86400 * 10**9, "hour": 3600 * 10**9, "minute": 60 * 10**9, "second": 10**9, "millisecond": 10**6}
RESOLUTIONS |= {"microsecond": 10**3, "nanosecond": 1}  # in nanoseconds, from the coarsest


@dataclass(frozen=True)
class Column:
    """What is known of one column. Made by `vaekit.data.Schema.guess`, corrected by `Schema.with_column`.

    Attributes:
        name: of the column.
        kind: "number", "positive" (above 0), "count" (0, 1, ...), "proportion" (between 0 and 1), "date", "datetime", "category",
            "ordered" (levels with an order) or "boolean".
        transform: of the numbers that a model sees: "quantile", the normal score of the rank; "log", then standardised;
            "standardise", by mean and standard deviation; "none".
        levels: of a category, in the order of their numbers 0, 1, ...
        range: the least and the largest value that come out, dates and times as ISO text in UTC; None for no bounds.
        decimals: to which numbers are rounded, 0 for whole ones, below 0 for tens and hundreds; None for all that there are.
        resolution: of times and durations, to which they are rounded: "day", "hour", "minute", "second", "millisecond",
            "microsecond" or "nanosecond".
        missing: whether values may be missing.
        dtype, sort, null, ticks, categories: of the column in its own library, see `vaekit.data.native.Read`.
        origin: what is taken off whole numbers and times first, so that their differences are exact.
        quantiles: of the numbers less the origin, at evenly spaced probabilities from 0 to 1.
    """

    name: str
    kind: str
    transform: str = "none"
    levels: tuple[Any, ...] | None = None
    range: tuple[Any, Any] | None = None
    decimals: int | None = None
    resolution: str | None = None
    missing: bool = False
    dtype: str = ""
    sort: str = "float"
    null: str = "null"
    ticks: int = 1
    categories: tuple[Any, ...] | None = None
    origin: int = 0
    quantiles: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        checked_word(f"the kind of the column {self.name!r}", self.kind, tuple(KINDS))
        what = f"the transform of the column {self.name!r}, of the kind {self.kind!r},"
        checked_word(what, self.transform, KINDS[self.kind])
        for option in ("levels", "range", "categories", "quantiles"):  # lists, as JSON has them
            if isinstance(value := getattr(self, option), list):
                object.__setattr__(self, option, tuple(value))
        self._check_kind()

    def _check_kind(self) -> None:
        if self.kind in WITH_LEVELS:
            if self.levels is None or len(set(self.levels)) < len(self.levels):
                raise ValueError(
                    f"the column {self.name!r} of the kind {self.kind!r} needs levels that differ, got {self.levels!r}; "
                    f'Schema.guess(frame, {{{self.name!r}: {{"kind": {self.kind!r}}}}}) finds them'
                )
            if self.kind == "boolean" and len(self.levels) != 2:
                raise ValueError(f"the column {self.name!r} is no boolean: it has {len(self.levels)} levels, {self.levels!r}")
            return
        if self.sort in ("text", "boolean"):
            raise ValueError(f"the column {self.name!r} holds {self.sort}, which cannot be of the kind {self.kind!r}")
        if (self.kind in ("date", "datetime")) != (self.sort in ("date", "datetime")):
            raise ValueError(f"the column {self.name!r} holds {self.sort} values, which cannot be of the kind {self.kind!r}")
        if (self.resolution is not None) != (self.sort in ("datetime", "duration")):
            raise ValueError(f"the column {self.name!r} holds {self.sort} values; a resolution is for times and durations alone")
        if self.resolution is not None:
            checked_word(f"the resolution of the column {self.name!r}", self.resolution, tuple(RESOLUTIONS))
        if self.range is not None and (len(self.range) != 2 or not self._steps_of_bound(0) <= self._steps_of_bound(1)):
            raise ValueError(f"the range of the column {self.name!r} has to be (least, largest), got {self.range!r}")
        if len(self.quantiles) < 2:
            raise ValueError(f"the column {self.name!r} has no quantiles; Schema.guess finds them")
        self._check_support(np.asarray(self.quantiles, dtype=np.float64))

    def with_changes(self, changes: Mapping[str, Any]) -> Column:
        """The column with other settings; another kind has its own usual transform unless one is given.

        Raises:
            TypeError: a setting that a column does not have.
            ValueError: settings that do not fit each other or the data; the message names the column.
        """
        settings = ("kind", "transform", "levels", "range", "decimals", "resolution", "missing")
        if unknown := set(changes) - set(settings):
            raise TypeError(f"a column has no setting {sorted(unknown)[0]!r}; there are: {', '.join(settings)}")
        changes = dict(changes)
        kind = changes.get("kind", self.kind)
        if kind != self.kind and kind in KINDS:
            changes.setdefault("transform", KINDS[kind][0])
            changes.setdefault("levels", self.levels if kind in WITH_LEVELS else None)
        return replace(self, **changes)

    @property
    def is_unknown(self) -> bool:
        """Whether all its values were missing, so that it has no level, or no range and no spread."""
        if self.levels is not None:
            return not self.levels
        return self.missing and self.range is None and self.quantiles == self.quantiles[:1] * 2

    @property
    def likelihood(self) -> dict[str, Any]:
        """The spec of the likelihood that suits the column as it is encoded."""
        if self.levels is not None:
            if self.kind == "boolean":
                return {"name": "bernoulli"}
            if len(self.levels) > 1:
                return {"name": "categorical", "classes": len(self.levels)}
        if self.transform == "none" and self.kind in ("count", "proportion"):
            return {"name": "negative_binomial" if self.kind == "count" else "beta"}
        return {"name": "gaussian", "variance": "shared"}

    def encode(self, data: Read) -> npt.NDArray[np.float64]:
        """[N] numbers for the model, NaN where one is missing.

        Raises:
            TypeError: values of another sort.
            ValueError: a level that is not known, infinity, values that the kind does not have.
        """
        encoded = np.full(len(data.missing), np.nan)
        if len(data.values):
            encoded[~data.missing] = self._codes(data) if self.levels is not None else self.forward(self._steps(data))
        return encoded

    def unknown(self, data: Read) -> npt.NDArray[np.bool_]:
        """Which of the values the column does not have: unknown levels, infinity, numbers that its kind does not have.

        Raises: TypeError as `encode`.
        """
        if self.levels is not None:
            return self._numbers_of_levels(data) < 0
        infinite = ~np.isfinite(data.values) if data.sort == "float" else np.False_
        data = data._replace(values=np.where(infinite, self.origin, data.values)) if infinite.any() else data
        return np.asarray(infinite | self._outside(self._steps(data)))

    def known(self, data: Read) -> Read:
        """The data with the values that the column does not have as missing ones."""
        unknown, missing = self.unknown(data), data.missing.copy()
        missing[~missing] = unknown
        return data._replace(values=data.values[~unknown], missing=missing)

    def decode(self, encoded: npt.NDArray[np.float64]) -> tuple[Array, npt.NDArray[np.bool_]]:
        """What `encode` was given: values [N] within range and rounded, and which are missing, bool [N].

        Raises:
            ValueError: missing values in a column that has none.
        """
        missing = np.isnan(encoded)
        if missing.any() and not self.missing:
            raise ValueError(
                f"the column {self.name!r} has no missing values, but {int(missing.sum())} of the {len(missing)} to decode are "
                f"NaN; schema.with_column({self.name!r}, missing=True) allows them"
            )
        if self.levels is not None:
            return self._values_of_codes(np.where(missing, 0.0, encoded)), missing
        return self._values_of_steps(self.inverse(np.where(missing, 0.0, encoded))), missing

    def observed(self, data: Read, library: str) -> tuple[Array, Column | Read]:
        """Values as a frame of the schema holds them, and what has their dtype: no column of whole numbers where some are not."""
        values = data.values
        if data.sort == "float" and self.sort == "integer" and self.levels is None:
            return values, data._replace(dtype={"pandas": "float64", "polars": "Float64", "pyarrow": "double"}[library])
        if data.sort in _TIMES and data.ticks != self.ticks:
            values = np.array([value * self.ticks // data.ticks for value in values.tolist()], dtype=np.int64)
        return values, self

    def nearest(self, data: Read) -> Array:
        """The values that can come out nearest to these, none of them missing: within the range and rounded; levels as they are.

        Raises:
            TypeError, ValueError: as `encode`.
        """
        return self._values_of_codes(self._codes(data)) if self.levels is not None else self._values_of_steps(self._steps(data))

    def forward(self, steps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Numbers less the origin -> what a model sees."""
        self._check_support(steps)
        if self.transform == "quantile":
            return normal_scores(steps, np.asarray(self.quantiles))
        values = steps + self.origin if self.transform in ("log", "none") else steps
        if self.transform == "none":
            return values
        center, scale = self._moments()
        values = self._logarithm(values) if self.transform == "log" else values
        return (values / 4 - center / 4) / (scale / 4)  # a quarter: the difference of two extreme numbers is finite

    def inverse(self, encoded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What a model gives -> numbers less the origin, which may lie outside the range yet."""
        if self.transform == "quantile":
            return values_of_scores(encoded, np.asarray(self.quantiles))
        values = encoded
        if self.transform in ("log", "standardise"):
            center, scale = self._moments()
            with np.errstate(over="ignore"):
                values = 4 * (encoded * (scale / 4) + center / 4)
                if self.transform == "log":
                    values = np.exp(values) if self.kind == "positive" else np.expm1(values)
        return values - self.origin if self.transform in ("log", "none") else values

    def _logarithm(self, values: Any) -> Any:
        return np.log(values) if self.kind == "positive" else np.log1p(values)

    def _moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the quantiles, of their logarithms where the transform is "log"."""
        quantiles = np.asarray(self.quantiles)
        if self.transform == "log":
            quantiles = self._logarithm(quantiles + self.origin)
        largest = float(np.abs(quantiles).max()) or 1.0
        relative = quantiles / largest
        scale = largest * float(relative.std())
        return largest * float(relative.mean()), scale if scale > SMALLEST_SCALE else 1.0

    def _outside(self, steps: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which numbers, less the origin, the kind does not have."""
        values = steps + self.origin
        if self.kind == "positive":
            return np.asarray(values <= 0)
        if self.kind == "count":
            return np.asarray((values < 0) | (values != np.round(values)))
        if self.kind == "proportion":
            return np.asarray((values <= 0) | (values >= 1))
        return np.zeros(len(values), dtype=bool)

    def _check_support(self, steps: npt.NDArray[np.float64]) -> None:
        if (wrong := self._outside(steps)).any():
            raise ValueError(
                f"the column {self.name!r} is of the kind {self.kind!r}, but holds {(steps + self.origin)[wrong][0]:g}; "
                f'schema.with_column({self.name!r}, kind="number") takes any number'
            )

    def _steps(self, data: Read) -> npt.NDArray[np.float64]:
        """The numbers less the origin, exactly where both are whole."""
        same = self.sort in _TIMES or data.sort in _TIMES
        if data.sort in ("text", "boolean") or (same and data.sort != self.sort):
            raise TypeError(f"the column {self.name!r} is a {self.kind}, of {self.sort} values, but here it holds {data.sort}")
        if data.sort == "float":
            if not np.isfinite(data.values).all():
                raise ValueError(f"the column {self.name!r} holds infinity; remove it, or make it a missing value first")
            return data.values - self.origin
        if data.ticks != self.ticks:
            return np.array([value * self.ticks // data.ticks - self.origin for value in data.values.tolist()], dtype=np.float64)
        return whole_steps(data.values, self.origin)

    def _values_of_steps(self, steps: npt.NDArray[np.float64]) -> Array:
        bounds = self._bounds()
        for low, high in bounds:
            steps = np.clip(steps, float(low), float(high))
        if self.sort == "float":
            values = steps + self.origin
            return values if self.decimals is None else np.clip(_rounded(values, self.decimals), *(self.range or (None, None)))
        if self.resolution is not None:
            unit = max(RESOLUTIONS[self.resolution] * self.ticks // 10**9, 1)
        else:
            unit = 10 ** -min(self.decimals or 0, 0)
        units = np.round(steps / unit)
        largest = (2**64 - 2048) // unit  # 2048 below, as float64 has no nearer one
        distance = np.clip(np.abs(units), 0, largest).astype(np.uint64) * np.uint64(unit)  # exact beyond 2^53, unlike floats
        above, below = distance, distance
        for low, high in bounds:  # once more: a float's digits, or the rounding, may have led out of them
            least, most = math.ceil(low), math.floor(high)
            above = np.clip(above, np.uint64(max(least, 0)), np.uint64(max(most, 0)))
            below = np.clip(below, np.uint64(max(-most, 0)), np.uint64(max(-least, 0)))
        wrapped: Array = np.where(units < 0, np.uint64(0) - below, above) + np.uint64(self.origin % 2**64)
        return wrapped if self.dtype.lower().startswith("uint64") else wrapped.view(np.int64)

    def _steps_of_bound(self, which: int) -> Any:
        bound = self.range[which] if self.range else 0
        if self.sort in ("date", "datetime") and isinstance(bound, str):
            return ticks_of(bound, self.sort, self.ticks) - self.origin
        return bound - self.origin

    def _bounds(self) -> list[tuple[Any, Any]]:
        """In steps, exact if whole: of the range, and of the dtype of whole numbers, whose values would wrap around otherwise."""
        bounds = [] if self.range is None else [(self._steps_of_bound(0), self._steps_of_bound(1))]
        if whole := re.search(r"(u?)int(\d+)", self.dtype.lower()) if self.sort == "integer" else None:
            bits = int(whole[2])
            low, high = (0, 2**bits - 1) if whole[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            bounds.append((low - self.origin, high - self.origin))
        return bounds

    def _numbers_of_levels(self, data: Read) -> npt.NDArray[np.float64]:
        """The number of each value's level, -1 where it is none."""
        if data.sort in _TIMES:
            raise TypeError(f"the column {self.name!r} is a {self.kind}, but here it holds {data.sort} values")
        numbers = {level: number for number, level in enumerate(self.levels or ())}
        return np.array([numbers.get(value, -1) for value in data.values.tolist()], dtype=np.float64)

    def _codes(self, data: Read) -> npt.NDArray[np.float64]:
        codes = self._numbers_of_levels(data)
        if (codes < 0).any():
            unseen = sorted({repr(value) for value in data.values[codes < 0].tolist()})
            known = ", ".join(map(repr, (self.levels or ())[:8])) + (", ..." if len(self.levels or ()) > 8 else "")
            raise ValueError(
                f"the column {self.name!r} holds {', '.join(unseen[:8])}, which is not among its levels: {known}; guess the "
                "schema from a table that has all levels, or name them there"
            )
        return codes

    def _values_of_codes(self, encoded: npt.NDArray[np.float64]) -> Array:
        levels = self.levels or ()
        objects = np.empty(max(len(levels), 1), dtype=object)
        objects[: len(levels)] = levels
        taken = objects[np.clip(np.round(encoded), 0, max(len(levels) - 1, 0)).astype(np.int64)]
        if self.categories is not None or self.sort == "text":
            return taken
        return (
            taken.astype({"integer": np.int64, "boolean": bool, "float": np.float64}[self.sort])
            if len(levels)
            else (np.zeros(len(encoded)))
        )

    def to_config(self) -> dict[str, Any]:
        """Plain data, without what is as usual."""
        usual = {field.name: field.default for field in fields(self)}
        plain = {key: value for key, value in asdict(self).items() if value != usual[key]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def whole_steps(values: Array, origin: int) -> npt.NDArray[np.float64]:
    """Whole numbers less the origin: the difference is taken among 64-bit integers, where it is exact."""
    unsigned = values.astype(np.uint64) - np.uint64(origin % 2**64)
    steps: npt.NDArray[np.float64] = np.where(
        values < origin, -(np.uint64(0) - unsigned).astype(np.float64), unsigned.astype(np.float64)
    )
    return steps


def ticks_of(text: str, sort: str, ticks: int) -> int:
    """The ticks since 1970 of a date or a time as ISO text."""
    return int(np.array([text], f"M8[{_unit(sort, ticks)}]").astype(np.int64)[0])


def text_of(value: int, sort: str, ticks: int) -> str:
    """The date or time of ticks since 1970 as ISO text; the inverse of `ticks_of`."""
    return str(np.array([value], np.int64).view(f"M8[{_unit(sort, ticks)}]")[0])


def _unit(sort: str, ticks: int) -> str:
    return "D" if sort == "date" else {10**9: "ns", 10**6: "us", 10**3: "ms", 1: "s"}[ticks]


def _rounded(values: npt.NDArray[np.float64], decimals: int) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.round(values, decimals)
    return np.where(np.isfinite(rounded), rounded, values)
