"""The latent space in two dimensions, coloured by what is known of the examples: labels, conditions, columns, observations."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.checks import checked_word
from vaekit.conditions import Condition, Labels, Several, Vector
from vaekit.data import Cells, Examples, as_frame, is_frame, read_frame
from vaekit.data.cells import is_anndata
from vaekit.data.frames import is_frame_file
from vaekit.plots.association import association
from vaekit.plots.colours import as_classes, as_values, draw_coloured, of_series
from vaekit.plots.drawing import new_figure
from vaekit.plots.models import conditions_of, in_evaluation_mode, on_device_of
from vaekit.plots.panels import SMALL, percent, shortened
from vaekit.plots.units import Floats, Named, Values, check_name, few_of, spread
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS_AT_ONCE = 500
_MOST_PANELS = 12
_USUAL_PANELS = 4
_CANDIDATES = 60  # columns that are looked at for those that the view shows best
LABEL, _CELL_TYPE = "label", "cell type"


@in_evaluation_mode
def latent_space(
    vae: VAE | Named,
    x: Any,
    y: Tensor | None = None,
    condition: Any = None,
    label_names: Sequence[str] | None = None,
    *,
    color: str | Sequence[str] | Mapping[str, Any] | None = None,
    method: str = "pca",
) -> Figure:
    """The posterior means of x in two dimensions, coloured by what is known of the examples, a panel for each colour.

    Two latent dimensions are drawn as they are; one, with points spread upwards by nothing but their number; more, as their two
    principal components, or by UMAP (L. McInnes, J. Healy, J. Melville, 2018, arXiv:1802.03426).

    Args:
        vae: a model whose latents are a vector.
        x: examples [N, *input_shape]: a tensor; or what `vaekit.evaluate` takes, a frame or AnnData of which up to 5,000 rows are
            drawn.
        y: of a tensor, integer labels [N]; or vectors [N, K], each number of which has a panel; or None.
        condition: of a tensor, what a conditional model is told of each example; y by default.
        label_names: what the labels 0, 1, ... are called in the legend; their numbers by default.
        color: a name or several: a column of x, in its unit, a gene, "label", a condition's column, a column of the frame or of
            obs; or {name: values [N]}. By default the labels and conditions there are, and of a table with names the columns
            that the view shows best, four panels in all.
        method: of more than two latent dimensions: "pca" or "umap".

    Raises:
        ModuleNotFoundError: "umap" without the package umap-learn.
        TypeError: y, condition or label_names beside an x that has its own.
        ValueError: latents that are not a vector; another number of labels than of examples; a name that is not there.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=3)
        >>> x = torch.rand(20, 4)
        >>> len(latent_space(vae, x, torch.arange(20) % 3).axes)
        1
        >>> [axes.get_title() for axes in latent_space(vae, x, color={"first": x[:, 0], "kind": ["a", "b"] * 10}).axes[:2]]
        ['first', 'kind']
    """
    model = vae.vae if isinstance(vae, Named) else vae
    if len(model.latent_shape) != 1:
        raise ValueError(
            f"latent_space draws latents that are a vector, the model's have the shape {model.latent_shape}; see reconstructions "
            "and samples"
        )
    checked_word("method", method, ("pca", "umap"))
    seen = _seen(vae, x, y, condition, label_names)
    points, axis_names = _view(_means(model, seen.examples.x, seen.condition), method)
    colours = seen.colours(color, points)
    wide = min(len(colours), 3 if len(colours) != 4 else 2)
    high = math.ceil(len(colours) / wide)
    figure = new_figure(*((6.4, 5.6) if len(colours) == 1 else (5.4 * wide, 4.4 * high)))
    panels = figure.subplots(high, wide, squeeze=False).flatten()
    (dimensions,) = model.latent_shape
    count, words = len(points), "1 example" if seen.total == 1 else f"{seen.total:,} examples"
    title = f"posterior means of {words if count == seen.total else f'{count:,} of {words}'}"
    title += f" in {dimensions} latent dimensions" if dimensions > 2 else ""
    for axes, colour in zip(panels, colours, strict=False):
        draw_coloured(axes, points, colour, size=18.0 if count <= 2000 and len(colours) == 1 else 9.0)
        axes.set_xlabel(axis_names[0], fontsize=SMALL + 1)
        axes.set_ylabel(axis_names[1], fontsize=SMALL + 1)
        axes.tick_params(labelsize=SMALL + 1)
        axes.grid(alpha=0.3)
        if dimensions == 1:
            axes.set_yticks([])
        elif dimensions == 2:
            axes.set_aspect("equal", adjustable="datalim")
        if len(colours) > 1 and colour is not None:
            axes.set_title(shortened(colour.name, 40))
    for axes in panels[len(colours) :]:
        axes.remove()
    if len(colours) == 1:
        panels[0].set_title(title)
    else:
        figure.suptitle(title)
    return figure


@dataclass(frozen=True)
class _Seen:
    """Examples with what is known of them.

    Attributes:
        model: with the columns of the examples, or None where they are no rows of columns.
        examples: that are drawn.
        total: how many there are.
        condition: what the model is told of each, or None.
        known: labels and conditions, by name.
        observations: what else is known of each example: the columns of a frame or of obs, by name, as they are there.
    """

    model: Named | None
    examples: Examples
    total: int
    condition: Tensor | None
    known: dict[str, Values]
    observations: Mapping[str, Callable[[], Values]]

    def colours(self, color: str | Sequence[str] | Mapping[str, Any] | None, points: Floats) -> list[Values | None]:
        """What the panels are coloured by; None for a single panel without colours."""
        if color is None:
            usual: list[Values | None] = [*self.known.values()]
            usual += self._columns_seen(points, _USUAL_PANELS - len(usual))
            return usual[:_MOST_PANELS] or [None]
        if isinstance(color, Mapping):
            given = [as_values(str(name), _on_cpu(values)) for name, values in color.items()]
            for column in given:
                if len(column.numbers) != self.total:
                    raise ValueError(
                        f"there are {self.total} examples, but the colour {column.name!r} has {len(column.numbers)} values"
                    )
            colours = [self._of_drawn(column) for column in given]
        else:
            colours = [self._called(name) for name in ([color] if isinstance(color, str) else color)]
        if not 1 <= len(colours) <= _MOST_PANELS:
            raise ValueError(f"a picture has 1 to {_MOST_PANELS} panels, one for each colour, got {len(colours)}")
        return list(colours)

    def _called(self, name: str) -> Values:
        columns = () if self.model is None else self.model.names
        if name not in self.known and name not in columns and name not in self.observations:
            check_name(name, [*self.known, *dict.fromkeys([*self.observations, *columns])], "colour")
        if name in self.known:
            return self.known[name]
        if self.model is not None and name in columns:
            return self.model.values(self.examples.x[:], [columns.index(name)])[0]
        return self._of_drawn(self.observations[name]())

    def _of_drawn(self, column: Values) -> Values:
        """The column's rows that are drawn."""
        return replace(column, numbers=column.numbers[spread(self.total, len(self.examples)).numpy()])

    def _columns_seen(self, points: Floats, count: int) -> list[Values]:
        """The columns of a table that have most to do with where the points are; none where its columns have no names."""
        is_named = self.model is not None and self.model.names != tuple(f"x{number}" for number in range(len(self.model.names)))
        if count < 1 or self.model is None or not is_named or (isinstance(self.examples, Cells) and self.known):
            return []
        variances = torch.as_tensor(self.examples.x[:])[:, : len(self.model.names)].double()
        variances = (variances - variances.nanmean(0)).square().nanmean(0).nan_to_num(0.0)
        candidates = sorted(variances.argsort(descending=True, stable=True)[:_CANDIDATES].tolist())
        columns = [column for column in self.model.values(self.examples.x[:], candidates) if len(np.unique(column.observed)) > 1]
        views = [Values("", axis) for axis in points.T]
        strength = [max(abs(np.nan_to_num(association(column, view))) for view in views) for column in columns]
        return [columns[place] for place in np.argsort(-np.array(strength), kind="stable")[:count]]


