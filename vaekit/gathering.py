"""The one place where an objective sees what other processes hold of a batch."""

from __future__ import annotations

from torch import Tensor


def gathered(rows: Tensor) -> Tensor:
    """The rows that all processes hold, in the order of the whole batch: [B, ...] of this one -> [B of all, ...].

    An objective that compares examples (`Loss.compares_examples`) takes its rows through here before it does, and draws noise for
    them beforehand, row by row; so its value is that of the whole batch, however the batch is split. A batch is held by one
    process as yet, and its rows are all there are.

    Example:
        >>> import torch
        >>> gathered(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """
    return rows
