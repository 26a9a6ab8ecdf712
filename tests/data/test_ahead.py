"""What is fetched ahead: the same items, errors in the same place, and sources that are closed."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaekit.data import Batch, Examples, MappedArray, Stream, Whole, moved
from vaekit.data.ahead import read_ahead

CPU = torch.device("cpu")


class Source:
    """Gives 0, 1, ... below `count`, or fails in place of number `fails`; notes what was asked of it."""

    def __init__(self, count, fails=None, make=lambda number: number):
        self.count, self.fails, self.make = count, fails, make
        self.asked, self.closed, self.threads = 0, 0, set()

    def __iter__(self):
        self.items = self.generate()  # kept here, lest it is closed by being forgotten
        return self.items

    def generate(self):
        try:
            for number in range(self.count):
                self.asked += 1
                self.threads.add(threading.get_ident())
                if number == self.fails:
                    raise OSError(f"number {number}")
                yield self.make(number)
        finally:
            self.closed += 1


class Recorded:
    """A transfer that notes when it begins and ends with each batch; may fail with one of them."""

    def __init__(self, fails=None):
        self.events, self.fails = [], fails

    def begin(self, batch):
        number = int(batch.x[0, 0])
        if number == self.fails:
            raise MemoryError(f"number {number}")
        self.events.append(("begin", number))
        return batch

    def end(self, begun):
        self.events.append(("end", int(begun.x[0, 0])))
        return begun


def batch_of(number):
    return Batch(torch.full((2, 1), float(number)))


def in_a_thread(source):
    return read_ahead(source)


def to_a_device(source):
    source.make = batch_of
    return (int(batch.x[0, 0]) for batch in moved(source, CPU, transfer=Recorded()))


def without_looking_ahead(source):
    source.make = batch_of
    return (int(batch.x[0, 0]) for batch in moved(source, CPU, transfer=Recorded(), ahead=False))


def to_the_cpu(source):
    source.make = batch_of
    return (int(batch.x[0, 0]) for batch in moved(source, CPU))


WAYS = [in_a_thread, to_a_device, without_looking_ahead, to_the_cpu]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@ways
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_all_items_come_once_and_in_order_and_the_source_is_closed(way, count):
    source = Source(count)
    assert list(way(source)) == list(range(count))
    assert (source.asked, source.closed) == (count, 1)


@ways
@pytest.mark.parametrize("fails", [0, 1, 4])
def test_an_error_comes_after_the_items_before_it(way, fails):
    source, taken = Source(5, fails), []
    with pytest.raises(OSError, match=f"number {fails}"):
        taken.extend(way(source))
    assert taken == list(range(fails))
    assert source.closed == 1


@ways
@pytest.mark.parametrize("taken", [1, 2, 5])
def test_a_consumer_that_stops_early_closes_the_source(way, taken):
    source = Source(5)
    items = way(source)
    assert [next(items) for _ in range(taken)] == list(range(taken))
    items.close()
    assert source.closed == 1
    assert source.asked <= min(taken + 1, 5)
    assert not any(thread.name.startswith("vaekit") for thread in threading.enumerate())


@pytest.mark.parametrize("way", [in_a_thread, to_a_device], ids=lambda way: way.__name__)
def test_one_item_is_fetched_ahead_and_no_more(way):
    source = Source(5)
    items = way(source)
    assert source.asked == 0
    for number in range(5):
        assert next(items) == number
    items = way(source := Source(5))
    next(items)
    items.close()  # waits for what is under way
    assert source.asked == 2


@pytest.mark.parametrize("way", [without_looking_ahead, to_the_cpu], ids=lambda way: way.__name__)
def test_nothing_is_fetched_ahead_otherwise(way):
    source = Source(5)
    for number, item in enumerate(way(source)):
        assert (item, source.asked) == (number, number + 1)


def test_a_reading_thread_reads_and_nobody_else_does():
    source = Source(5)
    list(read_ahead(source))
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


@pytest.mark.parametrize("ahead", [False, True])
def test_a_copy_begins_before_the_batch_before_it_is_handed_out(ahead):
    transfer, source = Recorded(), Source(3, make=batch_of)
    for batch in moved(source, CPU, ahead=ahead, transfer=transfer):
        transfer.events.append(("used", int(batch.x[0, 0])))
    steps = [[(what, number) for what in ("begin", "end", "used")] for number in range(3)]
    if not ahead:
        assert transfer.events == steps[0] + steps[1] + steps[2]
    else:
        zero, one, two = steps
        assert transfer.events == [zero[0], one[0], *zero[1:], two[0], *one[1:], *two[1:]]


def test_a_copy_that_fails_fails_in_its_place():
    batches = moved(Source(5, make=batch_of), CPU, transfer=Recorded(fails=2))
    assert [int(next(batches).x[0, 0]) for _ in range(2)] == [0, 1]
    with pytest.raises(MemoryError, match="number 2"):
        next(batches)


def test_batches_go_to_the_device_with_all_they_have():
    (batch,) = moved([Batch(torch.zeros(2, 3), torch.zeros(2), torch.arange(2))], torch.device("meta"))
    assert [value.device.type for value in (batch.x, batch.condition, batch.index)] == ["meta"] * 3


class Portion(NamedTuple):
    number: int
    batch: Batch


@pytest.mark.parametrize("transfer", [None, Recorded()], ids=["to", "transfer"])
def test_of_a_named_tuple_the_batch_is_moved_and_the_rest_stays(transfer):
    device = CPU if transfer else torch.device("meta")
    portions = list(moved([Portion(number, batch_of(number)) for number in range(3)], device, transfer=transfer))
    assert [type(portion) for portion in portions] == [Portion] * 3
    assert [portion.number for portion in portions] == [0, 1, 2]
    assert [portion.batch.x.device.type for portion in portions] == [device.type] * 3


def test_a_copy_is_waited_for_by_what_uses_it_and_by_nothing_else(monkeypatch):
    """The calls of the transfer to a GPU, with stand-ins for what torch does there."""
    calls, current = [], ["main"]

    class Stream:
        def record_event(self):
            calls.append("copies are recorded")
            return "event"

    class User:
        def wait_event(self, event):
            calls.append(f"main waits for {event}")

    @contextmanager
    def on_stream(stream):
        assert isinstance(stream, Stream)
        current.append("side")
        yield
        current.pop()

    to = torch.Tensor.to
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: User())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append(f"{tuple(self.shape)} is pinned") or self.clone())
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda self, device, non_blocking: (
            calls.append(f"{tuple(self.shape)} is copied on {current[-1]}, {non_blocking}") or to(self, CPU, copy=True)
        ),
    )
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, user: calls.append(f"{tuple(self.shape)} is kept for main"))
    batch = Batch(torch.ones(4, 3), None, torch.arange(4))
    (copy,) = moved([batch], torch.device("cuda"), ahead=False)
    assert torch.equal(copy.x, batch.x)
    assert torch.equal(copy.index, batch.index)
    assert calls == [
        *("(4,) is pinned", "(4,) is copied on side, True", "(4, 3) is pinned", "(4, 3) is copied on side, True"),
        *("copies are recorded", "main waits for event", "(4, 3) is kept for main", "(4,) is kept for main"),
    ]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no GPU here")
@pytest.mark.parametrize("ahead", [False, True])
def test_batches_arrive_on_a_gpu_as_they_were_while_it_is_busy(ahead):
    device, seen = torch.device("cuda"), []
    busy = torch.rand(2000, 2000, device=device)
    batches = [Batch(torch.full((1000, 500), float(number)), None, torch.full((1000,), number)) for number in range(40)]
    for batch in moved(batches, device, ahead=ahead):
        for _ in range(10):
            busy = (busy @ busy).softmax(1)
        seen.append(torch.stack([batch.x.amin(), batch.x.amax(), batch.index.float().amin(), batch.index.float().amax()]))
        del batch  # its memory is the next one's, unless it is still in use
    assert torch.stack(seen).tolist() == [[float(number)] * 4 for number in range(40)]


# What uses it


READERS = set()


class Watched(np.ndarray):
    """An array that notes which threads read it."""

    def __getitem__(self, index):
        READERS.add(threading.get_ident())
        return np.asarray(self)[index]


def test_examples_on_disk_are_read_by_a_thread_and_those_in_memory_by_none():
    READERS.clear()
    x = np.arange(10.0).reshape(5, 2)
    on_disk = list(Whole(Examples(MappedArray(x.view(Watched))), 2).in_order(torch.tensor([3, 1, 4, 0, 2])))
    assert READERS
    assert threading.get_ident() not in READERS
    started = []
    threading.setprofile(lambda *_: started.append(1))
    try:
        in_memory = list(Whole(Examples(torch.from_numpy(x)), 2).in_order(torch.tensor([3, 1, 4, 0, 2])))
    finally:
        threading.setprofile(None)
    assert not started
    assert [batch.index.tolist() for batch in on_disk] == [batch.index.tolist() for batch in in_memory]
    assert [batch.x.tolist() for batch in on_disk] == [batch.x.tolist() for batch in in_memory]


@given(st.integers(0, 4), st.integers(1, 3))
def test_a_stream_that_can_be_resumed_is_where_its_last_batch_was_when_nothing_is_fetched_ahead(taken, batch_size):
    class Loader:
        def __init__(self):
            self.next = 0

        def __iter__(self):
            while self.next < 4:
                self.next += 1
                yield torch.full((batch_size, 1), float(self.next - 1))

        def state_dict(self):
            return self.next

        def load_state_dict(self, state):
            self.next = state

    stream = Stream(Loader())
    batches = moved(stream.epoch(0), CPU, ahead=not stream.can_resume, transfer=Recorded())
    before = [int(next(batches).x[0, 0]) for _ in range(taken)]
    state = stream.state_dict()
    assert before + [int(batch.x[0, 0]) for batch in Stream(Loader()).epoch(0, state)] == [0, 1, 2, 3]
