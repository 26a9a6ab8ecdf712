"""What a column is, guessed from its values: its kind, levels, range and rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.columns import KINDS, RESOLUTIONS, WITH_LEVELS, Column, text_of, whole_steps
from vaekit.data.native import Array, Read

_QUANTILES = 257  # which leaves 1/512 of the distribution between two
_MOST_LEVELS = 1000  # of text
_FEW = 50  # levels that are no names, however few rows there are
_FEW_NUMBERS, _ROWS_FOR_EACH = 10, 30  # whole numbers that are levels in an order: cylinders, grades, children
_MOST_DECIMALS = 6


def guessed(name: str, data: Read, settings: Mapping[str, Any]) -> Column:
    """The column of these values, with the settings that a person gave.

    Raises:
        TypeError: a setting that a column does not have.
        ValueError: a column of names, as many as rows; infinity; settings that do not fit the values.
    """
    same: dict[str, Any] = {
        "name": name,
        "missing": bool(data.missing.any()),
        "dtype": data.dtype,
        "sort": data.sort,
        "null": data.null,
        "ticks": data.ticks,
        "categories": data.categories,
    }
    kind = settings.get("kind") or _kind(name, data)
    if kind in WITH_LEVELS:
        levels = settings.get("levels") or _levels(name, data, kind)
        column = Column(kind=kind, levels=tuple(levels), **same)
    else:
        column = _of_numbers(kind, data, same)
    return column.with_changes(settings)


def _kind(name: str, data: Read) -> str:
    if data.sort == "boolean" or data.sort == "text" or data.categories is not None:
        return "boolean" if data.sort == "boolean" else "ordered" if data.ordered else "category"
    if data.sort in ("date", "datetime"):
        return data.sort
    values = data.values
    if data.sort == "duration" or not len(values):
        return "number"
    _check_finite(name, data)
    least, largest = values.min(), values.max()
    if data.sort == "integer" or (values == np.round(values)).all():
        distinct = np.unique(values)
        if set(distinct.tolist()) == {0, 1}:
            return "boolean"
        if 1 < len(distinct) <= _FEW_NUMBERS and len(values) >= _ROWS_FOR_EACH * len(distinct):
            return "ordered"
        # Counts begin at 0 and vary more than a Poisson's would.
        return "count" if least == 0 and largest < 1e6 and values.astype(np.float64).var() >= values.mean() else "number"
    if least > 0 and largest < 1:
        return "proportion"
    return "positive" if least > 0 else "number"


def _levels(name: str, data: Read, kind: str) -> list[Any]:
    if data.sort in ("date", "datetime", "duration"):
        raise ValueError(f"the column {name!r} holds {data.sort} values, which cannot be of the kind {kind!r}")
    if data.sort == "boolean":
        return [False, True]
    if kind == "boolean" and data.sort in ("integer", "float") and set(data.values.tolist()) <= {0, 1}:
        return [0, 1] if data.sort == "integer" else [0.0, 1.0]
    seen = set(data.values.tolist())
    if len(seen) > _MOST_LEVELS or (len(seen) > _FEW and 2 * len(seen) > len(data.values)):
        raise ValueError(
            f"the column {name!r} holds {len(seen)} different values in {len(data.values)} rows, which are names rather than "
            f"levels; leave it out: Schema.guess(frame, leave_out=[{name!r}]), load(..., drop=[{name!r}]) or "
            f"--read 'drop=[\"{name}\"]'"
        )
    return [level for level in data.categories if level in seen] if data.categories is not None else sorted(seen)


def _of_numbers(kind: str, data: Read, same: dict[str, Any]) -> Column:
    name, values = same["name"], data.values
    if data.sort in ("text", "boolean"):
        raise ValueError(f"the column {name!r} holds {data.sort}, which cannot be of the kind {kind!r}")
    if not len(values):
        resolution = "nanosecond" if data.sort in ("datetime", "duration") else None
        alone = 0.5 if kind == "proportion" else 1.0  # any number that the kind has
        return Column(kind=kind, transform="standardise", resolution=resolution, quantiles=(alone, alone), **same)
    decimals, origin, steps = None, 0, values
    bounds: tuple[Any, Any] = (values.min().item(), values.max().item())
    if data.sort == "float":
        _check_finite(name, data)
        decimals = _decimals(values, data)
    else:
        origin, steps = bounds[0], whole_steps(values, bounds[0])
        differences = values.astype(np.uint64) - np.uint64(origin % 2**64)
        decimals = _zeros(differences) if data.sort == "integer" else None
        same = {**same, "resolution": _resolution(differences, data) if data.sort in ("datetime", "duration") else None}
    if data.sort in ("date", "datetime"):
        bounds = (text_of(bounds[0], data.sort, data.ticks), text_of(bounds[1], data.sort, data.ticks))
    probabilities = np.linspace(0, 1, max(2, min(len(steps), _QUANTILES)))
    quantiles = np.quantile(steps, probabilities, method="inverted_cdf")
    transform = KINDS[kind][0] if kind in KINDS else ""
    return Column(
        kind=kind,
        transform=transform,
        range=bounds,
        decimals=decimals,
        origin=origin,
        quantiles=tuple(quantiles.tolist()),
        **same,
    )


def _check_finite(name: str, data: Read) -> None:
    if data.sort == "float" and not np.isfinite(data.values).all():
        raise ValueError(f"the column {name!r} holds infinity; remove it, or make it a missing value first")


def _decimals(values: Array, data: Read) -> int | None:
    """The least number of decimals that all values have; None where it is above 6."""
    if data.decimals is not None:
        return data.decimals
    narrow = np.float32 if "32" in data.dtype or data.dtype == "float" else np.float64
    for decimals in range(_MOST_DECIMALS + 1):
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = np.round(values, decimals)
        if (rounded.astype(narrow) == values.astype(narrow)).all():
            return decimals
    return None


def _zeros(differences: npt.NDArray[np.uint64]) -> int:
    """0, or minus the number of zeros at the end of all whole numbers: -3 for thousands."""
    if not differences.any():
        return 0
    return -next(zeros for zeros in range(20) if (differences % np.uint64(10 ** (zeros + 1))).any() or zeros == 18)


def _resolution(differences: npt.NDArray[np.uint64], data: Read) -> str:
    """The coarsest in which all times differ by whole numbers."""
    for name, nanoseconds in RESOLUTIONS.items():
        step = max(nanoseconds * data.ticks // 10**9, 1)
        if not (differences % np.uint64(step)).any():
            return name
    return "nanosecond"
