"""Pictures of what a model learned; each function returns a matplotlib Figure, which `savefig` writes.

Colours are those of M. Okabe and K. Ito, "Color Universal Design", 2008, which colour-blind readers can tell apart; grey levels
run from black, the lowest value of the likelihood's support, to white. Figures are made without pyplot, so nothing has to be
closed and no display is needed. matplotlib is imported when a figure is made.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from torch import Tensor

from vaekit.conditions.base import Condition
from vaekit.ops import make_key
from vaekit.vae import VAE, evaluation_mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

BLUE, ORANGE = "#0072B2", "#D55E00"
# Okabe and Ito's eight, then two greys: ten classes.
CLASS_COLOURS = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999", "#5B3A1A",
)  # fmt: skip
_MOST_COLUMNS = 30
CLASS_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "<", ">", "*")


def _looking(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Without gradients, and with the model (the first argument) in evaluation mode."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        vae = args[0] if args else kwargs.get("vae")
        if not isinstance(vae, VAE):
            raise TypeError(f"{draw.__name__} takes a vaekit.VAE first, got {type(vae).__name__}")
        with evaluation_mode(vae), torch.no_grad():
            return draw(*args, **kwargs)

    return wrapped


def loss_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Training and validation curves, one panel for each term, against epochs.

    Args:
        history: term -> value for each epoch, "val_..." for validation: a `vaekit.History`.

    Raises:
        ValueError: no epochs.

    Example:
        >>> figure = loss_curves({"loss": [3.0, 2.0], "val_loss": [3.5, 2.5]})
        >>> len(figure.axes)
        1
    """
    terms = [name for name in history if not name.startswith("val_")]
    if not terms or not history[terms[0]]:
        raise ValueError("the history holds no epoch yet: there is nothing to draw")
    figure = _figure(4.2 * len(terms), 3.4)
    for axes, term in zip(figure.subplots(1, len(terms), squeeze=False)[0], terms, strict=True):
        epochs = range(1, len(history[term]) + 1)
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, history[term], color=BLUE, label="training", marker=marker)
        if f"val_{term}" in history:
            axes.plot(epochs, history[f"val_{term}"], color=ORANGE, linestyle="--", label="validation", marker=marker)
        in_nats = term in ("loss", "reconstruction", "kl")  # an objective's extras have units of their own
        axes.set(title=term, xlabel="epoch", ylabel="nats per example" if in_nats else "mean")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(epochs) == 1:
            axes.set_xticks([1])
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure


@_looking
def reconstructions(vae: VAE, x: Tensor, condition: Any = None) -> Figure:
    """Each example above its reconstruction, the decoded posterior mean.

    Args:
        vae: the model.
        x: [N, *input_shape], N from 1 to 30; images [N, C, H, W] with one channel or three are shown as images, anything else
            as curves.
        condition: of each example, for a conditional model.

    Raises:
        ValueError: no examples, or too many for one picture.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2)
        >>> len(reconstructions(vae, torch.rand(5, 1, 8, 8)).axes)
        10
    """
    if not 1 <= len(x) <= _MOST_COLUMNS:
        raise ValueError(f"reconstructions draws 1 to {_MOST_COLUMNS} examples side by side, got {len(x)}; x[:5] for example")
    x = _on_device(vae, x)
    rows = {"original": x, "reconstruction": vae.reconstruct(x, condition)}
    limits = _limits(vae, *rows.values())
    figure = _figure(max(1.5 * len(x), 4.0), 3.6)
    panels = figure.subplots(2, len(x), squeeze=False)
    for row, (name, examples) in zip(panels, rows.items(), strict=True):
        for axes, example in zip(row, examples, strict=True):
            _show(axes, vae, example, limits)
        row[0].set_ylabel(name)
    figure.suptitle(f"reconstructions through {latents_in_words(vae)}")
    _label_elements(figure, vae)
    return figure


