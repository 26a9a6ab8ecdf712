"""Arrays to figures: what knows of pixels, curves and colours, and of no model.

Colours are those of M. Okabe and K. Ito, "Color Universal Design", 2008, which colour-blind readers can tell apart. Figures are
made without pyplot, so nothing has to be closed and no display is needed. matplotlib is imported when a figure is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.files import writable_folder, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, width and height in inches, which a notebook shows by itself."""
    from vaekit.plots.shown import ShownFigure

    return ShownFigure(figsize=(width, height), dpi=120, layout="constrained")


def save_figure(figure: Figure, file: Path) -> Path:
    """Write the figure whole or not at all, in the format that the file's name ends in; returns the file.

    Args:
        file: .png is appended to a name without an ending; its folder is made if need be.

    Raises:
        ValueError: an unknown format.
        OSError: it cannot be written.
    """
    file = file if file.suffix else file.with_suffix(".png")
    writable_folder(file.parent)
    write_atomically(file, lambda stream: figure.savefig(stream, format=file.suffix[1:]))
    return file


def is_image(shape: Sequence[int]) -> bool:
    """Whether examples of this shape are drawn as images: [C, H, W] with one channel or three."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def value_limits(lowest: float, highest: float, *drawn: Tensor) -> tuple[float, float]:
    """The values that are drawn black and white, or at the bottom and the top: the same for all panels of a figure.

    Args:
        lowest, highest: the bounds of what the values can be; used where both are finite.
        drawn: the values themselves, NaN where one is missing; used where a bound is infinite.
    """
    if math.isfinite(lowest) and math.isfinite(highest):
        return lowest, highest
    there = torch.cat([values[~values.isnan()] for values in drawn])
    low, high = (float(bound) for bound in torch.aminmax(there)) if len(there) else (0.0, 0.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def draw_example(axes: Axes, example: Tensor, limits: tuple[float, float]) -> None:
    """One example: an image, or a curve over its elements for each channel."""
    example = example.cpu().float()
    if is_image(example.shape):
        draw_image(axes, example.permute(1, 2, 0), limits)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    for channel in example.reshape(-1, example.shape[-1]):
        if example.ndim == 1:  # a table's row: the columns are no sequence, the thin line only leads the eye
            axes.plot(channel.numpy(), linewidth=0.5, marker="o", markersize=3, color=BLUE)
        else:
            axes.plot(channel.numpy(), linewidth=1.0)
    axes.tick_params(labelsize=7)
    low, high = limits
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def draw_image(axes: Axes, image: Tensor, limits: tuple[float, float]) -> None:
    """An image [H, W, 1 or 3]; matplotlib scales grey levels by itself, but takes colours only in [0, 1]."""
    low, high = limits
    if image.shape[-1] == 3:
        image = ((image - low) / (high - low)).clip(0.0, 1.0)
    axes.imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect="equal")
