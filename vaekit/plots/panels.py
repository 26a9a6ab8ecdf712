"""One column or two in a panel: histograms, levels, points, each on the scale that suits the numbers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.plots.association import level_shares
from vaekit.plots.drawing import BLUE, ORANGE
from vaekit.plots.units import Floats, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL = 7.5  # points, of the text in a panel
REAL, SYNTHETIC = "held out", "samples"
_MOST_BINS, _MOST_WHOLE, _MOST_LEVELS = 30, 30, 10
_MANY_DECADES = 200.0  # between the first and the last hundredth of positive numbers, from which on they have a log scale
_FAR = 2.5  # how many times the range of the middle 99 % all numbers may span before the axis leaves some out
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0  # its multiples, modulo 1, fill the unit interval evenly


@dataclass(frozen=True)
class Scale:
    """An axis of numbers.

    Attributes:
        name: "linear", "log" or "symlog", linear up to 1.
        low, high: what it shows.
        step: 1 for whole numbers that have a bin each, or 0.
    """

    name: str
    low: float
    high: float
    step: float = 0.0

    @classmethod
    def of(cls, real: Values, *others: Values, whole: bool = False) -> Scale:
        """The scale that suits numbers.

        A linear one shows everything, unless some lie so far out that nothing could be seen of the rest; see `beyond`.

        Args:
            real: what is looked at to choose.
            others: what it shows as well.
            whole: show everything in any case.
        """
        values = np.concatenate([real.observed, *(other.observed for other in others)])
        if not len(values):
            return cls("linear", 0.0, 1.0)
        chosen = real.observed if len(real.observed) else values
        low, high = float(values.min()), float(values.max())
        first, second, third, last = (float(q) for q in np.quantile(chosen, [0.005, 0.01, 0.99, 0.995]))
        inner = last - first
        if low == high:
            return cls("linear", low - 0.5, high + 0.5, step=float(real.is_whole))
        if real.is_whole and not real.is_time and high - low <= _MOST_WHOLE:
            return cls("linear", low - 0.5, high + 0.5, step=1.0)
        is_far = high - low > _FAR * inner
        if not real.is_time and low > 0.0 and (third / second > _MANY_DECADES or is_far):
            return cls("log", low, high)
        if not real.is_time and real.is_whole and low >= 0.0 and is_far:
            return cls("symlog", low, high)
        if is_far and inner > 0.0 and not whole:
            return cls("linear", max(low, first - inner / 2), min(high, last + inner / 2))
        return cls("linear", low, high)

    def edges(self, observed: Floats) -> Floats:
        """Of the bins of a histogram, chosen by these numbers: as D. Freedman and P. Diaconis, 1981, and at most thirty."""
        if self.step:
            return np.arange(self.low, self.high + 0.5)
        inside = self._moved(observed[(observed >= self.low) & (observed <= self.high)])
        low, high = self._moved(np.array([self.low, self.high]))
        spread = float(np.subtract(*np.quantile(inside, [0.75, 0.25]))) if len(inside) else 0.0
        count = _MOST_BINS if spread == 0.0 else math.ceil((high - low) / (2 * spread * len(inside) ** (-1 / 3)))
        edges = np.linspace(low, high, min(max(count, 5), _MOST_BINS) + 1)
        if self.name == "linear":
            return edges
        back = np.exp(edges) if self.name == "log" else np.expm1(edges)
        back[0], back[-1] = self.low, self.high  # exactly, whatever rounding says
        return np.asarray(back, dtype=np.float64)

    def beyond(self, column: Values) -> float:
        """The share of the observed numbers that the axis does not show."""
        observed = column.observed
        return float(((observed < self.low) | (observed > self.high)).mean()) if len(observed) else 0.0

    def apply(self, axes: Axes, column: Values, which: str = "x") -> None:
        """Make an axis of the panel this scale, with the column's own ticks."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        set_scale, set_limits = getattr(axes, f"set_{which}scale"), getattr(axes, f"set_{which}lim")
        set_scale(self.name, **({"linthresh": 1.0} if self.name == "symlog" else {}))
        margin = 0.0 if self.step or self.name != "linear" else 0.02 * (self.high - self.low)
        set_limits(self.low - margin, self.high + margin)
        if column.is_time:
            show_dates(axis)
        elif self.name == "linear":
            axis.set_major_locator(_ticker().MaxNLocator(4, integer=column.is_whole))
            axis.set_major_formatter(lambda value, _: compact(value))

    def _moved(self, values: Floats) -> Floats:
        if self.name == "linear":
            return values
        moved: Floats = np.log(values) if self.name == "log" else np.log1p(values)
        return moved


def show_dates(axis: Any) -> None:
    """Ticks at days since 1970 that read as dates."""
    dates: Any = importlib.import_module("matplotlib.dates")
    locator = dates.AutoDateLocator(minticks=2, maxticks=5)
    axis.set_major_locator(locator)
    axis.set_major_formatter(dates.ConciseDateFormatter(locator, show_offset=True))
    axis.get_offset_text().set_fontsize(SMALL)


def draw_marginal(axes: Axes, real: Values, synthetic: Values | None) -> None:
    """The shares of a column's values, missing ones left out; how many are missing, or beyond the axis, stands below."""
    if real.levels is not None:
        _draw_levels(axes, real, synthetic)
        notes = [] if real.unit == "" else [real.unit]
    else:
        notes = _draw_histogram(axes, real, synthetic)
    both = [real] if synthetic is None else [real, synthetic]
    if any(column.missing for column in both):
        notes.append(f"missing: {' / '.join(percent(column.missing) for column in both)}")
    axes.set_xlabel("\n".join(notes), fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)


