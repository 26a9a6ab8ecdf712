"""A batch of examples: what a model and its objective see in one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B examples.

    Attributes:
        x: [B, *input_shape], NaN where a value is missing.
        condition: a conditional model's condition for each example, [B] or [B, K]; None for other models.
        index: int64 [B], each example's row in its dataset; None where the dataset has no rows, such as a stream.

    Example:
        >>> batch = Batch(torch.rand(2, 3))
        >>> batch.x.shape, batch.condition
        (torch.Size([2, 3]), None)
    """

    x: Tensor
    condition: Tensor | None = None
    index: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        condition, index = (
            None if value is None else value.to(device, non_blocking=True) for value in (self.condition, self.index)
        )
        return Batch(self.x.to(device, non_blocking=True), condition, index)
