"""The fingerprint of data: the same for the same examples wherever they are, another for others."""

from __future__ import annotations

import json
import math
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from vaekit.data import Batch, Examples, MappedArray, Stream, as_batches, as_examples, differences
from vaekit.data.fingerprint import fingerprint_of
from vaekit.data.numpy_files import ArrayFile


def fingerprint(data):
    return as_batches(data, 4).fingerprint()


def numbers(count=200):
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def test_it_is_the_same_in_memory_and_on_disk(tmp_path):
    x = numbers()
    x[3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    kinds = [
        torch.from_numpy(x),
        x,
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        ArrayFile(tmp_path / "x.npy"),
        x.astype(np.float64),
    ]
    made = [fingerprint((kind, np.arange(200))) for kind in kinds]
    assert made == [made[0]] * len(kinds)
    assert json.loads(json.dumps(made[0])) == made[0]
    assert fingerprint(torch.from_numpy(x).T.contiguous().T) == fingerprint(x)


def test_all_nan_count_as_the_same():
    one, other = (torch.tensor(struct.unpack("<f", struct.pack("<I", bits))) for bits in (0x7FC00000, 0xFFC00123))
    assert one.view(torch.int32) != other.view(torch.int32)
    assert fingerprint(one[:, None]) == fingerprint(other[:, None])


@given(st.integers(1, 300), st.data())
def test_a_change_in_a_row_that_is_looked_at_is_seen_and_few_rows_are_read(count, data):
    read = []

    class Watched(np.ndarray):
        def __getitem__(self, index):
            read.extend(np.atleast_1d(index).tolist())
            return np.asarray(self)[index]

    x = np.zeros((count, 2), np.float32)
    before = Examples(MappedArray(x.view(Watched)))
    made = as_batches(before, 4).fingerprint()
    assert len(read) <= 64
    assert {0, count - 1} <= set(read)
    assert len(set(read)) == min(count, 64)
    changed = x.copy()
    changed[data.draw(st.sampled_from(read)), 1] = data.draw(st.sampled_from([-0.0, 1e-45, math.nan]))
    assert differences(made, fingerprint(changed)) == "the values in 64 rows differ"


CHANGES = {
    "fewer examples": (lambda x, y: (x[:-1], y[:-1]), "the number of examples was 200 and is 199; the values in 64 rows differ"),
    "another shape": (lambda x, y: (x[:, :2], y), r"x was float32 \[3\] and is float32 \[2\]"),
    "another dtype": (lambda x, y: (torch.from_numpy(x).double(), y), r"x was float32 \[3\] and is float64 \[3\]"),
    "other labels": (lambda x, y: (x, y + 1), "^the values in 64 rows differ$"),
    "labels that are vectors": (lambda x, y: (x, np.stack([y, y], 1)), r"y was int64 \[\] and is float32 \[2\]"),
    "no labels": (lambda x, y: x, r"y was int64 \[\] and is None"),
    "another order": (lambda x, y: (x[::-1], y), "^the values in 64 rows differ$"),
    "a loader": (
        lambda x, y: DataLoader(TensorDataset(torch.from_numpy(x))),
        "the kind of data was examples and is loader.*the loader was None and is DataLoader",
    ),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES)
def test_what_differs_is_said_in_words(change, words):
    x, y = numbers(), np.arange(200)
    told = differences(fingerprint((x, y)), fingerprint(change(x, y)))
    assert re.search(words, told), told
    assert differences(fingerprint((x, y)), fingerprint((x.copy(), y.copy()))) == ""


def test_other_rows_of_the_same_values_are_seen():
    x = torch.zeros(5, 2)
    one, other = (fingerprint(Examples(x, rows=rows)) for rows in (None, torch.arange(1, 6)))
    assert differences(one, other) == "the values in 64 rows differ"
    assert fingerprint(Examples(x, rows=torch.arange(5))) == one


def test_a_loader_is_told_by_its_kind_its_dataset_and_its_batch_size():
    dataset = TensorDataset(torch.zeros(9, 2))
    made = Stream(DataLoader(dataset, batch_size=2)).fingerprint()
    rows = made.pop("rows")
    told = {"kind": "loader", "loader": "DataLoader", "examples": 9, "batch_size": 2}
    assert made == {**told, "sampler": "SequentialSampler", "drop_last": False}
    assert len(rows) == 9
    made["rows"] = rows
    assert json.loads(json.dumps(made)) == made
    assert differences(made, Stream(DataLoader(dataset, batch_size=3)).fingerprint()) == "the loader's batch_size was 2 and is 3"
    other = Stream(DataLoader(TensorDataset(torch.ones(9, 2)), batch_size=2)).fingerprint()
    assert differences(made, other) == "the values in 64 rows differ"
    told = Stream([torch.zeros(3, 2)]).fingerprint()
    assert {name: value for name, value in told.items() if value is not None} == {"kind": "loader", "loader": "list"}


def test_an_empty_dataset_has_one_too():
    assert fingerprint_of(as_examples(torch.zeros(0, 3)))["examples"] == 0


# The digest of a batch


def test_a_batchs_digest_is_a_function_of_its_values_and_fits_int64():
    x, y = torch.rand(4, 3), torch.arange(4)
    others = [
        Batch(x + 1),
        Batch(x[:3]),
        Batch(x.double()),
        Batch(x.reshape(2, 6)),
        Batch(x, y),
        Batch(x, y + 1),
        Batch(x, y.float()),
    ]
    digests = [one.digest() for one in (Batch(x), *others)]
    assert len(set(digests)) == len(digests)
    assert Batch(x.clone(), y.clone(), y).digest() == Batch(x, y).digest()
    assert torch.tensor(digests).tolist() == digests
    assert {digest < 0 for digest in (Batch(x + n).digest() for n in range(20))} == {True, False}
