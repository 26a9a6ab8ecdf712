"""A model while it is drawn: in evaluation mode, without gradients, with what it is told of each example."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from torch import Tensor

from vaekit.modes import evaluation_mode
from vaekit.plots.units import Named
from vaekit.vae import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")


def in_evaluation_mode(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws with the model, the first argument, in evaluation mode and without gradients."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        given: Any = args[0] if args else kwargs.get("vae")
        vae = given.vae if isinstance(given, Named) else given
        if not isinstance(vae, VAE):
            raise TypeError(f"{draw.__name__} takes a vaekit.VAE first, got {type(vae).__name__}")
        with evaluation_mode(vae), torch.no_grad():
            return draw(*args, **kwargs)

    return wrapped


def on_device_of(vae: VAE, x: Any) -> Tensor:
    return torch.as_tensor(x).to(vae.device)


def conditions_of(vae: VAE, condition: Any, count: int) -> Tensor | None:
    """The condition of each of `count` examples, [count] or [count, K]; None for a model without one."""
    if vae.condition is None:
        if condition is not None:
            raise ValueError("a condition was given, but the model has none")
        return None
    return vae.condition.as_rows(condition, count)
