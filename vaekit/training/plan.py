"""What each step of a run sees: which examples, in which order, with which noise.

All of it is a function of the seed and the step: no generator is carried along, so that any step can be taken again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vaekit.data import Batch, Stream, Whole
from vaekit.ops import philox, streams

_KEYS_AT_ONCE = 256


@dataclass(frozen=True)
class Step:
    """What one optimizer step sees.

    Attributes:
        number: 0, 1, ... over the whole run.
        batch: the examples, where the data has them.
        key: int64 [2], the noise, on the device.
        is_checked: whether the values of the batch have been checked before the run.
    """

    number: int
    batch: Batch
    key: Tensor
    is_checked: bool


class Plan:
    """The steps of a run.

    The key of step n is fold_in(noise key, n). Whole examples come in the order of torch.randperm under a seed that is the first
    word of fold_in(order key, epoch); a stream gives what it gives. Both keys are derived from make_key(seed), as
    `vaekit.ops.streams.Run` says.

    Args:
        batches: the training data.
        seed: of the run.
        device: where keys are made.
    """

    def __init__(self, batches: Whole | Stream, seed: int, device: torch.device) -> None:
        self.batches = batches
        run = philox.make_key(seed)
        self._order_key = philox.fold_in(run, streams.Run.ORDER)
        self._noise_key = philox.fold_in(run, streams.Run.STEPS).to(device)

    @property
    def size(self) -> int | None:
        """The number of examples in an epoch; None where a loader does not know it."""
        return self.batches.size

    @property
    def steps_per_epoch(self) -> int | None:
        """None for a loader, which may change its mind."""
        return -(-self.batches.size // self.batches.batch_size) if isinstance(self.batches, Whole) else None

    def order(self, epoch: int) -> Tensor:
        """The rows of the examples, int64 [N], in the order in which they come in an epoch."""
        assert isinstance(self.batches, Whole)
        generator = torch.Generator().manual_seed(int(philox.fold_in(self._order_key, epoch)[0]))
        return torch.randperm(self.batches.size, generator=generator)

    def steps(self, epoch: int, first: int) -> Iterator[Step]:
        """The steps of an epoch, of which the first is step `first` of the run."""
        is_whole = isinstance(self.batches, Whole)
        batches: Iterable[Batch] = self.batches.in_order(self.order(epoch)) if isinstance(self.batches, Whole) else self.batches
        for number, (batch, key) in enumerate(zip(batches, self._keys(first), strict=False), start=first):
            yield Step(number, batch, key, is_checked=is_whole)

    def _keys(self, step: int) -> Iterator[Tensor]:
        """The keys from `step` on, made many at a time, on the device."""
        while True:
            numbers = torch.arange(step, step + _KEYS_AT_ONCE, device=self._noise_key.device)
            yield from philox.fold_in(self._noise_key, numbers).unbind(0)
            step += _KEYS_AT_ONCE
