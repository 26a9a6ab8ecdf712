"""The one place where a process sees what other processes hold.

A run of several processes divides every batch among them: process `rank` of `world` holds `counts[rank]` consecutive rows. What
depends on a whole batch, an objective that compares examples or batch normalisation, asks for it here. Outside of the steps and
validations of such a run every batch is held by one process, whether or not `torch.distributed` is initialised.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from vaekit.ops.applied import applied
from vaekit.ops.dispatch import uncompiled

_HEAD = 128  # bytes of a message that are sent at once; most messages are shorter


class Shares(NamedTuple):
    """How the rows of a batch are divided among processes.

    Attributes:
        rank: this process.
        counts: how many rows each process has.
        group: of the processes; None for all.
    """

    rank: int
    counts: tuple[int, ...]
    group: Any = None


# .shares of the batch that this thread is looking at; not a ContextVar, which torch.compile cannot read.
_held = threading.local()


def shares() -> Shares | None:
    """How the batch at hand is divided among processes; None where this process has all of it."""
    held: Shares | None = getattr(_held, "shares", None)
    return held


def gathered(rows: Tensor) -> Tensor:
    """The rows that all processes hold, in the order of the whole batch: [B, ...] of this one -> [B of all, ...].

    An objective that compares examples (`Loss.compares_examples`) takes its rows through here before it does, and draws noise for
    them beforehand, row by row; so its value is that of the whole batch, however the batch is split. Every process has to call
    it as often, with rows of the same shape and dtype otherwise.

    The gradient is that of the sum of all processes' objectives, in which each weighs its mean by its share of the rows. It has
    no second derivatives. `torch.compile` breaks its graph here, in a run of several processes.

    Raises:
        ValueError: in a run of several processes, another number of rows than this one has of the batch.

    Example:
        >>> import torch
        >>> gathered(torch.zeros(3, 2)).shape
        torch.Size([3, 2])
    """
    held = shares()
    return rows if held is None else _gathered(rows, held)


def summed(value: Tensor) -> Tensor:
    """The sum of what all processes hold, of one shape: of sums over the rows of each, with a gradient as that of `gathered`.

    Example:
        >>> import torch
        >>> summed(torch.ones(3, 2).sum(0))
        tensor([3., 3.])
    """
    held = shares()
    return value if held is None else _summed(value, held)


def rows_of_all(own: int) -> int:
    """The number of rows in the batch of which this process holds `own`.

    Example:
        >>> rows_of_all(3)
        3
    """
    held = shares()
    return own if held is None else sum(held.counts)


def first_row() -> int:
    """Where this process's rows begin in the batch at hand.

    Example:
        >>> first_row()
        0
    """
    held = shares()
    return 0 if held is None else sum(held.counts[: held.rank])


class Ranks:
    """The processes of a run.

    Args:
        rank: this process.
        world: how many there are.
        control: a group of them for plain data, on the CPU; None for all, if these communicate on the CPU.

    Example:
        >>> alone = Ranks()
        >>> alone.gather({"stop": False})
        [{'stop': False}]
    """

    def __init__(self, rank: int = 0, world: int = 1, control: Any = None) -> None:
        self.rank, self.world, self._control = rank, world, control

    @contextmanager
    def holding(self, counts: Sequence[int]) -> Iterator[None]:
        """The batch at hand is divided among the processes: each has so many rows of it; one number, and this one has it all."""
        before = shares()
        _held.shares = Shares(self.rank, tuple(counts)) if len(counts) > 1 else None
        try:
            yield
        finally:
            _held.shares = before

    def add_up(self, value: Tensor) -> None:
        """Replace a tensor by the sum over the processes; on a GPU nothing waits for it."""
        if self.world > 1:
            distributed.all_reduce(value)

    def gather(self, value: Any) -> list[Any]:
        """The plain data, such as JSON holds, that each process gives, by rank."""
        if self.world == 1:
            return [value]
        text = json.dumps(value).encode()
        heads = self._gather_bytes(len(text).to_bytes(8, "little") + text[:_HEAD], 8 + _HEAD)
        sizes = [int.from_bytes(head[:8], "little") for head in heads]
        texts = [head[8:] for head in heads]
        if max(sizes) > _HEAD:
            rest = self._gather_bytes(text[_HEAD:], max(sizes) - _HEAD)
            texts = [first + more for first, more in zip(texts, rest, strict=True)]
        return [json.loads(text[:size]) for text, size in zip(texts, sizes, strict=True)]

    def _gather_bytes(self, text: bytes, size: int) -> list[bytes]:
        own = torch.frombuffer(bytearray(text.ljust(size)), dtype=torch.uint8)
        each = [torch.empty_like(own) for _ in range(self.world)]
        distributed.all_gather(each, own, group=self._control)
        return [bytes(one.numpy()) for one in each]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, held: Shares) -> Tensor:
        ctx.held = held
        padded = rows.new_zeros(max(held.counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        each = [torch.empty_like(padded) for _ in held.counts]
        distributed.all_gather(each, padded, group=held.group)
        return torch.cat([one[:count] for one, count in zip(each, held.counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        held = ctx.held
        start = sum(held.counts[: held.rank])
        return _all_reduced(gradient, held)[start : start + held.counts[held.rank]], None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, held: Shares) -> Tensor:
        ctx.held = held
        return _all_reduced(value, held)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _all_reduced(gradient, ctx.held), None


def _gathered_eagerly(rows: Tensor, held: Shares) -> Tensor:
    own = held.counts[held.rank]
    if len(rows) != own:
        raise ValueError(f"gathered takes a row for each example, of which this process has {own}, got {len(rows)} rows")
    return applied(_Gathered, rows, held) if sum(held.counts) else rows


def _summed_eagerly(value: Tensor, held: Shares) -> Tensor:
    return applied(_Summed, value, held)


_gathered: Callable[[Tensor, Shares], Tensor] = uncompiled(_gathered_eagerly)
_summed: Callable[[Tensor, Shares], Tensor] = uncompiled(_summed_eagerly)


def _all_reduced(value: Tensor, held: Shares) -> Tensor:
    """The sum over the processes, of half precision in single precision."""
    dtype = torch.promote_types(value.dtype, torch.float32) if value.is_floating_point() else value.dtype
    total = value.detach().to(dtype, copy=True).contiguous()
    distributed.all_reduce(total, group=held.group)
    return total.to(value.dtype)
