"""Columns of held-out rows one by one: what the model makes of them again, and which values are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vaekit.plots.drawing import BLUE, GREY, ORANGE, new_figure
from vaekit.plots.models import in_evaluation_mode
from vaekit.plots.panels import SMALL, Scale, draw_points, label_levels, percent, shortened, show_shares
from vaekit.plots.sheets import (
    FEW_COLUMNS,
    MOST_COLUMNS,
    MOST_POINTS,
    add_legend,
    checked_places,
    draw_matrix,
    grid,
    largest_first,
    rows_in_words,
    rows_of,
    synthetic_of,
)
from vaekit.plots.units import Floats, Named, Values
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@in_evaluation_mode
def column_reconstructions(vae: VAE | Named, data: Any, columns: Sequence[str] | None = None) -> Figure:
    """Each column of held-out rows against its reconstruction, the decoded posterior mean, in its own unit.

    Numbers are points, with the root mean square of the errors below; levels are the share of each level, the row, that is
    reconstructed as each level, the column, with the share of all that are right below. Missing values have no place.

    Args:
        vae, data: as `marginals` has them; at most 1,000 rows are drawn.
        columns: their names; all by default, or where there are more than thirty the twelve that vary most as the model has them.

    Raises:
        ValueError: as `marginals`.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, likelihood="gaussian")
        >>> len(column_reconstructions(vae, torch.randn(20, 3)).axes)
        3
    """
    named, examples, total = rows_of(vae, data, MOST_POINTS)
    places, which, x = None if columns is None else checked_places(named, columns, MOST_COLUMNS), "", examples.x[:]
    if places is None and len(named.names) > MOST_COLUMNS:
        variances = (x.double() - x.double().nanmean(0)).square().nanmean(0)[: len(named.names)]
        places = largest_first(variances.tolist(), FEW_COLUMNS)
        which = f", the {len(places)} of {len(named.names)} columns that vary most"
    real, made = named.values(x, places), named.values(named.reconstructed(examples), places, cut=True)
    figure, panels = grid(len(real))
    for axes, original, reconstruction in zip(panels, real, made, strict=True):
        draw = _draw_errors if original.levels is None else _draw_confusion
        draw(axes, original, reconstruction)
        axes.set_title(shortened(original.name, 24), fontsize=9, loc="left")
        axes.tick_params(labelsize=SMALL)
    figure.suptitle(f"{rows_in_words(examples, total)} (horizontal) and their reconstructions (vertical){which}")
    return figure


@in_evaluation_mode
def missingness(vae: VAE | Named, data: Any, *, key: Tensor | None = None) -> Figure:
    """Which columns miss values, how many, and which miss them together.

    At the left the share of missing values of each column that misses some, in held-out rows, and in samples where the model
    makes missing values, as that of `vaekit.Table` does. At the right the correlation between missing one column and missing
    another, in held-out rows: 1 where they are missing together.

    Args:
        vae, data, key: as `marginals` has them. Of more than thirty such columns the thirty that miss most are drawn.

    Raises:
        ValueError: data in which nothing is missing; as `marginals`.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(2,), latent_dim=2, likelihood={"name": "gaussian", "missing": "ignore"})
        >>> x = torch.randn(20, 2).masked_fill(torch.rand(20, 2) < 0.5, torch.nan)
        >>> len(missingness(vae, x).axes)
        3
    """
    named, examples, total = rows_of(vae, data)
    real = examples.x[:][:, : len(named.names)].isnan().cpu()
    shares = [real.double().mean(0)]
    if named.indicators:
        shares.append(synthetic_of(named, examples, key)[:, : len(named.names)].isnan().cpu().double().mean(0))
    places = [place for place in range(len(named.names)) if any(side[place] > 0 for side in shares)]
    if not places:
        raise ValueError(f"no value of the {len(examples)} rows is missing: there is nothing to draw")
    which = f"{len(places)} of {len(named.names)} columns miss values"
    if len(places) > MOST_COLUMNS:
        places = [places[place] for place in largest_first([float(shares[0][place]) for place in places], MOST_COLUMNS)]
        which += f", the {len(places)} that miss most"
    names = [shortened(named.names[place], 18) for place in places]
    side = max(1.6, 0.28 * len(places)) + 0.4
    figure = new_figure(4.6 if len(places) == 1 else 5.6 + side, side + 1.5)
    panels = figure.subplots(1, 1 if len(places) == 1 else 2, squeeze=False)[0]
    _draw_shares(panels[0], [[float(side[place]) for place in places] for side in shares], names)
    if len(places) > 1:
        draw_matrix(panels[1], _correlations_of(real[:, places].double().numpy()), names, 1.0, "RdBu_r")
        panels[1].set_title("correlation of missing values", fontsize=9)
        panels[1].set_yticklabels([])
        figure.colorbar(panels[1].images[0], ax=panels[1], shrink=0.7).ax.tick_params(labelsize=SMALL)
    figure.suptitle(f"{rows_in_words(examples, total)}: {which}", fontsize=10)
    if len(shares) > 1:
        add_legend(figure)
    return figure


def _draw_shares(axes: Axes, shares: Sequence[Sequence[float]], names: Sequence[str]) -> None:
    """Bars of each column, one below the other, with what they are written at their ends."""
    height = 0.8 / len(shares)
    for number, (each, colour) in enumerate(zip(shares, (BLUE, ORANGE), strict=False)):
        middle = np.arange(len(names)) + (number - (len(shares) - 1) / 2) * height
        bars = axes.barh(middle, each, height=height, color=colour, alpha=0.55 if colour == BLUE else 1.0)
        axes.bar_label(bars, [percent(share) for share in each], fontsize=SMALL, padding=2)
    axes.set_yticks(range(len(names)), names, fontsize=SMALL)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.25 * max(max(each) for each in shares))
    show_shares(axes.xaxis)
    axes.tick_params(labelsize=SMALL)
    axes.set_title("share of missing values", fontsize=9)


def _correlations_of(missing: Floats) -> Floats:
    """Between the columns of zeros and ones; NaN where one of them does not vary."""
    centred = missing - missing.mean(0)
    size = np.sqrt((centred**2).sum(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations: Floats = (centred.T @ centred) / np.outer(size, size)
    return correlations


def _draw_errors(axes: Axes, real: Values, made: Values) -> None:
    """Numbers against what became of them, with the line on which they are equal."""
    is_there = ~np.isnan(real.numbers)
    x, y = real.numbers[is_there], made.numbers[is_there]
    shown = Values(made.name, np.where(is_there, made.numbers, np.nan), is_time=made.is_time, is_whole=made.is_whole)
    scale = Scale.of(real, shown, whole=True)
    scale = Scale(scale.name, scale.low, scale.high)
    draw_points(axes, real, shown, BLUE, (scale, scale))
    axes.axline((scale.low, scale.low), (scale.high, scale.high), color=GREY, linewidth=0.7)
    error = float(np.sqrt(np.mean((x - y) ** 2))) if len(x) else math.nan
    unit = "days" if real.is_time else real.unit
    notes = ["no values" if math.isnan(error) else f"off by {error:.3g} {unit}".rstrip()]
    axes.set_xlabel(_with_missing(notes, real), fontsize=SMALL)


def _draw_confusion(axes: Axes, real: Values, made: Values) -> None:
    """The share of each level that became each."""
    is_there = ~np.isnan(real.numbers)
    rows, places = real.numbers[is_there].astype(np.int64), made.numbers[is_there].astype(np.int64)
    count = len(real.levels or ())
    table = np.zeros((count, count))
    np.add.at(table, (places, rows), 1.0)  # what is real horizontally, as for numbers
    with np.errstate(invalid="ignore"):
        axes.imshow(table / table.sum(0), cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="auto")
    label_levels(axes, real, "x")
    label_levels(axes, real, "y")
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    right = float((rows == places).mean()) if len(rows) else math.nan
    axes.set_xlabel(_with_missing(["no values" if math.isnan(right) else f"{percent(right)} right"], real), fontsize=SMALL)


def _with_missing(notes: list[str], column: Values) -> str:
    return "; ".join([*notes, *([f"missing: {percent(column.missing)}"] if column.missing else [])])