def _draw_histogram(axes: Axes, real: Values, synthetic: Values | None) -> list[str]:
    both = [real] if synthetic is None else [real, synthetic]
    scale = Scale.of(*both)
    edges = scale.edges(real.observed)
    styles: tuple[dict[str, Any], ...] = ({"fill": True, "color": BLUE, "alpha": 0.45}, {"color": ORANGE, "linewidth": 1.4})
    for column, style in zip(both, styles, strict=False):
        counts, _ = np.histogram(column.observed, edges)
        axes.stairs(counts / max(len(column.observed), 1), edges, **style)
    scale.apply(axes, real)
    axes.set_ylim(bottom=0.0)
    show_shares(axes.yaxis)
    notes = [] if real.unit == "" else [real.unit]
    if real.is_time and any(column.missing for column in both):
        notes.append("")  # where the year stands
    if any(scale.beyond(column) for column in both):
        notes.append(f"beyond the axis: {' / '.join(percent(scale.beyond(column)) for column in both)}")
    if not len(real.observed):
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", fontsize=SMALL)
    return notes


def _draw_levels(axes: Axes, real: Values, synthetic: Values | None) -> None:
    both = [real] if synthetic is None else [real, synthetic]
    shares = [level_shares(column) for column in both]
    names, places = list(real.levels or ()), list(range(len(real.levels or ())))
    if len(names) > _MOST_LEVELS:  # the others together
        places = sorted(np.argsort(-shares[0], kind="stable")[: _MOST_LEVELS - 1].tolist())
        names = [*(names[place] for place in places), f"{len(names) - len(places)} others"]
        shares = [np.append(each[places], each.sum() - each[places].sum()) for each in shares]
    height = 0.8 / len(both)
    for number, (each, colour) in enumerate(zip(shares, ((BLUE, 0.55), (ORANGE, 1.0)), strict=False)):
        middle = np.arange(len(names)) + (number - (len(both) - 1) / 2) * height
        axes.barh(middle, each, height=height, color=colour[0], alpha=colour[1])
    axes.set_yticks(range(len(names)), [shortened(name, 14) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(left=0.0)
    show_shares(axes.xaxis)


def draw_points(axes: Axes, x: Values, y: Values, colour: str, scales: Sequence[Scale | None]) -> None:
    """A point for each row where neither is missing; levels are spread about their place, so that points do not cover another."""
    both = ~(np.isnan(x.numbers) | np.isnan(y.numbers))
    placed = [placed_levels(column)[both] for column in (x, y)]
    size = 3.0 if both.sum() > 300 else 8.0
    axes.scatter(placed[0], placed[1], s=size, color=colour, alpha=0.4, linewidths=0, rasterized=True)
    for column, scale, which in zip((x, y), scales, ("x", "y"), strict=True):
        if scale is None:
            label_levels(axes, column, which)
        else:
            scale.apply(axes, column, which)
    axes.tick_params(labelsize=SMALL)


def placed_levels(column: Values) -> Floats:
    """Where the points of a column are drawn: numbers where they are, levels spread by 0.3 to both sides."""
    if column.levels is None:
        return column.numbers
    # By the row's own number, so that a picture is the same each time, and two columns are not spread alike.
    step = _GOLDEN * (1 + sum(map(ord, column.name)) % 97)
    return column.numbers + 0.6 * (np.arange(len(column.numbers)) * step % 1.0) - 0.3


def label_levels(axes: Axes, column: Values, which: str) -> None:
    """Ticks with the names of up to ten levels."""
    levels = column.levels or ()
    step = math.ceil(len(levels) / _MOST_LEVELS)
    places = range(0, len(levels), step)
    names = [shortened(levels[place], 10) for place in places]
    if which == "x":
        axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.6, len(levels) - 0.4)
    else:
        axes.set_yticks(places, names)
        axes.set_ylim(len(levels) - 0.4, -0.6)  # the first one at the top, as in a list


def show_shares(axis: Any) -> None:
    """Ticks at shares that read as percentages."""
    axis.set_major_locator(_ticker().MaxNLocator(3))
    axis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")


def compact(value: float) -> str:
    """A number as a tick: 40k, 1.5M.

    Example:
        >>> compact(40_000.0), compact(1_500_000.0), compact(0.25), compact(9500.0)
        ('40k', '1.5M', '0.25', '9500')
    """
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 1e15 and abs(value) >= 1e4:
            return f"{value / size:.10g}{letter}"
    return f"{value:.10g}"


def percent(share: float) -> str:
    """ "12 %", or "0.3 %" of what is less than one in a hundred; never 0 % of something."""
    if share == 0.0 or share >= 0.0995:
        return f"{100 * share:.0f} %"
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def shortened(name: str, most: int) -> str:
    """The name in one line of at most `most` characters, its end left out where it is longer."""
    name = " ".join(name.split()).replace("$", r"\$")  # which matplotlib would take for mathematics
    return name if len(name) <= most else f"{name[: most - 1].rstrip()}…"


def _ticker() -> Any:
    return importlib.import_module("matplotlib.ticker")
