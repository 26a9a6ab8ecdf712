"""A sample of a loader's rows: the same for the same data however they are read, another for others, and bounded."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from vaekit.data import sampled
from vaekit.data.sampled import sample_of

X = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))


class Rows(Dataset):
    """Rows that a function makes; which ones were asked for."""

    def __init__(self, make, count=200):
        self.make, self.count, self.asked = make, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        self.asked.append(row)
        return self.make(row)


def hashes(make, count=200, **options):
    made = sample_of(DataLoader(Rows(make, count), **options))
    assert not made.why_not
    return made.hashes


def tensor(row):
    return X[row]


def augmented(row):
    return X[row] * random.random() + np.random.rand() + torch.rand(())


KINDS = {
    "tensor": tensor,
    "array": lambda row: X[row].numpy(),
    "pair": lambda row: (X[row], row),
    "mapping": lambda row: {"x": X[row], "name": f"row {row}", "none": None},
    "numbers": lambda row: [float(X[row, 0]), row > 3],
    "like an array": lambda row: memoryview(X[row].numpy()),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_the_same_rows_have_the_same_hashes_and_others_have_others(make):
    made = hashes(make)
    assert len(set(made)) == len(made) > 40
    assert hashes(make) == made
    assert set(hashes(lambda row: make((row + 1) % 200))) != set(made)
    assert set(hashes(lambda row: (make(row), 0))).isdisjoint(made)


@pytest.mark.parametrize("make", [tensor, augmented])
def test_a_worker_reads_the_same_every_time_and_leaves_the_dataset_alone(make):
    dataset = Rows(make)
    loader = DataLoader(dataset, num_workers=2, batch_size=7)
    first = sample_of(loader)
    assert first == sample_of(loader)
    assert not dataset.asked  # in this process
    assert first.hashes != sample_of(DataLoader(Rows(lambda row: make(row) + 1), num_workers=2)).hashes


def test_a_worker_begins_as_its_owner_says():
    class Opened(Rows):
        offset = None

        def __getitem__(self, row):
            return X[row] + self.offset

    def opening(offset):
        def init(worker):
            torch.utils.data.get_worker_info().dataset.offset = offset

        return init

    one, other = (DataLoader(Opened(None), num_workers=1, worker_init_fn=opening(offset)) for offset in (0.0, 1.0))
    assert sample_of(one).hashes == hashes(tensor)
    assert sample_of(other).hashes == hashes(lambda row: X[row] + 1.0)


def test_what_augments_by_the_global_generators_is_compared_and_those_are_left_alone():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    made = hashes(augmented)
    assert states() == before
    random.random(), np.random.rand(), torch.rand(())
    assert hashes(augmented) == made
    assert set(hashes(lambda row: augmented(row) + 1)).isdisjoint(made)


@given(st.integers(0, 5000))
def test_few_rows_are_all_read_and_of_many_some_from_everywhere(count):
    rows = sampled._spread(count)
    assert len(set(rows)) == len(rows) <= sampled.ROWS
    assert set(rows) <= set(range(count))
    if count <= sampled.ROWS:
        assert len(rows) == count
    else:
        for few in (8, 21, len(rows)):  # the widest gap among the first few, by the three-distance theorem
            inner = sorted([0, *rows[:few], count])
            assert max(b - a for a, b in itertools.pairwise(inner)) <= 3 * count / few


def test_of_a_slow_dataset_as_many_rows_as_come_in_time_are_compared():
    now = [0.0]

    def slow(row):
        now[0] += 0.3
        return X[row]

    dataset = Rows(slow)
    made = sample_of(DataLoader(dataset), clock=lambda: now[0])
    assert len(made.hashes) == 6  # 7 rows in 2.1 seconds, the first of them twice
    assert made.hashes == hashes(tensor)[:6]
    now[0], dataset.make = 0.0, lambda row: (now.__setitem__(0, now[0] + 100.0), X[row])[1]
    assert sample_of(DataLoader(dataset), clock=lambda: now[0]).hashes == hashes(tensor)[:1]


class Endless(IterableDataset):
    def __iter__(self):
        yield from X


class Failing(Rows):
    def __getitem__(self, row):
        raise KeyError(f"no row {row}")


def test_what_cannot_be_compared_says_why():
    generator = np.random.default_rng(0)
    for loader, why in (
        ([X], "list has no rows that can be read one by one"),
        (DataLoader(Endless()), "Endless has no rows that can be read one by one"),
        (DataLoader(Failing(None)), "reading its rows one by one failed, KeyError: 'no row 0'"),
        (DataLoader(Failing(None), num_workers=1), "reading its rows one by one failed, KeyError: 'no row 0'"),
        (DataLoader(Rows(lambda row: object())), "reading its rows one by one failed, TypeError: object cannot be compared"),
        (DataLoader(Rows(lambda row: X[row] + generator.random())), "its rows have other values each time that they are read"),
    ):
        made = sample_of(loader)
        assert (made.hashes, made.why_not) == ([], why)


def test_an_empty_dataset_and_a_part_of_one():
    assert sample_of(DataLoader(Rows(tensor, 0), sampler=[])) == ([], "")
    assert sample_of(DataLoader(Subset(Rows(tensor), range(5, 8)))).hashes == hashes(lambda row: X[row + 5], 3)
