"""Batches of whole examples and of loaders."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, IterableDataset, TensorDataset

import vaekit
from vaekit.data import Batch, Examples, MappedArray, Stream, Whole, as_batches, share

sizes = st.tuples(st.integers(1, 20), st.integers(1, 25))  # examples, batch_size: also more than there are


def whole(count):
    """`count` examples that hold their own number."""
    return Examples(torch.arange(float(count))[:, None])


@given(sizes, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_every_example_comes_exactly_once_in_the_order_asked_for(size, shuffled, is_mapped, random):
    count, batch_size = size
    data = Examples(MappedArray(np.arange(float(count))[:, None])) if is_mapped else whole(count)
    order = random.sample(range(count), count) if shuffled else list(range(count))
    batches = list(as_batches(data, batch_size).in_order(torch.tensor(order) if shuffled else None))
    assert torch.cat([b.x for b in batches])[:, 0].tolist() == order
    assert torch.cat([b.index for b in batches]).tolist() == order


@given(sizes)
def test_all_batches_are_full_but_the_last(size):
    count, batch_size = size
    batches = as_batches(whole(count), batch_size)
    lengths = [len(b.x) for b in batches]
    assert lengths == [min(batch_size, count - start) for start in range(0, count, batch_size)]
    assert (batches.size, len(lengths)) == (count, math.ceil(count / batch_size))


def test_batches_can_be_gone_through_again():
    batches = as_batches(whole(5), 2)
    assert [b.x.tolist() for b in batches] == [b.x.tolist() for b in batches]


@pytest.mark.parametrize(
    "data",
    [torch.arange(6.0).reshape(3, 2), np.arange(6).reshape(3, 2), (torch.arange(6.0).reshape(3, 2), torch.arange(3))],
    ids=["tensor", "array", "pair"],
)
def test_tensors_arrays_and_pairs_are_whole_examples(data):
    batches = as_batches(data, 2)
    assert isinstance(batches, Whole)
    assert (len(batches.examples), batches.size) == (3, 3)
    assert [b.x.tolist() for b in batches] == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]]]


# Of several processes, and from the middle on

counts = st.integers(1, 20)
worlds = st.integers(1, 6)


@given(st.integers(0, 20), worlds)
def test_shares_are_the_whole_in_order_and_differ_by_at_most_one_row(count, world):
    rows = [list(range(count))[share(count, rank, world)] for rank in range(world)]
    assert [row for part in rows for row in part] == list(range(count))
    lengths = [len(part) for part in rows]
    assert lengths == sorted(lengths, reverse=True)
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_that_there_is_not_is_refused(rank, world):
    with pytest.raises(ValueError, match=f"got {rank}"):
        share(5, rank, world)
    with pytest.raises(ValueError, match=f"got {rank}"):
        as_batches(whole(5), 2).in_order(None, rank=rank, world=world)


@given(sizes, worlds, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_the_ranks_shares_together_are_the_global_batches(size, world, shuffled, is_mapped, random):
    count, batch_size = size
    x = np.arange(float(count))[:, None]
    examples = Examples(MappedArray(x) if is_mapped else torch.from_numpy(x), torch.arange(count) + 100)
    batches = Whole(examples, batch_size, conditional=True)
    order = torch.tensor(random.sample(range(count), count)) if shuffled else None
    of_ranks = [list(batches.in_order(order, rank=rank, world=world)) for rank in range(world)]
    for batch, *parts in zip(batches.in_order(order), *of_ranks, strict=True):
        for name in ("x", "condition", "index"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


@given(sizes, worlds, st.booleans(), st.data())
def test_from_batch_k_on_come_the_last_batches(size, world, shuffled, data):
    count, batch_size = size
    batches, rank = as_batches(whole(count), batch_size), data.draw(st.integers(0, world - 1))
    order = torch.tensor(data.draw(st.permutations(range(count)))) if shuffled else None
    everything = [b.index.tolist() for b in batches.in_order(order, rank=rank, world=world)]
    start = data.draw(st.integers(0, len(everything) + 1))
    assert [b.index.tolist() for b in batches.in_order(order, start, rank, world)] == everything[start:]


@pytest.mark.parametrize("start", [-1, 0.5])
def test_a_first_batch_that_there_is_not_is_refused(start):
    with pytest.raises(ValueError, match="start"):
        as_batches(whole(5), 2).in_order(None, start)


def test_an_order_of_other_examples_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\).*got \(4,\)"):
        as_batches(whole(5), 2).in_order(torch.arange(4))


def test_examples_keep_their_numbers():
    batches = as_batches(Examples(torch.zeros(3, 1), rows=torch.tensor([7, 1, 4])), 2)
    assert batches.numbers(torch.tensor([2, 0])).tolist() == [4, 7]


# Streams

ITEMS = {
    "x": lambda x: x,
    "(x,)": lambda x: (x,),
    "(x, y)": lambda x: (x, torch.zeros(len(x))),
    "[x, y]": lambda x: [x, torch.zeros(len(x))],
    "{x}": lambda x: {"label": torch.zeros(len(x)), "x": x},
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_a_loader_is_taken_as_it_is(item):
    xs = [torch.rand(2, 3), torch.rand(2, 3), torch.rand(1, 3)]
    batches = as_batches([item(x) for x in xs], 64)
    found = list(batches)
    assert all(b.x is x for b, x in zip(found, xs, strict=True))
    assert all(b.index is None for b in found)
    assert isinstance(batches, Stream)
    assert batches.size is None


def test_a_loader_of_torch_keeps_its_batch_size_and_says_how_many_examples_it_has():
    batches = as_batches(DataLoader(TensorDataset(torch.arange(5.0)[:, None], torch.zeros(5)), batch_size=2), 64)
    assert [b.x.flatten().tolist() for b in batches] == [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert batches.size == 5


class Numbers(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(5.0)[:, None])


def test_a_stream_has_no_size_and_still_gives_its_batches():
    batches = as_batches(DataLoader(Numbers(), batch_size=2), 64)
    assert batches.size is None
    assert [len(b.x) for b in batches] == [2, 2, 1]
    assert [len(b.x) for b in as_batches((torch.zeros(n, 1) for n in (3, 1)), 64)] == [3, 1]


@pytest.mark.parametrize(
    "data",
    [torch.zeros(0, 3), np.zeros((0, 3)), (torch.zeros(0, 3), []), [], DataLoader(TensorDataset(torch.zeros(0, 3)))],
    ids=["tensor", "array", "pair", "list", "loader"],
)
def test_an_empty_dataset_is_refused(data):
    with pytest.raises(ValueError, match="the dataset is empty"):
        as_batches(data, 2)


@pytest.mark.parametrize("item", [{"image": torch.zeros(2, 3), "label": torch.zeros(2)}, b"text", None, (3, 4), ()])
def test_a_batch_that_is_no_tensor_is_refused_with_what_it_should_be(item):
    with pytest.raises((TypeError, ValueError), match=r'needs the key "x", it has: image, label|a loader has to give x, '):
        list(as_batches([item], 2))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_size_is_a_whole_number_of_at_least_1(batch_size):
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        as_batches(whole(5), batch_size)


def test_a_dataset_without_a_length_is_refused_with_the_advice_to_make_a_loader():
    class Endless(Dataset):
        def __getitem__(self, row):
            return torch.zeros(3)

    with pytest.raises(TypeError, match="DataLoader"):
        as_batches(Endless(), 2)


def test_a_name_and_a_mapping_are_not_taken_for_loaders():
    with pytest.raises(TypeError, match="got dict"):
        as_batches({"x": torch.zeros(5, 3)}, 2)
    with pytest.raises(vaekit.UnknownNameError, match="'mnist55k' is neither a dataset"):
        as_batches("mnist55k", 2)


def test_a_loader_may_give_batches_as_they_are():
    made = Batch(torch.rand(2, 3), torch.arange(2))
    (batch,) = Stream([made], conditional=True)
    assert batch.x is made.x
    assert batch.condition is made.condition
    with pytest.raises(TypeError, match="conditional"):
        list(Stream([Batch(torch.rand(2, 3))], conditional=True))


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_loaders_batch_needs_a_batch_dimension(shape):
    with pytest.raises(ValueError, match=r"\[batch, \.\.\.\]"):
        list(Stream([torch.rand(shape)]))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_arrays_of_a_loader_become_tensors(dtype):
    x, y = np.arange(6, dtype=dtype).reshape(3, 2), np.arange(3, dtype="u1")
    (batch,) = Stream([(x, y)], conditional=True)
    assert (batch.x.dtype, batch.condition.dtype) == (torch.float32, torch.int64)
    assert (batch.x.tolist(), batch.condition.tolist()) == (x.tolist(), [0, 1, 2])
    x[:] = 0
    assert batch.x[2, 1] == 5
    (batch,) = Stream([(x, x)], conditional=True)
    assert batch.condition.dtype == torch.float32


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (np.zeros((2, 3), "u1"), r"uint8; x.astype\('float32'\) / 255"),
        (np.zeros((2, 3), "i8"), r"int64; x.astype\('float32'\) converts"),
        (np.zeros((2, 3), "c8"), "real numbers.*complex64"),
        (np.array([[None, 1]]), "real numbers.*object"),
        ((np.zeros((2, 3)), np.array(["a", "b"])), "real numbers.*<U1"),
    ],
)
def test_arrays_that_would_lose_their_meaning_are_refused(item, words):
    with pytest.raises(TypeError, match=words):
        list(Stream([item], conditional=isinstance(item, tuple)))


class InBatches(IterableDataset):
    def __iter__(self):
        yield from torch.arange(6.0).reshape(3, 2, 1)


def test_an_iterable_dataset_that_gives_batches_is_a_loader_and_one_that_does_not_is_refused():
    assert [len(batch.x) for batch in as_batches(InBatches(), 64)] == [2, 2, 2]
    with pytest.raises(ValueError, match=r"\[batch, \.\.\.\], got \(1,\); a torch.utils.data.DataLoader"):
        list(as_batches(Numbers(), 64))


# Streams, epoch by epoch


class Counter:
    """Gives 0, 1, 2, 3 in an epoch, and can go on from any place."""

    def __init__(self):
        self.next, self.epochs = 0, []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        while self.next < 4:
            self.next += 1
            yield torch.full((2, 1), self.next - 1.0)
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


def numbers_of(batches):
    return [int(batch.x[0, 0]) for batch in batches]


@pytest.mark.parametrize("taken", range(5))
def test_a_stream_goes_on_after_the_last_batch_that_was_handed_out(taken):
    stream = Stream(Counter())
    batches = stream.epoch(0)
    before = [int(next(batches).x[0, 0]) for _ in range(taken)]
    again = Stream(Counter())
    assert before + numbers_of(again.epoch(0, stream.state_dict())) == [0, 1, 2, 3]
    assert numbers_of(again.epoch(1)) == [0, 1, 2, 3]


def test_a_loader_without_a_state_starts_its_epoch_anew():
    stream = Stream([torch.zeros(2, 1)])
    assert not stream.can_resume
    for call in (stream.state_dict, lambda: stream.epoch(0, {"next": 1})):
        with pytest.raises(TypeError, match="a list has no state_dict.*StatefulDataLoader"):
            call()
    assert numbers_of(stream.epoch(0)) == [0]


def test_whoever_shuffles_by_epoch_is_told_the_epoch_once():
    loader = Counter()
    stream = Stream(loader)
    for epoch in (0, 1, 5):
        list(stream.epoch(epoch))
    assert loader.epochs == [0, 1, 5]


@pytest.mark.parametrize("wrapped", [False, True], ids=["sampler", "batch sampler"])
def test_every_rank_of_a_distributed_sampler_has_its_share_in_the_order_of_the_epoch(wrapped):
    dataset = TensorDataset(torch.arange(8.0)[:, None])

    def of(rank):
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=3)
        options = {"batch_sampler": BatchSampler(sampler, 2, False)} if wrapped else {"sampler": sampler, "batch_size": 2}
        return Stream(DataLoader(dataset, **options))

    orders = [[[row for b in of(rank).epoch(epoch) for row in b.x[:, 0].tolist()] for rank in range(2)] for epoch in (0, 1)]
    for first, second in orders:
        assert sorted(first + second) == list(range(8))
    assert orders[0] != orders[1]
    assert of(0).size == 4


# One batch


def test_rows_of_a_batch_and_a_batch_without_rows():
    batch = Batch(torch.arange(10.0).reshape(5, 2), torch.arange(5), torch.arange(5) + 7)
    part = batch.rows(share(5, 1, 2))
    assert (part.x.tolist(), part.condition.tolist(), part.index.tolist()) == ([[6.0, 7.0], [8.0, 9.0]], [3, 4], [10, 11])
    assert part.x.data_ptr() == batch.x[3].data_ptr()
    nothing = Batch(batch.x).rows(slice(0, 0))
    assert (nothing.x.shape, nothing.x.dtype, nothing.condition, nothing.index) == ((0, 2), torch.float32, None, None)


def test_a_batch_goes_to_another_device_with_all_it_has():
    batch = Batch(torch.zeros(2, 3), torch.zeros(2), torch.arange(2)).to(torch.device("meta"))
    assert [value.device.type for value in (batch.x, batch.condition, batch.index)] == ["meta"] * 3
    alone = Batch(torch.zeros(2, 3)).to(torch.device("meta"))
    assert (alone.x.device.type, alone.condition, alone.index) == ("meta", None, None)


def test_a_batch_cannot_be_changed():
    with pytest.raises(AttributeError):
        Batch(torch.zeros(2, 3)).x = torch.zeros(1, 3)


@pytest.mark.compile
def test_a_compiled_function_takes_and_makes_batches_in_one_graph():
    step = torch.compile(lambda batch: Batch(2 * batch.x, batch.condition, batch.index), backend="aot_eager", fullgraph=True)
    doubled = step(Batch(torch.ones(2, 3), None, torch.arange(2)))
    assert (doubled.x == 2).all()
    assert (doubled.condition, doubled.index.tolist()) == (None, [0, 1])


def test_a_batch_is_the_same_class_everywhere():
    assert vaekit.Batch is vaekit.losses.Batch is Batch