def _seen(model: VAE | Named, x: Any, y: Any, condition: Any, label_names: Sequence[str] | None) -> _Seen:
    vae = model.vae if isinstance(model, Named) else model
    if isinstance(x, (Tensor, np.ndarray, list)):
        rows, labels = on_device_of(vae, x), None if y is None else torch.as_tensor(y).cpu()
        if labels is not None and len(labels) != len(rows):
            raise ValueError(f"there are {len(rows)} examples but {len(labels)} labels")
        if condition is None and vae.condition is not None:
            labels, condition = None, labels
        told = conditions_of(vae, condition, len(rows))
        examples, total = Examples(rows), len(rows)
        known = [*_labelled(LABEL, labels, label_names), *_told(vae.condition, told, label_names)]
        return _Seen(_named(model, examples), examples, total, told, {column.name: column for column in known}, {})
    if y is not None or condition is not None or label_names is not None:
        raise TypeError("y, condition and label_names are those of a tensor x; other data brings its own, (x, y) for example")
    given, observations = _observed(vae, x)
    examples, total = few_of(model, given)
    told = None if vae.condition is None else examples.y
    known = [*_told(vae.condition, told, examples.label_names)]
    if isinstance(examples, Cells):
        known = [*_labelled(_CELL_TYPE, examples.labels, examples.kinds), *known]
    elif vae.condition is None:
        known = _labelled(LABEL, examples.y, examples.label_names)
    return _Seen(_named(model, examples), examples, total, told, {column.name: column for column in known}, observations)


