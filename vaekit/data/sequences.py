"""Sequences of different lengths as one tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def sequences(items: Iterable[Any], length: int | None = None, end: int | None = None) -> Tensor:
    """Sequences as rows [N, T] of tokens or [N, T, F] of vectors, NaN after each one's last step.

    Args:
        items: each [L] or [L, F] of numbers, at least one; L may be 0 where `end` is given.
        length: T; that of the longest one, with its end, by default. Longer ones are cut, and then have no end.
        end: the token that is put behind each.

    Raises:
        ValueError: no items, items of different kinds, or no step in any.

    Example:
        >>> sequences([[3, 1], [2]], end=0)
        tensor([[3., 1., 0.],
                [2., 0., nan]])
    """
    each = [torch.as_tensor(item, dtype=torch.get_default_dtype()) for item in items]
    shapes = {tuple(item.shape[1:]) for item in each if item.numel()}
    if not each or len(shapes) > 1 or (end is None and not shapes) or any(not item.ndim for item in each):
        raise ValueError(
            f"sequences have to be [steps], or [steps, features] of one number of features; got {len(each)} of {shapes}"
        )
    if end is not None:
        if shapes - {()}:
            raise ValueError(f"end={end} is a token, which sequences of vectors do not have")
        each = [torch.cat([item.reshape(-1), item.new_tensor([float(end)])]) for item in each]
    steps = max(map(len, each)) if length is None else length
    rows = each[0].new_full((len(each), steps, *next(iter(shapes), ())), torch.nan)
    for row, item in zip(rows, each, strict=True):
        row[: len(item)] = item[:steps]
    return rows
