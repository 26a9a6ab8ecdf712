"""Points coloured by what is known of them: classes with a legend, numbers and times with a bar, missing values as crosses.

The first eight colours are those of M. Okabe and K. Ito, "Color Universal Design", 2008; the others were chosen one by one as the
farthest from all before in B. Ottosson's Oklab, 2020, by eye and as people with deuteranopia see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vaekit.data.conversion import MISSING
from vaekit.data.native import read
from vaekit.plots.drawing import BLUE, GREY
from vaekit.plots.panels import SMALL, Scale, compact, percent, shortened, show_dates
from vaekit.plots.units import Floats, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASS_COLOURS = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999", "#5B3A1A",
    "#000078", "#0000FF", "#00F0C3", "#D21EFF", "#780078", "#B4003C", "#3C0F3C", "#F0A5FF", "#4B00B4", "#0F2D00",
    "#785A78", "#D20FA5", "#87C378", "#4B5AF0", "#0FF05A", "#2D5A5A", "#966900", "#FF3C69", "#8787D2", "#003C5A",
    "#4B4BA5", "#C3B4C3", "#690F3C", "#780FD2", "#4B5A00", "#965AD2", "#69B400", "#697869", "#B478FF", "#3C1E78",
)  # fmt: skip
CLASS_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*")
_OTHERS = "#DDDDDD"
_FEW_IN_LEGEND = 20  # in one column
_MOST_WHOLE_LEVELS = 12  # whole numbers of more values have a colour bar


def draw_coloured(axes: Axes, points: Floats, colour: Values | None, size: float = 14.0) -> None:
    """Points [N, 2] with the colours of a column of N rows, and what tells the colours beside them.

    Numbers run from dark to bright, the brightest on top; levels have a colour and a marker each, up to forty, and beyond the
    most frequent of them the others share a grey.
    """
    if colour is None:
        axes.scatter(points[:, 0], points[:, 1], s=9, color=BLUE, linewidths=0)
    elif colour.levels is None:
        _draw_numbers(axes, points, colour, size)
    else:
        _draw_levels(axes, points, colour, size)


def _draw_levels(axes: Axes, points: Floats, colour: Values, size: float) -> None:
    levels, numbers = colour.levels or (), colour.numbers
    there, counts = np.unique(colour.observed.astype(np.int64), return_counts=True)
    others: list[int] = []
    if len(there) > len(CLASS_COLOURS):
        order = np.argsort(-counts, kind="stable")
        there, others = np.sort(there[order[: len(CLASS_COLOURS)]]), there[order[len(CLASS_COLOURS) :]].tolist()
        rows = np.isin(numbers, others)
        _scatter(axes, points, rows, s=size, color=_OTHERS, linewidths=0, label=f"{len(others)} others")
    for position, level in enumerate(there.tolist()):
        marker = CLASS_MARKERS[position % len(CLASS_MARKERS)]
        rows = numbers == level
        _scatter(
            axes,
            points,
            rows,
            s=size,
            color=CLASS_COLOURS[position],
            marker=marker,
            linewidths=0,
            label=shortened(levels[level], 22),
        )
    _draw_missing(axes, points, numbers)
    entries = len(there) + bool(others) + bool(colour.missing)
    small = entries > _FEW_IN_LEGEND
    axes.legend(
        title=shortened(colour.name, 24),
        markerscale=1.6,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        frameon=False,
        ncols=2 if small else 1,
        fontsize=SMALL if small else 9,
    )


def _draw_numbers(axes: Axes, points: Floats, colour: Values, size: float) -> None:
    from matplotlib import colors

    scale = Scale.of(colour)
    norms: dict[str, Any] = {"linear": colors.Normalize, "log": colors.LogNorm, "symlog": colors.SymLogNorm}
    options = {"linthresh": 1.0} if scale.name == "symlog" else {}
    _draw_missing(axes, points, colour.numbers)
    order = np.argsort(colour.numbers, kind="stable")[: len(colour.observed)]  # what is missing comes last
    norm = norms[scale.name](vmin=scale.low, vmax=scale.high, **options)
    drawn = _scatter(axes, points, order, s=size, c=colour.numbers[order], cmap="viridis", norm=norm, linewidths=0)
    figure: Any = axes.figure
    beyond = bool((colour.observed < scale.low).any()), bool((colour.observed > scale.high).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    bar = figure.colorbar(drawn, ax=axes, extend=extend, shrink=0.8)
    bar.ax.tick_params(labelsize=SMALL)
    notes = [shortened(colour.name, 28) if colour.unit == "" else f"{shortened(colour.name, 28)} ({colour.unit})"]
    if any(beyond):
        notes.append(f"beyond the bar: {percent(scale.beyond(colour))}")
    bar.set_label("\n".join(notes), fontsize=9)
    if colour.is_time:
        show_dates(bar.ax.yaxis)
    elif scale.name == "linear":
        bar.ax.yaxis.set_major_formatter(lambda value, _: compact(value))
    if colour.missing:
        axes.legend(loc="best", fontsize=SMALL)


def _scatter(axes: Axes, points: Floats, rows: npt.NDArray[Any], **style: Any) -> Any:
    x, y = points[rows].T
    return axes.scatter(x, y, **style)


def _draw_missing(axes: Axes, points: Floats, numbers: Floats) -> None:
    rows = np.isnan(numbers)
    if rows.any():
        _scatter(
            axes, points, rows, s=12, color=GREY, marker="x", linewidths=0.6, zorder=0.9, label=f"missing ({int(rows.sum()):,})"
        )


def as_values(name: str, given: Any) -> Values:
    """What a person colours by: numbers, whole numbers, booleans, dates, or text, [N]; as a column.

    Whole numbers of at most twelve values are levels; what is neither number nor date is levels in sorted order, a pandas
    category's in its own.

    Raises:
        ValueError: something else than one value for each row.

    Example:
        >>> as_values("kind", ["b", "a", None]).levels, as_values("age", [1.5, 2.0]).levels
        (('a', 'b'), None)
    """
    categories = getattr(getattr(given, "dtype", None), "categories", None)
    array = np.asarray(given)
    if array.ndim != 1:
        raise ValueError(f"the colour {name!r} has to be one value for each row, got the shape {array.shape}")
    kind = array.dtype.kind
    if kind == "M":
        days = array.astype("M8[us]").astype(np.float64) / (86400 * 10**6)
        return Values(name, np.where(np.isnat(array), np.nan, days), is_time=True)
    if kind == "f" or (kind in "iu" and len(np.unique(array)) > _MOST_WHOLE_LEVELS):
        return Values(name, array.astype(np.float64), is_whole=kind != "f")
    if kind in "iub":
        there = np.unique(array)
        return Values(name, np.searchsorted(there, array).astype(np.float64), tuple(map(str, there.tolist())))
    texts = [None if _is_missing(value) else str(value) for value in array.tolist()]
    levels = sorted({text for text in texts if text is not None}) if categories is None else [str(level) for level in categories]
    places: dict[str | None, float] = {level: float(place) for place, level in enumerate(levels)}
    return Values(name, np.array([places.get(text, np.nan) for text in texts]), tuple(levels))


def _is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA, which is not even a boolean whether it equals itself."""
    same = value == value
    return value is None or not isinstance(same, (bool, np.bool_)) or not same


