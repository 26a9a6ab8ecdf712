"""Batches of examples held whole, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vaekit.checks import checked_size
from vaekit.data.ahead import read_ahead
from vaekit.data.batch import Batch
from vaekit.data.batches import EMPTY, Batches
from vaekit.data.examples import Examples
from vaekit.data.fingerprint import fingerprint_of
from vaekit.data.sharding import share


class Whole(Batches):
    """Batches of examples held whole, which can be taken in any order and any number of times.

    Of examples on disk, the next batch is read by a thread while the present one is used.

    Args:
        examples: at least one.
        batch_size: the number of examples in a batch, over all processes; the last batch may have fewer.
        conditional: whether a batch carries its condition too, the examples' y.

    Attributes:
        examples: the examples.
        size: the number of examples.
        batch_size: the number of examples in a batch.

    Raises:
        ValueError: no examples; a batch_size below 1.

    Example:
        >>> from vaekit.data import as_examples
        >>> whole = Whole(as_examples(torch.arange(5.0)[:, None]), batch_size=2)
        >>> [batch.x.flatten().tolist() for batch in whole.in_order(torch.tensor([4, 2, 0, 1, 3]), start=1)]
        [[0.0, 1.0], [3.0]]
    """

    size: int
    batch_size: int
    is_indexed = can_resume = True
    keeps_workers = False
    why_not_compared = ""

    def __init__(self, examples: Examples, batch_size: int, conditional: bool = False) -> None:
        self.examples, self.batch_size, self._conditional = examples, checked_size("batch_size", batch_size), conditional
        self.size = len(examples)
        self.is_checked = False
        if not self.size:
            raise ValueError(EMPTY)

    def __iter__(self) -> Iterator[Batch]:
        return self.in_order(None)

    def in_order(self, order: Tensor | None, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches from number `start` on.

        Args:
            order: int64 [N], the rows of the examples in the order they come in; None keeps their own order.
            start: the number of the first batch; the batches before it are skipped.
            rank: the process that asks. It gets its `share` of every batch, which may be empty.
            world: the number of processes.

        Raises:
            ValueError: an order of another length, a negative start, or an invalid rank.
        """
        if order is not None and order.shape != (self.size,):
            raise ValueError(f"order has to have the shape ({self.size},), one row for each example, got {tuple(order.shape)}")
        checked_size("start", start, least=0)
        share(0, rank, world)  # an invalid rank fails here, not at the first batch
        batches = self._in_order(order, start, rank, world)
        return batches if isinstance(self.examples.x, Tensor) else read_ahead(batches)

    @property
    def smallest(self) -> int:
        return smallest_of(self.size, self.batch_size)

    @property
    def length(self) -> int:
        return -(-self.size // self.batch_size)

    def one(self) -> Batch:
        return next(Whole(self.examples, 1, self._conditional)._in_order(None, 0, 0, 1))

    def _in_order(self, order: Tensor | None, start: int, rank: int, world: int) -> Iterator[Batch]:
        x, y = self.examples.x, self.examples.y if self._conditional else None
        for first in range(start * self.batch_size, self.size, self.batch_size):
            part = share(min(self.batch_size, self.size - first), rank, world)
            rows = slice(first + part.start, first + part.stop)
            if order is None:
                yield Batch(x[rows], None if y is None else y[rows], torch.arange(rows.start, rows.stop))
            else:
                yield self.at(order[rows])

    def at(self, index: Tensor) -> Batch:
        """The examples in these rows, int64 [B], as a batch."""
        x, y = self.examples.x, self.examples.y if self._conditional else None
        chosen = x.index_select(0, index.to(x.device)) if isinstance(x, Tensor) else x[index]
        return Batch(chosen, None if y is None else y[index.to(y.device)], index)

    def some(self, count: int) -> Batch:
        taken = min(self.size, count)
        return self.at(torch.arange(taken) * self.size // taken)

    def numbers(self, index: Tensor) -> Tensor:
        return self.examples.numbers(index)

    def fingerprint(self, is_first: bool = True) -> dict[str, Any]:
        return fingerprint_of(self.examples)

    def all_checked(self) -> None:
        self.is_checked = True


def smallest_of(size: int, batch_size: int) -> int:
    """The number of examples in the smallest batch, of so many examples."""
    return min(size, size % batch_size or batch_size)
