"""What training was like: the terms of a history against epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vaekit.plots.drawing import BLUE, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    figure = new_figure(4.2 * len(terms), 3.4)
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