@_looking
def samples(vae: VAE, n: int | None = None, condition: Any = None, *, draw: bool = False, key: Tensor | None = None) -> Figure:
    """Decoded draws from the prior; of a conditional model a row for each condition, from the same codes in every row.

    Args:
        vae: the model.
        n: how many, 1 to 900, 16 by default; of a conditional model how many in a row, 1 to 30, 8 by default.
        condition: for a conditional model, the rows: labels [R] or vectors [R, K]; by default every label there is.
        draw: draw from the likelihood as well, instead of taking its mean.
        key: the noise, int64 [2]; `make_key(0)` by default, so that the picture is the same each time.

    Raises:
        ValueError: too few or too many samples or rows; a conditional model without an end of conditions and none given.

    Example:
        >>> import vaekit
        >>> len(samples(vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2), 4).axes)
        4
        >>> vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, condition={"name": "labels", "classes": 10})
        >>> len(samples(vae, 4, condition=[3, 5]).axes)
        8
    """
    key = (make_key(0) if key is None else key).to(_device(vae))
    title = f"{'draws' if draw else 'decoded draws'} from the prior"
    if vae.condition is not None:
        return _samples_by_condition(vae, 8 if n is None else n, condition, draw, key, title)
    n = 16 if n is None else n
    if not 1 <= n <= _MOST_COLUMNS**2:
        raise ValueError(f"n, the number of samples, has to be between 1 and {_MOST_COLUMNS**2}, got {n}")
    drawn = vae.sample(n, condition, draw=draw, key=key)
    limits = _limits(vae, drawn)
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    figure = _figure(1.2 * columns + 0.4, 1.2 * rows + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, example in zip(panels, drawn, strict=False):
        _show(axes, vae, example, limits)
    for axes in panels[n:]:
        axes.remove()
    figure.suptitle(title)
    _label_elements(figure, vae)
    return figure


def _samples_by_condition(vae: VAE, n: int, condition: Any, draw: bool, key: Tensor, title: str) -> Figure:
    assert vae.condition is not None
    conditions = _rows_of_conditions(vae.condition, condition)
    if not 1 <= n <= _MOST_COLUMNS:
        raise ValueError(f"n, the number of samples in a row, has to be between 1 and {_MOST_COLUMNS}, got {n}")
    rows = [vae.sample(n, one, draw=draw, key=key) for one in conditions]
    limits = _limits(vae, *rows)
    figure = _figure(1.2 * n + 0.8, 1.2 * len(rows) + 0.8)
    for panels, one, row in zip(figure.subplots(len(rows), n, squeeze=False), conditions, rows, strict=True):
        for axes, example in zip(panels, row, strict=True):
            _show(axes, vae, example, limits)
        panels[0].set_ylabel(vae.condition.in_words(one), rotation=0, ha="right", va="center")
    figure.suptitle(f"{title}, the same code in each column")
    _label_elements(figure, vae)
    return figure


def shows_every_condition(vae: VAE) -> bool:
    """Whether `samples` has a row for each condition there is, without being told which; True for a model without one."""
    every = None if vae.condition is None else vae.condition.every()
    return vae.condition is None or (every is not None and len(every) <= _MOST_COLUMNS)


def _rows_of_conditions(kind: Condition, condition: Any) -> Tensor:
    """The conditions for which a picture has a row each: [R] or [R, K], all there are where none is named."""
    every = kind.every() if condition is None else torch.as_tensor(condition)
    if every is None:
        raise ValueError(f"name the conditions that are to have a row: condition is {kind.given_as}")
    if every.ndim == 0 or not 1 <= len(every) <= _MOST_COLUMNS:
        raise ValueError(
            f"a picture has 1 to {_MOST_COLUMNS} rows, one for each condition, got "
            f"{'a single value, condition=[3] for example' if every.ndim == 0 else f'{len(every)}; choose some with condition='}"
        )
    return kind.as_rows(every, len(every))


@_looking
def latent_space(vae: VAE, x: Tensor, y: Tensor | None = None, condition: Any = None) -> Figure:
    """The posterior means of x in a two-dimensional latent space, coloured and marked by label.

    Args:
        vae: a model with two latent dimensions.
        x: [N, *input_shape].
        y: integer labels [N]; or vectors [N, K], which are not shown; or None.
        condition: of each example, for a conditional model; y by default.

    Raises:
        ValueError: another number of latent dimensions; another number of labels than of examples.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> len(latent_space(vae, torch.rand(20, 4), torch.arange(20) % 3).axes)
        1
    """
    _check_two_dimensions(vae, "latent_space")
    if y is not None and len(y) != len(x):
        raise ValueError(f"there are {len(x)} examples but {len(y)} labels")
    told = _told(vae, y if condition is None and vae.condition is not None else condition, len(x))
    encoded = []
    for start in range(0, len(x), 500):
        rows = slice(start, start + 500)
        encoded.append(vae.encode(_on_device(vae, x[rows]), None if told is None else told[rows]).mean.float().cpu())
    means = torch.cat(encoded).numpy()
    figure = _figure(6.4, 5.6)
    axes = figure.subplots()
    if y is None or torch.as_tensor(y).ndim > 1:  # vectors have no colour
        axes.scatter(means[:, 0], means[:, 1], s=9, color=BLUE, linewidths=0)
    else:
        labels = torch.as_tensor(y).cpu().numpy()
        for position, label in enumerate(sorted(set(labels.tolist()))):
            colour = CLASS_COLOURS[position % len(CLASS_COLOURS)]
            marker = CLASS_MARKERS[position % len(CLASS_MARKERS)]
            chosen = means[labels == label]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=18, color=colour, marker=marker, linewidths=0, label=str(label))
        axes.legend(title="label", markerscale=1.6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set(title=f"posterior means of {len(x)} examples", xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    axes.grid(alpha=0.3)
    return figure


@_looking
def latent_grid(vae: VAE, side: int = 16, condition: Any = None) -> Figure:
    """The decoded square of a two-dimensional latent space, at the prior's quantiles, so that every cell is equally likely.

    As in figure 4 of D. P. Kingma, M. Welling, 2013, arXiv:1312.6114.

    Args:
        vae: a model of images with two latent dimensions.
        side: how many cells along each dimension.
        condition: one value, for a conditional model.

    Raises:
        ValueError: another number of latent dimensions; latents that are codes from a codebook; data that is not images; a side
            below 2.

    Example:
        >>> import vaekit
        >>> len(latent_grid(vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2), side=3).axes)
        1
    """
    _check_two_dimensions(vae, "latent_grid")
    _check_continuous(vae, "latent_grid")
    if not is_image(vae.input_shape):
        raise ValueError(f"latent_grid draws images [C, H, W] with 1 or 3 channels, the model's data is {vae.input_shape}")
    if side < 2:
        raise ValueError(f"side has to be at least 2, got {side}")
    quantiles = (torch.arange(side) + 0.5) / side
    positions = torch.special.ndtri(quantiles.double()).to(next(vae.parameters()))
    z2, z1 = torch.meshgrid(positions.flip(0), positions, indexing="ij")  # the first row of a picture is its top
    images = vae.decode(torch.stack((z1, z2), dim=-1).reshape(-1, 2), condition).cpu()
    channels, height, width = vae.input_shape
    tiles = (
        images.reshape(side, side, channels, height, width).permute(0, 3, 1, 4, 2).reshape(side * height, side * width, channels)
    )
    figure = _figure(7.0, 7.2)
    axes = figure.subplots()
    _draw_image(axes, tiles.float(), _limits(vae, images))
    shown = sorted({round(i * (side - 1) / 3) for i in range(4)})
    axes.set_xticks([(i + 0.5) * width - 0.5 for i in shown], [f"{positions[i]:.2f}" for i in shown])
    axes.set_yticks([(i + 0.5) * height - 0.5 for i in shown], [f"{positions[side - 1 - i]:.2f}" for i in shown])
    axes.set(title=f"decoded latent square, at Gaussian quantiles{_given(vae, condition)}", xlabel="$z_1$", ylabel="$z_2$")
    return figure


@_looking
def traversals(vae: VAE, x: Tensor | None = None, condition: Any = None, *, steps: int = 9, span: float = 2.5) -> Figure:
    """What each latent dimension does: decoded codes in which one coordinate moves and the others stay.

    Args:
        vae: a model with latents [D]; the first 12 dimensions are shown.
        x: one example [1, *input_shape] whose posterior mean is the code that is moved; without it, the origin.
        condition: one value, for a conditional model.
        steps: how many values each coordinate takes.
        span: it goes from -span to span, in the prior's standard deviations.

    Raises:
        ValueError: latents that are not a vector, or codes from a codebook; more than one example; fewer than 2 steps.

    Example:
        >>> import vaekit
        >>> len(traversals(vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3), steps=5).axes)
        15
    """
    if len(vae.latent_shape) != 1:
        raise ValueError(
            f"traversals draws latents that are a vector, the model's have the shape {vae.latent_shape}; see samples"
        )
    _check_continuous(vae, "traversals")
    if steps < 2:
        raise ValueError(f"steps has to be at least 2, got {steps}")
    if x is not None and len(x) != 1:
        raise ValueError(f"traversals starts from one example, x[:1], got {len(x)}")
    (dimensions,) = vae.latent_shape
    shown = min(dimensions, 12)
    weight = next(vae.parameters())
    code = weight.new_zeros(1, dimensions) if x is None else vae.encode(_on_device(vae, x), condition).mean
    values = torch.linspace(-span, span, steps).to(weight)
    z = code.repeat(shown, steps, 1)
    for dimension in range(shown):
        z[dimension, :, dimension] = values
    decoded = vae.decode(z.reshape(-1, dimensions), condition).reshape(shown, steps, *vae.input_shape)
    limits = _limits(vae, decoded)
    figure = _figure(max(1.1 * steps, 4.0), 1.15 * shown + 1.0)
    panels = figure.subplots(shown, steps, squeeze=False)
    for dimension, row in enumerate(panels):
        for axes, example in zip(row, decoded[dimension], strict=True):
            _show(axes, vae, example, limits)
        row[0].set_ylabel(f"$z_{{{dimension + 1}}}$", rotation=0, labelpad=14, va="center")
    for axes, value in zip(panels[-1], values, strict=True):
        axes.set_xlabel(f"{value:.1f}")
    left_out = "" if shown == dimensions else f", the first {shown} of {dimensions}"
    figure.suptitle(f"latent traversals{left_out}{_given(vae, condition)}")
    figure.supxlabel("value of the latent dimension")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _show(axes: Axes, vae: VAE, example: Tensor, limits: tuple[float, float]) -> None:
    """One example: an image, or a curve over its elements for each channel."""
    example = example.cpu().float()
    if is_image(vae.input_shape):
        _draw_image(axes, example.permute(1, 2, 0), limits)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    for channel in example.reshape(-1, example.shape[-1]):
        if example.ndim == 1:  # a table's row: the columns are no sequence, the thin line only leads the eye
            axes.plot(channel.numpy(), linewidth=0.5, marker="o", markersize=3, color=BLUE)
        else:
            axes.plot(channel.numpy(), linewidth=1.0)
    axes.tick_params(labelsize=6)
    low, high = limits
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _label_elements(figure: Figure, vae: VAE) -> None:
    if not is_image(vae.input_shape):
        figure.supxlabel("column" if len(vae.input_shape) == 1 else "position")


def is_image(shape: Sequence[int]) -> bool:
    """Whether examples of this shape are shown as images: [C, H, W] with one channel or three."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def _limits(vae: VAE, *shown: Tensor) -> tuple[float, float]:
    """The values that are drawn black and white, or at the bottom and the top: the same for all panels of a figure.

    The bounds of the likelihood's support, or else those of what is shown.
    """
    low, high = vae.likelihood.lowest, vae.likelihood.highest
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    low, high = (float(bound) for bound in torch.aminmax(torch.cat([t[~t.isnan()] for t in shown])))  # NaN is a missing value
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _draw_image(axes: Axes, image: Tensor, limits: tuple[float, float]) -> None:
    """An image [H, W, 1 or 3]; matplotlib scales grey levels by itself, but takes colours only in [0, 1]."""
    low, high = limits
    if image.shape[-1] == 3 and limits != (0.0, 1.0):
        image = (image - low) / (high - low)
    axes.imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect="equal")


def _check_two_dimensions(vae: VAE, what: str) -> None:
    if vae.latent_shape != (2,):
        hint = "traversals" if len(vae.latent_shape) == 1 else "reconstructions and samples"
        raise ValueError(f"{what} draws two latent dimensions, the model's latents have the shape {vae.latent_shape}; see {hint}")


def _check_continuous(vae: VAE, what: str) -> None:
    if vae.encoder.family.discrete:
        raise ValueError(
            f"{what} moves through the latent space, but the latents of {type(vae.encoder.family).__name__} are codes from a "
            "codebook, with nothing between them; see reconstructions and samples"
        )


def _device(vae: VAE) -> torch.device:
    return next(vae.parameters()).device


def _on_device(vae: VAE, x: Any) -> Tensor:
    return torch.as_tensor(x).to(_device(vae))


def _given(vae: VAE, condition: Any) -> str:
    """The one condition of a picture, in words."""
    told = _told(vae, condition, 1)
    return "" if vae.condition is None or told is None else f", given {vae.condition.in_words(told[0])}"


def _told(vae: VAE, condition: Any, count: int) -> Tensor | None:
    """The condition of each of `count` examples, [count] or [count, K]; None for a model without one."""
    if vae.condition is None:
        if condition is not None:
            raise ValueError("a condition was given, but the model has none")
        return None
    return vae.condition.as_rows(condition, count)


def latents_in_words(vae: VAE) -> str:
    """What x goes through: "2 latent dimensions", or "49 codes from a codebook"."""
    if vae.encoder.family.discrete:
        count = math.prod(vae.latent_shape[1:])
        return f"{count} code{'' if count == 1 else 's'} from a codebook"
    count = math.prod(vae.latent_shape)
    return f"{count} latent dimension{'' if count == 1 else 's'}"