def _named(model: VAE | Named, examples: Examples) -> Named | None:
    if isinstance(model, Named):
        return model
    return Named.of(model, examples) if len(model.input_shape) == 1 else None


def _observed(vae: VAE, data: Any) -> tuple[Any, Mapping[str, Callable[[], Values]]]:
    """The data, and what its table knows of each row, by name, read when it is asked for."""
    if is_anndata(data):
        from vaekit.cells import matching  # which imports what draws pictures

        return matching(vae, data), {str(name): partial(as_values, str(name), data.obs[name]) for name in data.obs}
    if isinstance(data, (str, os.PathLike)) and is_frame_file(data):
        data = read_frame(data)
    if is_frame(data):
        view = as_frame(data)
        return data, {name: partial(of_series, name, view[name]) for name in view.columns}
    return data, {}


def _labelled(name: str, labels: Tensor | None, names: Sequence[str] | None) -> list[Values]:
    """Labels [N] as a column, or vectors [N, K] as K of them."""
    if labels is None:
        return []
    if labels.ndim == 1:
        return [as_classes(name, labels, names or None)]
    return [Values(f"y {number}", each.double().numpy()) for number, each in enumerate(labels.flatten(1).unbind(1))]


def _told(kind: Condition | None, told: Tensor | None, names: Sequence[str] | None) -> list[Values]:
    """What a model is told of each example [N] or [N, K], as columns, by the names that the conditions have."""
    if kind is None or told is None:
        return []
    told = told.cpu()
    if isinstance(kind, Labels):
        return [as_classes(kind.column or LABEL, told, kind.names or names)]
    parts, columns, place = list(kind) if isinstance(kind, Several) else [kind], [], 0
    for part in parts:
        for own in range(part.columns or told.flatten(1).shape[1]):
            numbers = told.flatten(1)[:, place]
            place += 1
            if isinstance(part, Labels):
                columns.append(as_classes(part.column or f"condition {place}", numbers, part.names))
            else:
                called = part.names[own] if isinstance(part, Vector) and part.names else f"condition {place}"
                columns.append(Values(called, numbers.double().numpy()))
    return columns


def _means(vae: VAE, x: Any, told: Tensor | None) -> Tensor:
    """The posterior means of all examples, float64 [N, D]."""
    chunks = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(x), _ROWS_AT_ONCE)]
    posteriors = (vae.encode(on_device_of(vae, x[rows]), None if told is None else told[rows]) for rows in chunks)
    return torch.cat([posterior.mean.cpu().double() for posterior in posteriors])


def _view(means: Tensor, method: str) -> tuple[Floats, tuple[str, str]]:
    """The points [N, 2] that are drawn of means [N, D], and what the axes are called."""
    dimensions = means.shape[1]
    if dimensions == 1:
        heights = torch.arange(len(means)).double() * ((5.0**0.5 - 1.0) / 2.0) % 1.0
        return torch.stack([means[:, 0], heights], 1).numpy(), ("$z_1$", "spread, without a meaning")
    if dimensions == 2:
        return means.numpy(), ("$z_1$", "$z_2$")
    if method == "umap":
        return _umap(means), ("UMAP 1", "UMAP 2")
    centred = means - means.mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = (
        directions[:2] * directions[:2].gather(1, directions[:2].abs().argmax(1, keepdim=True)).sign()
    )  # one of two signs
    shares = (sizes.square() / sizes.square().sum().clamp(min=1e-300))[:2].tolist()
    shares, points = [*shares, 0.0][:2], centred @ directions.T
    points = torch.cat([points, points.new_zeros(len(points), 2 - points.shape[1])], 1)  # of a single example
    first, second = (f"principal component {n + 1} ({percent(share)} of variance)" for n, share in enumerate(shares))
    return points.numpy(), (first, second)


def _umap(means: Tensor) -> Floats:
    try:
        import umap
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'method="umap" needs the package umap-learn: pip install "vaekit[umap]"; method="pca" does without', name=error.name
        ) from error
    neighbours = min(15, len(means) - 1)
    if neighbours < 2:
        raise ValueError(f'method="umap" needs three examples at least, got {len(means)}; method="pca" does without')
    embedded = umap.UMAP(n_neighbors=neighbours, random_state=0, n_jobs=1).fit_transform(means.float().numpy())
    return np.asarray(embedded, dtype=np.float64)


def _on_cpu(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
