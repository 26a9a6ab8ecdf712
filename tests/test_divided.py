"""Every example of a batch is one process's, whoever divides them. Here the processes are threads that exchange plain data."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from vaekit.data import Stream, as_batches, share
from vaekit.divided import portions_of_examples, portions_of_stream
from vaekit.gathering import Ranks

X = torch.arange(11.0)[:, None]


class Thread(Ranks):
    """One of several threads that are the processes of a run."""

    def __init__(self, rank, world, barrier, said):
        super().__init__(rank, world)
        self._barrier, self._said = barrier, said

    def gather(self, value):
        self._said[self.rank] = json.dumps(value)
        self._barrier.wait(timeout=20)
        each = [json.loads(text) for text in self._said]
        self._barrier.wait(timeout=20)
        return each


def in_threads(function, world):
    """What function(ranks) returned, or raised, for each rank."""
    barrier, said = threading.Barrier(world), [""] * world

    def call(rank):
        try:
            return function(Thread(rank, world, barrier, said))
        except ValueError as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(call, range(world)))


def portions(loader_of, world, epoch=0, conditional=False):
    """The portions of each rank of what loader_of(rank) gives."""
    return in_threads(
        lambda ranks: list(portions_of_stream(Stream(loader_of(ranks.rank), conditional).epoch(epoch), ranks)), world
    )


def rows(portion):
    return portion.batch.x[:, 0].tolist()


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [3, 5, 11, 20])
@pytest.mark.parametrize("start", [0, 2])
def test_whole_examples_are_divided_in_their_order(world, batch_size, start):
    order = torch.randperm(11)
    whole = as_batches(X, batch_size)
    each = [list(portions_of_examples(whole, Ranks(rank, world), order, start)) for rank in range(world)]
    batches = order.split(batch_size)[start:]
    assert {len(one) for one in each} == {len(batches)}
    for number, batch in enumerate(batches):
        of_ranks = [one[number] for one in each]
        assert [row for p in of_ranks for row in rows(p)] == X[batch, 0].tolist()
        assert {p.counts for p in of_ranks} == {tuple(len(rows(p)) for p in of_ranks)}
        assert [p.row_start for p in of_ranks] == [share(len(batch), rank, world).start for rank in range(world)]


@pytest.mark.parametrize("world", [2, 3])
def test_a_loader_that_gives_all_the_same_is_shared_out(world):
    each = portions(lambda rank: X.split(4), world)
    for number, batch in enumerate(X.split(4)):
        assert [row for one in each for row in rows(one[number])] == batch[:, 0].tolist()
        assert [one[number].row_start for one in each] == [share(len(batch), rank, world).start for rank in range(world)]
        assert all(one[number].is_shared_out for one in each)


@pytest.mark.parametrize("conditional", [False, True])
def test_shards_are_left_as_they_are_and_the_last_goes_on_alone(conditional):
    shards = [X[:5], X[5:6], X[:0], X[6:]]
    labels = [shard[:, 0].long() for shard in shards]

    def loader_of(rank):
        split = zip(shards[rank].split(2), labels[rank].split(2), strict=True) if len(shards[rank]) else ()
        return [(x, y) if conditional else x for x, y in split] if len(shards[rank]) else iter(())

    each = portions(loader_of, 4, conditional=conditional)
    assert [[rows(p) for p in one] for one in each] == [
        [[0, 1], [2, 3], [4]],
        [[5], [], []],
        [[], [], []],
        [[6, 7], [8, 9], [10]],
    ]
    for one in each:
        assert [p.counts for p in one] == [(2, 1, 0, 2), (2, 0, 0, 2), (1, 0, 0, 1)]
        assert not any(p.is_shared_out for p in one)
        assert all((p.batch.condition is not None) == conditional for p in one)
        assert all(p.batch.x.dtype == torch.float32 and p.batch.x.shape[1:] == (1,) for p in one)
    assert [[p.row_start for p in one] for one in each] == [[0, 0, 0], [2, 2, 1], [3, 2, 1], [3, 2, 1]]


def test_a_distributed_sampler_shuffles_by_the_epoch_and_is_left_to_itself():
    dataset = TensorDataset(X[:8])

    def loader_of(rank):
        return DataLoader(dataset, batch_size=2, sampler=DistributedSampler(dataset, num_replicas=2, rank=rank, seed=1))

    epochs = [portions(loader_of, 2, epoch) for epoch in (0, 1)]
    orders = [[row for number in range(2) for one in each for row in rows(one[number])] for each in epochs]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[0] != orders[1]


def test_an_iterable_dataset_is_shared_out_if_it_does_not_divide_itself():
    class All(IterableDataset):
        def __iter__(self):
            return iter(X)

    each = portions(lambda rank: DataLoader(All(), batch_size=3), 2)
    assert sorted(row for one in each for p in one for row in rows(p)) == list(range(11))


def test_no_batches_at_all_are_no_portions():
    assert portions(lambda rank: iter(()), 3) == [[], [], []]


def test_loaders_that_agree_at_first_and_then_do_not_are_refused():
    for error in portions(lambda rank: [X[:2], X[2 + rank : 4 + rank]], 2):
        assert "gave the same first batch of the epoch, but not the same one later" in str(error)
    for error in portions(lambda rank: [X[:2], X[2:4]][: 2 - rank], 2):
        assert "gave the same first batch of the epoch, but not the same one later" in str(error)


def test_loaders_of_which_some_agree_are_refused():
    for error in portions(lambda rank: [X[:2] if rank else X[2:4]], 3):
        assert "the loaders of processes 1, 2 begin with the same batch as another" in str(error)
