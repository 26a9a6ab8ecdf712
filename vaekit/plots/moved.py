"""What each latent dimension does to the columns of a table or the genes of cells, in their units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.likelihoods import LibrarySize
from vaekit.plots.colours import CLASS_COLOURS, CLASS_MARKERS
from vaekit.plots.models import in_evaluation_mode
from vaekit.plots.panels import SMALL, Scale, label_levels, shortened
from vaekit.plots.pictures import check_continuous, condition_in_title
from vaekit.plots.sheets import FEW_COLUMNS, MOST_COLUMNS, checked_places, grid, largest_first
from vaekit.plots.units import Named, Values
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS, _SPAN = 21, 2.5  # from -2.5 to 2.5 of the prior's standard deviations
_MOST_DIMENSIONS = 8


@in_evaluation_mode
def column_traversals(
    vae: VAE | Named, data: Any = None, columns: Sequence[str] | None = None, *, condition: Any = None
) -> Figure:
    """What each latent dimension does to each column: the decoded mean while one moves from -2.5 to 2.5 and the others stay at 0.

    Where there are more than eight latent dimensions, the eight that move the columns most are drawn; the legend says which.

    Args:
        vae: a model of rows of columns, whose latents are a vector.
        data: what other pictures of columns take; not looked at, and may be left out.
        columns: their names; by default those that move most, up to twelve.
        condition: one value, for a conditional model.

    Raises:
        ValueError: a column that is not there, more than thirty of them, latents that are no vector or are codes.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, likelihood="gaussian")
        >>> len(column_traversals(vae, columns=["x0", "x2"]).axes)
        2
    """
    named = vae if isinstance(vae, Named) else Named.of(vae)
    model = named.vae
    if len(model.latent_shape) != 1:
        raise ValueError(f"column_traversals draws latents that are a vector, the model's have the shape {model.latent_shape}")
    check_continuous(model, "column_traversals")
    decoded, values = _traversed(model, condition)
    ranges = (decoded.amax(1) - decoded.amin(1))[:, : len(named.names)].double().cpu()  # [D, F], as the model has them
    scale = ranges.amax(0).clamp(min=1e-12)
    if columns is None:
        places = sorted(largest_first(ranges.amax(0).tolist(), FEW_COLUMNS))
    else:
        places = checked_places(named, columns, MOST_COLUMNS)
    dimensions = sorted(largest_first((ranges / scale)[:, places].sum(1).tolist(), _MOST_DIMENSIONS))
    moved = [named.values(decoded[dimension], places, cut=True) for dimension in dimensions]
    figure, panels = grid(len(places))
    for number, axes in enumerate(panels):
        lines = [column[number] for column in moved]
        for place, line in enumerate(lines):
            style: dict[str, Any] = {
                "color": CLASS_COLOURS[place],
                "marker": CLASS_MARKERS[place],
                "markersize": 3,
                "markevery": 5,
            }
            axes.plot(values, line.numbers, linewidth=1.1, **style)
        _show_values(axes, lines)
        axes.set_title(shortened(lines[0].name, 24), fontsize=9, loc="left")
    which = "" if len(places) == len(named.names) else f", {len(places)} of {len(named.names)} columns"
    which += "" if len(dimensions) == len(decoded) else f", the {len(dimensions)} of {len(decoded)} dimensions that move most"
    if isinstance(model.likelihood, LibrarySize):
        which += f", per {model.likelihood.size:,.0f} counts"
    figure.suptitle(f"columns along each latent dimension{which}{condition_in_title(model, condition)}")
    figure.supxlabel("value of the latent dimension", fontsize=9)
    names = [f"$z_{{{dimension + 1}}}$" for dimension in dimensions]
    figure.legend(panels[0].lines, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _traversed(vae: VAE, condition: Any) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """What is decoded along each dimension, [D, steps, F], and the values that it takes."""
    (dimensions,) = vae.latent_shape
    values = torch.linspace(-_SPAN, _SPAN, _STEPS)
    z = torch.zeros(dimensions, _STEPS, dimensions)
    for dimension in range(dimensions):
        z[dimension, :, dimension] = values
    decoded = vae.decode(z.flatten(0, 1).to(vae.device, vae.dtype), condition)
    return decoded.unflatten(0, (dimensions, _STEPS)), values.numpy()


def _show_values(axes: Any, lines: Sequence[Values]) -> None:
    """Ticks of a panel whose vertical axis is a column."""
    if lines[0].levels is not None:
        label_levels(axes, lines[0], "y")
    else:
        numbers, is_whole = np.concatenate([line.numbers for line in lines]), all(line.is_whole for line in lines)
        together = Values(lines[0].name, numbers, is_time=lines[0].is_time, is_whole=is_whole)
        Scale.of(together, whole=True).apply(axes, together, "y")
    axes.set_ylabel(lines[0].unit, fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)
