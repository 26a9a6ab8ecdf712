"""Batches that are on their way before they are asked for: read from disk by a thread, or copied to a GPU beside its work.

What is fetched early changes nothing else: items come in their order, an error comes in the place of the item that failed, and a
consumer that stops early closes the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from vaekit.data.batch import Batch

T = TypeVar("T")
_END: Any = object()


def read_ahead(source: Iterable[T]) -> Iterator[T]:
    """The items of a source, the next of which a thread fetches while the present one is used.

    Example:
        >>> list(read_ahead([1, 2, 3]))
        [1, 2, 3]
    """
    return _one_ahead(source, ThreadPoolExecutor(1, thread_name_prefix="vaekit-read-ahead"))


class Transfer(Protocol):
    """How batches get to a device, in two halves between which the device works on something else."""

    def begin(self, batch: Batch) -> Any:
        """Start to copy a batch; does not wait."""

    def end(self, begun: Any) -> Batch:
        """The batch, to be used by what the device is asked to do from here on."""


def moved(items: Iterable[T], device: torch.device, *, ahead: bool = True, transfer: Transfer | None = None) -> Iterator[T]:
    """Batches on a device. To a CUDA device they are copied from pinned memory, beside the work that it is doing.

    Args:
        items: batches, on any device, or named tuples that have one as their `batch`, which alone is moved.
        device: where they go.
        ahead: fetch the next batch, and begin to copy it, before the present one is handed out. Without it the copy still runs
            beside the work that the device has been asked to do before. Has to be False for a `Stream` that `can_resume`, whose
            state would be a batch ahead.
        transfer: how they get there; by default as said above for a CUDA device, and by `Batch.to`, without fetching ahead, for
            others.

    Example:
        >>> [batch.x.device.type for batch in moved([Batch(torch.rand(2, 3))], torch.device("cpu"))]
        ['cpu']
    """
    if transfer is None:
        if device.type != "cuda":
            return _each(items, lambda item: _with_batch(item, _batch_of(item).to(device)))
        transfer = _Pinned(device)
    begun = _each(items, lambda item: (item, transfer.begin(_batch_of(item))))
    return _each(_one_ahead(begun, _AtOnce()) if ahead else begun, lambda pair: _with_batch(pair[0], transfer.end(pair[1])))


def _batch_of(item: Any) -> Batch:
    batch: Batch = item if isinstance(item, Batch) else item.batch
    return batch


def _with_batch(item: Any, batch: Batch) -> Any:
    return batch if isinstance(item, Batch) else item._replace(batch=batch)


class _Pinned:
    """Copies from pinned memory, on a CUDA stream of their own.

    Pinned memory and the memory of the copies go back to torch's caching allocators, which know from events and `record_stream`
    when the copy and its users are done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def begin(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        copy = batch.each(self._copied)
        return copy, self._stream.record_event()

    def end(self, begun: tuple[Batch, torch.cuda.Event]) -> Batch:
        copy, event = begun
        user = torch.cuda.current_stream(self._device)
        user.wait_event(event)
        for value in (copy.x, copy.condition, copy.index):
            if value is not None:
                value.record_stream(user)
        return copy

    def _copied(self, value: Tensor) -> Tensor:
        if not value.is_cpu:  # and is perhaps still being computed by another stream
            return value.to(self._device, non_blocking=True)
        with torch.cuda.stream(self._stream):
            return value.pin_memory().to(self._device, non_blocking=True)


class _AtOnce(Executor):
    """Does what it is asked for in the calling thread, and keeps an error for whoever asks for the result."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def _one_ahead(source: Iterable[T], fetcher: Executor) -> Iterator[T]:
    items = iter(source)
    try:
        with fetcher:  # leaving it waits for the item that is being fetched
            following = fetcher.submit(next, items, _END)
            while (item := following.result()) is not _END:
                following = fetcher.submit(next, items, _END)
                yield item
    finally:
        _close(items)


def _each(source: Iterable[Any], change: Callable[[Any], T]) -> Iterator[T]:
    items = iter(source)
    try:
        for item in items:
            yield change(item)
    finally:
        _close(items)


def _close(items: Any) -> None:
    if callable(close := getattr(items, "close", None)):
        close()
