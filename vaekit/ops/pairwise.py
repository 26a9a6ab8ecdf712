"""Pairs of a batch, some rows at a time, so that [B, B, D] is never held, in forward or backward."""

from __future__ import annotations

import torch

_ELEMENTS_AT_ONCE = 1 << 20  # 4 MiB of float32, of which a few are needed at a time: they stay in the cache
_ELEMENTS_AT_ONCE_ON_AN_ACCELERATOR = 1 << 23  # fewer, longer kernels


def row_blocks(rows: int, elements_per_row: int, device: torch.device) -> list[slice]:
    """Blocks of as many rows as are computed at a time, one after the other.

    Example:
        >>> row_blocks(5, 1 << 19, torch.device("cpu"))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    at_once = _ELEMENTS_AT_ONCE if device.type == "cpu" else _ELEMENTS_AT_ONCE_ON_AN_ACCELERATOR
    step = max(1, at_once // max(1, elements_per_row))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
