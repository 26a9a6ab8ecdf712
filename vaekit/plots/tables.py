"""Tables and cells: samples beside held-out rows, by column and by pairs of columns, in the columns' own units.

Columns are called by their names, and no value is left out in silence: what is missing, or beyond an axis, is said in the panel.
Of many columns a few are drawn, and the title says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vaekit.data import Examples
from vaekit.plots.association import associations_of, difference, most_associated
from vaekit.plots.drawing import BLUE, GREY, ORANGE, new_figure
from vaekit.plots.models import in_evaluation_mode
from vaekit.plots.panels import REAL, SMALL, SYNTHETIC, Scale, draw_marginal, draw_points, shortened
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
from vaekit.plots.units import Drawn, Named
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAIRED, _MOST_PAIRED = 4, 10  # columns, by default and at most


@in_evaluation_mode
def marginals(vae: VAE | Named, data: Any, columns: Sequence[str] | None = None, *, key: Tensor | None = None) -> Figure:
    """Each column's distribution in held-out rows and in samples: a panel a column, in its own unit.

    Shares of the rows that have a value; those that have none are told below the panel. At the right of each name stands the
    difference between the two: the largest one of the cumulative shares (Kolmogorov and Smirnov), and of levels half the sum of
    the differences between their shares. Columns of positive numbers over many decades have a logarithmic axis.

    Args:
        vae: a model of rows of columns, [F].
        data: held-out rows: what `vaekit.evaluate` takes. There are as many samples, for a conditional model of the same
            conditions, and where a library is shared out with the same totals. Of more than 5,000 rows 5,000 are drawn.
        columns: their names; all by default, or where there are more than thirty the twelve that differ most.
        key: the noise, int64 [2]; `make_key(0)` by default, so that the picture is the same each time.

    Raises:
        ValueError: a column that is not there, more than thirty of them, data that does not fit the model.

    Example:
        >>> import pandas, vaekit
        >>> frame = pandas.DataFrame({"age": [31.5, 45.0, 62.0, 28.5] * 5, "smoker": ["no", None, "yes", "no"] * 5})
        >>> x = vaekit.data.as_examples(frame, schema="guess")
        >>> likelihood = {**x.schema.likelihood(), "schema": x.schema}
        >>> vae = vaekit.create_vae("table", likelihood=likelihood)
        >>> [axes.get_title(loc="left") for axes in marginals(vae, frame).axes]
        ['age', 'smoker']
    """
    named, examples, total = rows_of(vae, data)
    places = None if columns is None else checked_places(named, columns, MOST_COLUMNS)
    drawn = _compared(named, examples, key, places)
    differences = [difference(*both) for both in zip(*drawn, strict=True)]
    which = ""
    if len(differences) > MOST_COLUMNS:
        chosen = largest_first(differences, FEW_COLUMNS)
        drawn = Drawn(*([side[place] for place in chosen] for side in drawn))
        which = f", the {len(chosen)} of {len(differences)} columns that differ most"
        differences = [differences[place] for place in chosen]
    figure, panels = grid(len(differences))
    for axes, real, synthetic, apart in zip(panels, *drawn, differences, strict=True):
        draw_marginal(axes, real, synthetic)
        axes.set_title(shortened(real.name, 24), fontsize=9, loc="left")
        axes.set_title("" if math.isnan(apart) else f"{apart:.2f}", fontsize=SMALL, loc="right", color=GREY)
    figure.suptitle(f"{rows_in_words(examples, total)} and as many samples{which}")
    add_legend(figure, note="at the right of each name: how far apart they are, from 0 to 1")
    return figure


@in_evaluation_mode
def pairs(vae: VAE | Named, data: Any, columns: Sequence[str] | None = None, *, key: Tensor | None = None) -> Figure:
    """Each of a few columns against each other: held-out rows below the diagonal, samples above it, both on it.

    Rows that miss one of two values have no point. Levels are spread a little about their place.

    Args:
        vae, data, key: as `marginals` has them.
        columns: two to ten names; by default four columns that have to do with each other.

    Raises:
        ValueError: as `marginals`; fewer than two columns.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, likelihood="gaussian")
        >>> len(pairs(vae, torch.randn(20, 3), columns=["x0", "x2"]).axes)
        4
    """
    named, examples, total = rows_of(vae, data, MOST_POINTS)
    places = None if columns is None else checked_places(named, columns, _MOST_PAIRED)
    _check_two(named if places is None else places, "pairs")
    real = named.values(examples.x[:], places)
    which = ""
    if columns is None and len(real) > _PAIRED:
        places = most_associated(real, _PAIRED)
        which = f", {len(places)} of {len(real)} columns, chosen as the most associated"
    drawn = _compared(named, examples, key, places)
    count = len(drawn.real)
    scales = [None if both[0].levels is not None else Scale.of(*both, whole=True) for both in zip(*drawn, strict=True)]
    figure = new_figure(max(1.9 * count + 0.6, 5.0), 1.7 * count + 0.9)
    panels = figure.subplots(count, count, squeeze=False)
    for row, place in np.ndindex(count, count):
        axes, side, colour = panels[row, place], drawn.real, BLUE
        if row == place:
            draw_marginal(axes, drawn.real[row], drawn.synthetic[row])
        else:
            side, colour = (drawn.real, BLUE) if place < row else (drawn.synthetic, ORANGE)
            draw_points(axes, side[place], side[row], colour, (scales[place], scales[row]))
        if row not in (count - 1, place):
            axes.tick_params(labelbottom=False)
        if place not in (0, row):
            axes.tick_params(labelleft=False)
        if row == 0:
            axes.set_title(shortened(side[place].name, 20), fontsize=9)
        if place == 0:
            axes.set_ylabel(shortened(side[row].name, 18), fontsize=9)
    figure.suptitle(f"{rows_in_words(examples, total)}, and as many samples{which}", fontsize=10)
    add_legend(figure, ("held out (below)", "samples (above)"))
    return figure


@in_evaluation_mode
def associations(vae: VAE | Named, data: Any, columns: Sequence[str] | None = None, *, key: Tensor | None = None) -> Figure:
    """How much each column has to do with each other: in held-out rows, in samples, and the difference.

    Of two columns of numbers Spearman's rank correlation, of numbers and levels the correlation ratio of the ranks, of levels
    Cramér's V; over the rows where neither is missing. Empty where a column does not vary.

    Args:
        vae, data, key: as `marginals` has them.
        columns: two to thirty names; all by default, or where there are more the thirty that have to do with another.

    Raises:
        ValueError: as `marginals`; fewer than two columns.

    Example:
        >>> import torch, vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, likelihood="gaussian")
        >>> [axes.get_title() for axes in associations(vae, torch.randn(20, 3)).axes[:3]]
        ['held out', 'samples', 'samples less held out']
    """
    named, examples, total = rows_of(vae, data)
    places = None if columns is None else checked_places(named, columns, MOST_COLUMNS)
    _check_two(named if places is None else places, "associations")
    drawn = _compared(named, examples, key, places)
    which = ""
    if len(drawn.real) > MOST_COLUMNS:
        chosen = most_associated(drawn.real, MOST_COLUMNS)
        which = f", {len(chosen)} of {len(drawn.real)} columns, chosen as the most associated"
        drawn = Drawn(*([side[place] for place in chosen] for side in drawn))
    matrices = {REAL: associations_of(drawn.real), SYNTHETIC: associations_of(drawn.synthetic)}
    change = matrices[SYNTHETIC] - matrices[REAL]
    names, count = [shortened(column.name, 18) for column in drawn.real], len(drawn.real)
    side = max(2.6, min(0.3 * count, 5.0)) + 0.3
    figure = new_figure(3 * side + 2.2, side + 1.2)
    panels = figure.subplots(1, 3)
    largest = max(0.1, float(np.nanmax(np.abs(change), initial=0.0)))
    for axes, (title, matrix) in zip(panels, {**matrices, f"{SYNTHETIC} less {REAL}": change}.items(), strict=True):
        is_change = matrix is change
        draw_matrix(axes, matrix, names, largest if is_change else 1.0, "PuOr_r" if is_change else "RdBu_r")
        axes.set_title(title)
        if axes is not panels[0]:
            axes.set_yticklabels([])
    for axes, where in ((panels[1], panels[:2].tolist()), (panels[2], panels[2])):
        figure.colorbar(axes.images[0], ax=where, shrink=0.7).ax.tick_params(labelsize=SMALL)
    figure.suptitle(f"associations of columns in {rows_in_words(examples, total)} and as many samples{which}")
    return figure


def _compared(named: Named, examples: Examples, key: Tensor | None, places: Sequence[int] | None) -> Drawn:
    synthetic = synthetic_of(named, examples, key)
    return Drawn(named.values(examples.x[:], places), named.values(synthetic, places, cut=True))


def _check_two(columns: Named | Sequence[int], picture: str) -> None:
    names = columns.names if isinstance(columns, Named) else columns
    if len(names) < 2:
        raise ValueError(f"{picture} needs two columns at least, got {len(names)}; see marginals")
