"""Which axis of an array is which: images become [examples, channels, height, width], whatever order they came in."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.checks import checked_word

A = TypeVar("A", Tensor, npt.NDArray[np.generic])

_AXES = {"NC": 2, "NCL": 3, "NHW": 3, "NCHW": 4, "NHWC": 4}
LAYOUTS = ("auto", *_AXES)
_CHANNELS = (1, 3, 4)  # grey, colour, colour with opacity


def form_of(shape: tuple[int, ...], is_bytes: bool, layout: str = "auto", name: str = "x") -> str:
    """The layout of an array: the one that was said, or with "auto" the one that its shape leaves no doubt about.

    - [N, A, B, C]: channels last where C is 1, 3 or 4 and the picture is larger, or A = B; channels first where A is 1, or 3 or 4
      with a larger picture, or B = C. Sizes that leave a doubt are refused.
    - [N, A, B] of bytes, both above 4: grey pictures without an axis of channels.
    - All else stays as it is.

    Args:
        shape: [N, ...].
        is_bytes: whether the values are uint8.
        layout: of `LAYOUTS`: "NCHW", "NHWC", "NHW" (grey pictures), "NCL" (signals), "NC" (rows of numbers) or "auto".
        name: what the array is called in messages.

    Returns:
        of `LAYOUTS`, "" for an array that stays as it is.

    Raises:
        ValueError: a layout of another number of axes than the array has; a shape that leaves a doubt.

    Example:
        >>> form_of((60000, 32, 32, 3), True), form_of((60000, 28, 28), True), form_of((60000, 784), True)
        ('NHWC', 'NHW', '')
    """
    checked_word("layout", layout, LAYOUTS)
    if layout != "auto":
        if len(shape) != _AXES[layout]:
            raise ValueError(f"{name} has the shape {shape}, but layout={layout!r} takes {_AXES[layout]} axes")
        return layout if layout in ("NHW", "NHWC") else ""
    if len(shape) == 3:
        return "NHW" if is_bytes and min(shape[1:]) > max(_CHANNELS) else ""
    if len(shape) != 4:
        return ""
    a, b, c = shape[1:]
    is_larger = {"first": min(b, c) > max(_CHANNELS), "last": min(a, b) > max(_CHANNELS)}
    first = a == 1 or (a in _CHANNELS and is_larger["first"]) or (b == c and a != b) or a == b == c
    last = (c in _CHANNELS and is_larger["last"]) or (a == b and c < a)
    if first == last and (first or c in _CHANNELS or a in _CHANNELS):
        raise ValueError(
            f"{name} has the shape {shape}, and channels may be first or last in it: say layout='NCHW' or layout='NHWC' "
            "(--layout NHWC)"
        )
    if last and c not in _CHANNELS:
        raise ValueError(
            f"{name} has the shape {shape}, like pictures of {a} x {b} with {c} channels last: say layout='NHWC' "
            f"(--layout NHWC), or layout='NCHW' if there are {a} channels"
        )
    return "NHWC" if last else ""


def arranged(values: A, form: str) -> A:
    """Rows [N, *S], or one row [*S], with the channels' axis before height and width.

    Example:
        >>> arranged(torch.zeros(5, 32, 30, 3), "NHWC").shape, arranged(torch.zeros(32, 30), "NHW").shape
        (torch.Size([5, 3, 32, 30]), torch.Size([1, 32, 30]))
    """
    if form == "NHWC":
        return values.movedim(-1, -3) if isinstance(values, Tensor) else np.moveaxis(values, -1, -3)
    if form == "NHW":
        return values.unsqueeze(-3) if isinstance(values, Tensor) else np.expand_dims(values, -3)
    return values


def arranged_shape(shape: tuple[int, ...], form: str) -> torch.Size:
    """The shape [N, *S] of an array after `arranged`."""
    if form == "NHWC":
        return torch.Size((shape[0], shape[3], shape[1], shape[2]))
    return torch.Size((shape[0], 1, *shape[1:]) if form == "NHW" else shape)
