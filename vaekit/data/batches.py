"""What training and evaluation ask of data: batches, whether of examples held whole or as a loader makes them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from vaekit.data.batch import Batch

EMPTY = "the dataset is empty: there is nothing to train on or to evaluate"


class Batches(ABC):
    """Batches of data, which are iterated over once in an epoch; a `Whole` or a `Stream`.

    Attributes:
        size: the number of examples in an epoch, or in this process's share of it where a loader gives a share; None where a
            loader does not know it.
        batch_size: the number of examples in a batch; None where a loader does not say.
        is_checked: whether all values have been checked (by `vaekit.inputs`); until then, those of a batch have to be when it
            comes.
        is_indexed: whether any example, and any batch of an epoch, can be asked for by its number, as often as one likes.
        can_resume: whether they can go on from the middle of an epoch.
        keeps_workers: whether processes that draw at random go on from epoch to epoch, with generators that nobody can reach.
        why_not_compared: why the `fingerprint` says nothing of the examples' values, in words; "" where it does.
    """

    size: int | None
    batch_size: int | None
    is_checked: bool
    is_indexed: bool
    can_resume: bool
    keeps_workers: bool
    why_not_compared: str

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]: ...

    @property
    @abstractmethod
    def length(self) -> int | None:
        """The number of batches in an epoch; None where a loader does not know it."""

    @property
    @abstractmethod
    def smallest(self) -> int | None:
        """The number of examples in the smallest batch, where that is known."""

    @abstractmethod
    def one(self) -> Batch:
        """A batch of one example, where `smallest` is known."""

    @abstractmethod
    def some(self, count: int) -> Batch | None:
        """Up to so many examples, spread over all; None of a loader, which may give its batches only once."""

    @abstractmethod
    def numbers(self, index: Tensor) -> Tensor | None:
        """The numbers of the examples at `index` int64 [B] in the file or array they came from, where they have any."""

    @abstractmethod
    def fingerprint(self, is_first: bool = True) -> dict[str, Any]:
        """Plain data that are the same for the same data; see `vaekit.data.differences`.

        Args:
            is_first: whether this is the first process of a run. Another's loader may have examples of its own: only their number
                is compared, and their values are not read.
        """

    @abstractmethod
    def all_checked(self) -> None:
        """Note that all values have been checked once, which a loader's have to be each time."""
