"""A batch of examples: what a model and its objective see in one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.data.fingerprint import hash_of


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
        if self.x.device == device:  # where all of it is
            return self
        return self.each(lambda value: value.to(device, non_blocking=True))

    def rows(self, part: slice) -> Batch:
        """Some rows of the batch, which share its memory; slice(0, 0) is a batch without examples, of the same shape otherwise.

        Example:
            >>> batch = Batch(torch.zeros(5, 3))
            >>> batch.rows(slice(1, 3)).x.shape, batch.rows(slice(0, 0)).x.shape
            (torch.Size([2, 3]), torch.Size([0, 3]))
        """
        return self.each(lambda value: value[part])

    def digest(self) -> int:
        """A hash of the values, shapes and dtypes of x and of the condition that fits into int64; waits for the device.

        Example:
            >>> Batch(torch.zeros(2, 3)).digest() == Batch(torch.zeros(2, 3)).digest() != Batch(torch.ones(2, 3)).digest()
            True
        """
        values = [self.x] if self.condition is None else [self.x, self.condition]
        return int.from_bytes(hash_of(values, 8).digest(), "little", signed=True)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch after `change` of every tensor in it."""
        condition, index = (None if value is None else change(value) for value in (self.condition, self.index))
        return Batch(change(self.x), condition, index)
