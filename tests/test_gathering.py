"""What processes see of each other: rows with their gradients, sums, and plain data."""

import json

import pytest
import torch
from helpers.ranks import process_group, results
from torch import distributed

from vaekit.gathering import Ranks, gathered, rows_of_all, shares, summed

COUNTS = (2, 0, 3)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool)
MESSAGES = (0, "é", {"a": [1, None, True]}, "long " * 1000, float("inf"), [1e-300, 0.1])


def rows_of(rank, dtype=torch.float64):
    start = sum(COUNTS[:rank])
    return (torch.arange(10.0).reshape(5, 2)[start : start + COUNTS[rank]] % 3).to(dtype)


def work():
    with process_group():
        rank = distributed.get_rank()
        ranks = Ranks(rank, len(COUNTS))
        seen = {"alone": gathered(rows_of(rank)), "messages": [ranks.gather(m) for m in MESSAGES]}
        seen["own"] = ranks.gather({"rank": rank, "text": "x" * 100 * rank})
        with ranks.holding(COUNTS):
            seen["all"] = {dtype: gathered(rows_of(rank, dtype)) for dtype in DTYPES}
            seen["count"] = rows_of_all(COUNTS[rank])
            for dtype in (torch.float64, torch.bfloat16):
                rows, scale = rows_of(rank, dtype).requires_grad_(), torch.full((), 2.0 + rank, requires_grad=True)
                # Each process has another function of all rows, and their sum is what is differentiated.
                weights = torch.arange(1.0, 11.0).reshape(5, 2) * (rank + 1)
                (gathered(rows) * weights).sum().backward()
                (summed(scale * scale) * (rank + 1)).backward()
                seen[f"gradient {dtype}"], seen["gradient of a sum"] = rows.grad, scale.grad
            with pytest.raises(ValueError, match=f"a row for each example, of which this process has {COUNTS[rank]}, got 7"):
                gathered(torch.zeros(7, 1))
        seen["afterwards"] = shares()
        with ranks.holding((0, 0, 0)):
            seen["nothing"] = gathered(torch.zeros(0, 4))
        total = torch.tensor([1.0 + rank, float("nan") if rank == 1 else 0.0])
        ranks.add_up(total)
        seen["total"] = total
        return seen


@pytest.fixture(scope="module")
def seen():
    return results(work, len(COUNTS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_all_come_in_the_order_of_the_batch(dtype, seen):
    expected = torch.cat([rows_of(rank, dtype) for rank in range(3)])
    for of_rank in seen:
        assert of_rank["all"][dtype].dtype == dtype
        assert torch.equal(of_rank["all"][dtype], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_gradient_is_that_of_the_sum_over_processes(dtype, seen):
    expected = torch.arange(1.0, 11.0).reshape(5, 2) * (1 + 2 + 3)
    gradient = torch.cat([of_rank[f"gradient {dtype}"] for of_rank in seen])
    assert gradient.dtype == dtype
    assert torch.equal(gradient.double(), expected.double())


def test_a_sum_over_processes_has_a_gradient(seen):
    assert [float(of_rank["gradient of a sum"]) for of_rank in seen] == [(1 + 2 + 3) * 2 * (2.0 + rank) for rank in range(3)]


def test_only_a_batch_that_is_divided_is_gathered(seen):
    for rank, of_rank in enumerate(seen):
        assert torch.equal(of_rank["alone"], rows_of(rank))
        assert of_rank["afterwards"] is None
        assert of_rank["count"] == 5
        assert of_rank["nothing"].shape == (0, 4)


def test_plain_data_of_any_length_reach_all(seen):
    for of_rank in seen:
        assert of_rank["messages"] == [[m] * 3 for m in MESSAGES]
        assert [one["rank"] for one in of_rank["own"]] == [0, 1, 2]
        assert [len(one["text"]) for one in of_rank["own"]] == [0, 100, 200]


def test_what_is_not_finite_on_one_process_is_not_on_any(seen):
    for of_rank in seen:
        assert of_rank["total"][0] == 6.0
        assert of_rank["total"][1].isnan()


def test_one_process_alone_needs_no_group():
    alone, value = Ranks(), torch.ones(2)
    alone.add_up(value)
    with alone.holding([5]):
        assert shares() is None
        assert torch.equal(summed(value), value)
    assert json.dumps(alone.gather(MESSAGES[2])) == json.dumps([MESSAGES[2]])
    assert torch.equal(value, torch.ones(2))
