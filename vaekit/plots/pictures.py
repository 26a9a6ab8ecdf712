"""Models to figures: what a model makes of examples, of its prior and of its latent space.

Grey levels run from black, the lowest value of the likelihood's support, to white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from vaekit.conditions.base import Condition
from vaekit.inputs import column_names
from vaekit.ops import make_key
from vaekit.plots.drawing import (
    draw_example,
    draw_image,
    is_image,
    new_figure,
    value_limits,
)
from vaekit.plots.models import conditions_of, in_evaluation_mode, on_device_of
from vaekit.plots.panels import percent, shortened
from vaekit.posteriors.codes import CodeFamily
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Undo: TypeAlias = "Callable[[Tensor], Tensor]"
Limits: TypeAlias = "tuple[float, float]"

MOST_PANELS = 30  # side by side, or one above the other
_MOST_TRAVERSALS = 12
_MOST_STEPS = 100
_MOST_NAMES = 15  # of columns below a curve
_ROWS_AT_ONCE = 500


@in_evaluation_mode
def reconstructions(
    vae: VAE, x: Tensor, condition: Any = None, *, undo: Undo | None = None, limits: Limits | None = None
) -> Figure:
    """Each example above its reconstruction, the decoded posterior mean.

    Args:
        vae: the model.
        x: [N, *input_shape], N from 1 to 30; images [N, C, H, W] with one channel or three are shown as images, anything else
            as curves.
        condition: of each example, for a conditional model.
        undo: from the model's scale to the data's own, lambda x: x * deviation + mean for data that was standardised.
        limits: the values that are black and white, where the likelihood's support has no bounds; by default those of x. What
            lies beyond is drawn so too, and the title says how much that is.

    Raises:
        ValueError: no examples, or too many for one picture.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2)
        >>> len(reconstructions(vae, torch.rand(5, 1, 8, 8)).axes)
        10
    """
    if not 1 <= len(x) <= MOST_PANELS:
        raise ValueError(f"reconstructions draws 1 to {MOST_PANELS} examples side by side, got {len(x)}; x[:5] for example")
    x = on_device_of(vae, x)
    rows = {"original": _undone(x, undo), "reconstruction": _undone(vae.reconstruct(x, condition), undo)}
    shown = _shown(vae, list(rows.values()), value_limits(-math.inf, math.inf, rows["original"]) if limits is None else limits)
    figure = new_figure(max(1.5 * len(x), 4.0), 3.6)
    panels = figure.subplots(2, len(x), squeeze=False)
    for row, (name, examples) in zip(panels, rows.items(), strict=True):
        for axes, example in zip(row, examples, strict=True):
            draw_example(axes, example, shown.limits)
        row[0].set_ylabel(name)
    figure.suptitle(f"reconstructions through {describe_latents(vae)}{shown.note}")
    _name_elements(figure, vae)
    return figure


@in_evaluation_mode
def samples(
    vae: VAE,
    n: int | None = None,
    condition: Any = None,
    *,
    draw: bool = False,
    key: Tensor | None = None,
    undo: Undo | None = None,
    limits: Limits | None = None,
) -> Figure:
    """Decoded draws from the prior; of a conditional model or prior a row for each condition, with the same noise in every row.

    Args:
        vae: the model.
        n: how many, 1 to 900, 16 by default; of a conditional model how many in a row, 1 to 30, 8 by default.
        condition: for a conditional model, the rows: labels [R] or vectors [R, K]; by default every label there is.
        draw: draw from the likelihood as well, instead of taking its mean.
        key: the noise, int64 [2]; `make_key(0)` by default, so that the picture is the same each time.
        undo, limits: as `reconstructions` has them; by default the limits are those of what is drawn.

    Raises:
        ValueError: too few or too many samples or rows; no condition, for a model whose conditions are endless.

    Example:
        >>> import vaekit
        >>> len(samples(vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2), 4).axes)
        4
        >>> vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, condition={"name": "labels", "classes": 10})
        >>> len(samples(vae, 4, condition=[3, 5]).axes)
        8
    """
    key = (make_key(0) if key is None else key).to(vae.device)
    title = f"{'draws' if draw else 'decoded draws'} from the prior"
    if vae.told is not None:
        conditions = _one_for_each_row(vae.told, condition)
        by_condition = _rows_of_samples(vae, 8 if n is None else n, conditions, draw, key)
        return _by_condition(vae, conditions, [_undone(row, undo) for row in by_condition], limits, title)
    n = 16 if n is None else n
    if not 1 <= n <= MOST_PANELS**2:
        raise ValueError(f"n, the number of samples, has to be between 1 and {MOST_PANELS**2}, got {n}")
    drawn = _undone(vae.sample(n, condition, draw=draw, key=key), undo)
    shown = _shown(vae, [drawn], limits)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    figure = new_figure(1.2 * columns + 0.4, 1.2 * rows + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, example in zip(panels, drawn, strict=False):
        draw_example(axes, example, shown.limits)
    for axes in panels[n:]:
        axes.remove()
    figure.suptitle(title + shown.note)
    _name_elements(figure, vae)
    return figure


def _rows_of_samples(vae: VAE, n: int, conditions: Tensor, draw: bool, key: Tensor) -> list[Tensor]:
    if not 1 <= n <= MOST_PANELS:
        raise ValueError(f"n, the number of samples in a row, has to be between 1 and {MOST_PANELS}, got {n}")
    return [vae.sample(n, one, draw=draw, key=key) for one in conditions]


def _by_condition(vae: VAE, conditions: Tensor, rows: Sequence[Tensor], limits: Limits | None, title: str) -> Figure:
    assert vae.told is not None
    n, shown = len(rows[0]), _shown(vae, rows, limits)
    figure = new_figure(1.2 * n + 0.8, 1.2 * len(rows) + 0.8)
    for panels, one, row in zip(figure.subplots(len(rows), n, squeeze=False), conditions, rows, strict=True):
        for axes, example in zip(panels, row, strict=True):
            draw_example(axes, example, shown.limits)
        panels[0].set_ylabel(shortened(vae.told.label(one), 24), rotation=0, ha="right", va="center")
    figure.suptitle(f"{title}, the same code in each column{shown.note}")
    _name_elements(figure, vae)
    return figure


def _one_for_each_row(kind: Condition, condition: Any) -> Tensor:
    """The conditions for which a picture has a row each, [R] or [R, K]; every value there is where none is given."""
    values = kind.all_values() if condition is None else kind.as_tensor(condition)
    if values is None:
        raise ValueError(f"name the conditions that are to have a row: condition is {kind.given_as}")
    if values.ndim == 0 or not 1 <= len(values) <= MOST_PANELS:
        got = "a single value, condition=[3] for example" if values.ndim == 0 else f"{len(values)}; choose some with condition="
        raise ValueError(f"a picture has 1 to {MOST_PANELS} rows, one for each condition, got {got}")
    return kind.as_rows(values, len(values))


@in_evaluation_mode
def latent_grid(
    vae: VAE, side: int = 16, condition: Any = None, *, undo: Undo | None = None, limits: Limits | None = None
) -> Figure:
    """The decoded square of a two-dimensional latent space, at the prior's quantiles, so that every cell is equally likely.

    As in figure 4 of D. P. Kingma, M. Welling, 2013, arXiv:1312.6114.

    Args:
        vae: a model of images with two latent dimensions.
        side: how many cells along each dimension, 2 to 100.
        condition: one value, for a conditional model.
        undo, limits: as `samples` has them.

    Raises:
        ValueError: another number of latent dimensions; latents that are codes; data that is not images; a side
            out of range.

    Example:
        >>> import vaekit
        >>> len(latent_grid(vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2), side=3).axes)
        1
    """
    _check_two_dimensions(vae, "latent_grid")
    check_continuous(vae, "latent_grid")
    if not is_image(vae.input_shape):
        raise ValueError(f"latent_grid draws images [C, H, W] with 1 or 3 channels, the model's data is {vae.input_shape}")
    if not 2 <= side <= _MOST_STEPS:
        raise ValueError(f"side has to be between 2 and {_MOST_STEPS}, got {side}")
    quantiles = (torch.arange(side) + 0.5) / side
    positions = torch.special.ndtri(quantiles.double()).to(next(vae.parameters()))
    z2, z1 = torch.meshgrid(positions.flip(0), positions, indexing="ij")  # the first row of a picture is its top
    images = _undone(vae.decode(torch.stack((z1, z2), dim=-1).reshape(-1, 2), condition), undo).cpu()
    channels, height, width = vae.input_shape
    tiles = images.reshape(side, side, channels, height, width).permute(0, 3, 1, 4, 2)
    figure = new_figure(7.0, 7.2)
    axes = figure.subplots()
    shown = _shown(vae, [images], limits)
    draw_image(axes, tiles.reshape(side * height, side * width, channels).float(), shown.limits)
    ticks = sorted({round(i * (side - 1) / 3) for i in range(4)})
    axes.set_xticks([(i + 0.5) * width - 0.5 for i in ticks], [f"{positions[i]:.2f}" for i in ticks])
    axes.set_yticks([(i + 0.5) * height - 0.5 for i in ticks], [f"{positions[side - 1 - i]:.2f}" for i in ticks])
    title = f"decoded latent square, at Gaussian quantiles{condition_in_title(vae, condition)}{shown.note}"
    axes.set(title=title, xlabel="$z_1$", ylabel="$z_2$")
    return figure


@in_evaluation_mode
def traversals(
    vae: VAE,
    x: Tensor | None = None,
    condition: Any = None,
    *,
    steps: int = 9,
    span: float = 2.5,
    undo: Undo | None = None,
    limits: Limits | None = None,
) -> Figure:
    """What each latent dimension does: decoded codes in which one coordinate moves and the others stay.

    Args:
        vae: a model with latents [D]; the first 12 dimensions are shown.
        x: one example [1, *input_shape] whose posterior mean is the code that is moved; without it, the origin.
        condition: one value, for a conditional model.
        steps: how many values each coordinate takes, 2 to 100.
        span: it goes from -span to span, in the prior's standard deviations.
        undo, limits: as `samples` has them.

    Raises:
        ValueError: latents that are not a vector, or codes; more than one example; a number of steps out of
            range.

    Example:
        >>> import vaekit
        >>> len(traversals(vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3), steps=5).axes)
        15
    """
    if len(vae.latent_shape) != 1:
        raise ValueError(
            f"traversals draws latents that are a vector, the model's have the shape {vae.latent_shape}; see samples"
        )
    check_continuous(vae, "traversals")
    if not 2 <= steps <= _MOST_STEPS:
        raise ValueError(f"steps has to be between 2 and {_MOST_STEPS}, got {steps}")
    if x is not None and len(x) != 1:
        raise ValueError(f"traversals starts from one example, x[:1], got {len(x)}")
    (dimensions,) = vae.latent_shape
    rows = min(dimensions, _MOST_TRAVERSALS)
    weight = next(vae.parameters())
    code = weight.new_zeros(1, dimensions) if x is None else vae.encode(on_device_of(vae, x), condition).mean
    values = torch.linspace(-span, span, steps).to(weight)
    z = code.repeat(rows, steps, 1)
    for dimension in range(rows):
        z[dimension, :, dimension] = values
    decoded = _undone(vae.decode(z.reshape(-1, dimensions), condition), undo).unflatten(0, (rows, steps))
    shown = _shown(vae, [decoded], limits)
    figure = new_figure(max(1.1 * steps, 4.0), 1.15 * rows + 1.0)
    panels = figure.subplots(rows, steps, squeeze=False)
    for dimension, row in enumerate(panels):
        for axes, example in zip(row, decoded[dimension], strict=True):
            draw_example(axes, example, shown.limits)
        row[0].set_ylabel(f"$z_{{{dimension + 1}}}$", rotation=0, labelpad=14, va="center")
    for axes, value in zip(panels[-1], values, strict=True):
        axes.set_xlabel(f"{value:.1f}")
    left_out = "" if rows == dimensions else f", the first {rows} of {dimensions}"
    figure.suptitle(f"latent traversals{left_out}{condition_in_title(vae, condition)}{shown.note}")
    figure.supxlabel("value of the latent dimension")
    return figure


def describe_latents(vae: VAE) -> str:
    """What x goes through: "2 latent dimensions", or "49 codes out of 128"."""
    if isinstance(family := vae.encoder.family, CodeFamily):
        count = math.prod(family.code_shape)
        return f"{count} code{'' if count == 1 else 's'} out of {family.codes}"
    count = math.prod(vae.latent_shape)
    return f"{count} latent dimension{'' if count == 1 else 's'}"


def _check_two_dimensions(vae: VAE, picture: str) -> None:
    if vae.latent_shape != (2,):
        hint = "latent_space and traversals" if len(vae.latent_shape) == 1 else "reconstructions and samples"
        raise ValueError(
            f"{picture} draws two latent dimensions, the model's latents have the shape {vae.latent_shape}; see {hint}"
        )


def check_continuous(vae: VAE, picture: str) -> None:
    kind = vae.encoder.family.latents
    if not kind.fill_space:
        where = "with nothing between them" if kind.are_codes else "with nothing beside them"
        raise ValueError(
            f"{picture} moves through the latent space, but the latents of {type(vae.encoder.family).__name__} are {kind.words}, "
            f"{where}; see reconstructions and samples"
        )


class _Shown(NamedTuple):
    """The values that are black and white, and what to say of those beyond."""

    limits: Limits
    note: str


def _shown(vae: VAE, drawn: Sequence[Tensor], given: Limits | None) -> _Shown:
    """Those of the support, or else the given ones, or those of what is drawn; curves are drawn as far as they go."""
    own = value_limits(vae.likelihood.support.lowest, vae.likelihood.support.highest, *drawn)
    if given is None or own == (vae.likelihood.support.lowest, vae.likelihood.support.highest):
        return _Shown(own, "")
    if not is_image(vae.input_shape):
        return _Shown((min(own[0], given[0]), max(own[1], given[1])), "")
    if not given[0] < given[1]:
        raise ValueError(f"limits has to be (black, white), two numbers that rise, got {given!r}")
    values = torch.cat([each.flatten() for each in drawn])
    level = (given[1] - given[0]) / 255  # less than a grey level is not seen
    beyond = float(((values < given[0] - level) | (values > given[1] + level)).double().mean())
    note = f"\n{percent(beyond)} of the values are beyond {given[0]:.3g} to {given[1]:.3g}" if beyond else ""
    return _Shown((float(given[0]), float(given[1])), note)


def _undone(x: Tensor, undo: Undo | None) -> Tensor:
    """Examples [N, *S] in the data's own scale."""
    if undo is None:
        return x
    undone = undo(x)
    if not isinstance(undone, Tensor) or undone.shape != x.shape:
        got = tuple(undone.shape) if isinstance(undone, Tensor) else type(undone).__name__
        raise ValueError(f"undo has to give a tensor of the shape that it is given, {tuple(x.shape)}, got {got}")
    return undone


def _name_elements(figure: Figure, vae: VAE) -> None:
    """Say what the horizontal axis of curves is; images need no such label."""
    if is_image(vae.input_shape):
        return
    figure.supxlabel("column, as the model has it" if len(vae.input_shape) == 1 else "position")
    names = column_names(vae, None) if len(vae.input_shape) == 1 else []
    if 0 < len(names) <= _MOST_NAMES and names[0] != "x0":
        places: list[Any] = [axes.get_subplotspec() for axes in figure.axes]
        lowest = max(place.rowspan.stop for place in places)
        for axes, place in zip(figure.axes, places, strict=True):
            is_last = place.rowspan.stop == lowest
            axes.set_xticks(range(len(names)), [shortened(name, 14) if is_last else "" for name in names], rotation=90)


def condition_in_title(vae: VAE, condition: Any) -> str:
    """ ", given 3" where that is the one condition of the whole picture."""
    rows = conditions_of(vae, condition, 1)
    return "" if vae.condition is None or rows is None else f", given {vae.condition.label(rows[0])}"
