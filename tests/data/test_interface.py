"""What both kinds of batches are asked, whatever they are made of."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from vaekit.data import as_batches

X = torch.arange(20.0).reshape(10, 2)
KINDS = {"whole": X, "loader": DataLoader(TensorDataset(X), batch_size=4), "list": list(X.split(4))}


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_answer_the_same_questions(kind):
    batches = as_batches(KINDS[kind], batch_size=4)
    seen = list(batches)
    assert batches.length == len(seen) == 3
    assert batches.size in (None, 10)
    assert batches.batch_size in (None, 4)
    assert batches.smallest in (None, 2)
    if batches.smallest is not None:
        assert torch.equal(batches.one().x, X[:1])
    assert torch.equal(torch.cat([batch.x for batch in seen]), X)
    assert (batches.some(3) is None) == (batches.numbers(torch.arange(2)) is None) == (not batches.is_indexed)
    batches.all_checked()
    assert batches.is_checked == batches.is_indexed == (kind == "whole")
    assert batches.fingerprint(is_first=False)["rows"] is None or batches.is_indexed


def test_some_examples_are_spread_over_all_of_them():
    batches = as_batches(X, batch_size=4)
    assert batches.some(5).index.tolist() == [0, 2, 4, 6, 8]
    assert torch.equal(batches.some(100).x, X)