def of_series(name: str, series: Any) -> Values:
    """A column of a frame, as narwhals has it, as `as_values` would."""
    column = read(series)
    numbers = np.full(len(column.missing), np.nan)
    if column.sort in ("text", "boolean"):
        levels = column.categories or sorted(set(column.values.tolist()))
        places = {level: float(place) for place, level in enumerate(levels)}
        numbers[~column.missing] = [places[value] for value in column.values.tolist()]
        return Values(name, numbers, tuple(map(str, levels)))
    numbers[~column.missing] = column.values
    if column.sort in ("date", "datetime"):
        return Values(name, numbers / (column.ticks * (1 if column.sort == "date" else 86400)), is_time=True)
    if column.sort == "duration":
        return Values(name, numbers / column.ticks / 86400, unit="days")
    if column.sort == "integer" and len(np.unique(column.values)) <= _MOST_WHOLE_LEVELS:
        there = np.unique(column.values)
        numbers[~column.missing] = np.searchsorted(there, column.values)
        return Values(name, numbers, tuple(map(str, there.tolist())))
    return Values(name, numbers, is_whole=column.sort == "integer")


def as_classes(name: str, labels: Any, names: Sequence[str] | None = None) -> Values:
    """Labels [N], whole numbers, as levels in their order; those that do not occur are left out unless they have names.

    -1 among labels with names is a label that is missing, and NaN here.
    """
    numbers = np.asarray(labels).astype(np.int64)
    if names is not None:
        return Values(name, np.where(numbers == MISSING, np.nan, numbers.astype(np.float64)), tuple(names))
    there = np.unique(numbers)
    return Values(name, np.searchsorted(there, numbers).astype(np.float64), tuple(map(str, there.tolist())))
