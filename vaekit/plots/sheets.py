"""Whole figures of columns: which rows and columns they show, in words, their panels, legends and matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vaekit.data import Examples
from vaekit.ops import make_key
from vaekit.plots.drawing import BLUE, ORANGE, new_figure
from vaekit.plots.panels import REAL, SMALL, SYNTHETIC
from vaekit.plots.units import Floats, Named, as_named, few_of
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COLUMNS = 30  # with a panel each, or in a matrix; of more, some are chosen
FEW_COLUMNS = 12
MOST_POINTS = 1000
_WRITTEN = 12  # columns up to which a matrix has its numbers written in it


def rows_of(model: VAE | Named, data: Any, most: int | None = None) -> tuple[Named, Examples, int]:
    examples, total = few_of(model, data) if most is None else few_of(model, data, most)
    return as_named(model, examples), examples, total


def synthetic_of(named: Named, examples: Examples, key: Tensor | None) -> Tensor:
    return named.drawn(examples, (make_key(0) if key is None else key).to(named.vae.device))


def checked_places(named: Named, columns: Sequence[str], most: int) -> list[int]:
    places = named.places(columns)
    if len(places) > most:
        raise ValueError(f"a picture has at most {most} columns, got {len(places)}; name fewer")
    return places


def largest_first(values: Sequence[float], count: int) -> list[int]:
    """The places of the largest numbers, the largest first; NaN comes last."""
    order = np.argsort(-np.nan_to_num(np.array(values), nan=-1.0), kind="stable")
    return [int(place) for place in order[:count]]


def rows_in_words(examples: Examples, total: int) -> str:
    rows = "1 held-out row" if total == 1 else f"{total:,} held-out rows"
    return rows if len(examples) == total else f"{len(examples):,} of {rows}"


def grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, side by side and then below."""
    wide = min(count, 4 if count <= 20 else 5)
    high = math.ceil(count / wide)
    figure = new_figure(max(2.7 * wide, 5.2), 2.3 * high + 0.9)
    panels = figure.subplots(high, wide, squeeze=False).flatten()
    for axes in panels[count:]:
        axes.remove()
    return figure, list(panels[:count])


def add_legend(figure: Figure, names: Sequence[str] = (REAL, SYNTHETIC), note: str = "") -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=BLUE, alpha=0.55), Patch(color=ORANGE)]
    title = {"title": note, "title_fontsize": SMALL} if note else {}
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9, **title)


def draw_matrix(axes: Axes, matrix: Floats, names: Sequence[str], largest: float, colours: str) -> None:
    axes.imshow(matrix, cmap=colours, vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=SMALL)
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    if len(names) > _WRITTEN:
        return
    for row, place in np.ndindex(matrix.shape):
        value = matrix[row, place]
        if row != place and not math.isnan(value):
            colour = "white" if abs(value) > 0.6 * largest else "black"
            axes.text(place, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", fontsize=6, color=colour)
