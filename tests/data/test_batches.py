"""Batches of whole examples and of loaders, and the checks before training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import vaekit
from vaekit.data import Batches, Examples, MappedArray
from vaekit.data import batches as module
from vaekit.data.batches import check_examples, check_values
from vaekit.losses import Batch

sizes = st.tuples(st.integers(1, 20), st.integers(1, 25))  # examples, batch_size: also more than there are


def whole(count):
    """`count` examples that hold their own number."""
    return Examples(torch.arange(float(count))[:, None])


@given(sizes, st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_every_example_comes_exactly_once_in_the_order_asked_for(size, shuffled, is_mapped, random):
    count, batch_size = size
    data = Examples(MappedArray(np.arange(float(count))[:, None])) if is_mapped else whole(count)
    order = random.sample(range(count), count) if shuffled else list(range(count))
    batches = list(Batches(data, batch_size).in_order(torch.tensor(order) if shuffled else None))
    assert torch.cat([b.x for b in batches])[:, 0].tolist() == order
    assert torch.cat([b.index for b in batches]).tolist() == order


@given(sizes)
def test_all_batches_are_full_but_the_last(size):
    count, batch_size = size
    batches = Batches(whole(count), batch_size)
    lengths = [len(b.x) for b in batches]
    assert lengths == [min(batch_size, count - start) for start in range(0, count, batch_size)]
    assert (batches.size, len(lengths)) == (count, math.ceil(count / batch_size))


def test_batches_can_be_gone_through_again():
    batches = Batches(whole(5), 2)
    assert [b.x.tolist() for b in batches] == [b.x.tolist() for b in batches]


@pytest.mark.parametrize(
    "data",
    [torch.arange(6.0).reshape(3, 2), np.arange(6).reshape(3, 2), (torch.arange(6.0).reshape(3, 2), torch.arange(3))],
    ids=["tensor", "array", "pair"],
)
def test_tensors_arrays_and_pairs_are_whole_examples(data):
    batches = Batches(data, 2)
    assert len(batches.examples) == 3
    assert [b.x.tolist() for b in batches] == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0]]]


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
    batches = Batches([item(x) for x in xs], 64)
    found = list(batches)
    assert all(b.x is x for b, x in zip(found, xs, strict=True))
    assert all(b.index is None for b in found)
    assert (batches.examples, batches.size) == (None, None)


def test_a_loader_of_torch_keeps_its_batch_size_and_says_how_many_examples_it_has():
    batches = Batches(DataLoader(TensorDataset(torch.arange(5.0)[:, None], torch.zeros(5)), batch_size=2), 64)
    assert [b.x.flatten().tolist() for b in batches] == [[0.0, 1.0], [2.0, 3.0], [4.0]]
    assert batches.size == 5


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.arange(5.0)[:, None])


def test_a_stream_has_no_size_and_still_gives_its_batches():
    batches = Batches(DataLoader(Stream(), batch_size=2), 64)
    assert batches.size is None
    assert [len(b.x) for b in batches] == [2, 2, 1]
    assert [len(b.x) for b in Batches((torch.zeros(n, 1) for n in (3, 1)), 64)] == [3, 1]


@pytest.mark.parametrize(
    "data",
    [torch.zeros(0, 3), np.zeros((0, 3)), (torch.zeros(0, 3), []), [], DataLoader(TensorDataset(torch.zeros(0, 3)))],
    ids=["tensor", "array", "pair", "list", "loader"],
)
def test_an_empty_dataset_is_refused(data):
    with pytest.raises(ValueError, match="the dataset is empty"):
        Batches(data, 2)


@pytest.mark.parametrize("item", [{"image": torch.zeros(2, 3), "label": torch.zeros(2)}, "text", None, (3, 4), ()])
def test_a_batch_that_is_no_tensor_is_refused_with_what_it_should_be(item):
    with pytest.raises((TypeError, ValueError), match=r'needs the key "x", it has: image, label|a loader has to give x, '):
        list(Batches([item], 2))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_batch_size_is_a_whole_number_of_at_least_1(batch_size):
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        Batches(whole(5), batch_size)


def test_a_dataset_that_is_not_a_loader_is_refused_with_the_advice_to_make_one():
    with pytest.raises(TypeError, match="DataLoader"):
        Batches(TensorDataset(torch.zeros(5, 3)), 2)


@pytest.mark.parametrize("data", ["mnist5k", {"x": torch.zeros(5, 3)}], ids=["name", "mapping"])
def test_a_name_and_a_mapping_are_not_taken_for_loaders(data):
    with pytest.raises(TypeError, match=f"got {type(data).__name__}"):
        Batches(data, 2)


# Checks


@pytest.fixture(scope="module")
def vae():
    return vaekit.create_vae(input_shape=(2, 3), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, seed=0)


def refused(vae, x):
    """The text with which the examples are refused."""
    with pytest.raises(ValueError) as caught:
        check_examples(vae, Examples(x), "train")
    return str(caught.value)


def test_data_that_fits_passes(vae):
    check_examples(vae, Examples(torch.rand(5, 2, 3)), "train")
    check_examples(vae, Examples(torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]])), "train")  # both ends are in the support


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3), (2,)])
def test_another_shape_is_refused_with_both(vae, shape):
    expected = f"train: the model takes examples of shape (2, 3), the data has ({', '.join(map(str, shape))})"
    assert refused(vae, torch.zeros(5, *shape)) == expected


@given(st.integers(1, 12), st.data())
def test_the_first_sample_that_is_not_finite_is_named(vae, count, data):
    bad = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    value, word = data.draw(st.sampled_from([(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")]))
    x = torch.full((count, 2, 3), 0.5)
    x[list(bad), 1, data.draw(st.integers(0, 2))] = value
    assert f"train: sample {min(bad)} holds {word} ({len(bad)} such sample(s)" in refused(vae, x)


@pytest.mark.parametrize("row", [0, 1, 3, 6])
def test_samples_are_numbered_from_the_beginning_however_many_are_looked_at_together(vae, monkeypatch, row):
    monkeypatch.setattr(module, "_CHECKED_AT_ONCE", 12)  # two rows
    x = torch.rand(7, 2, 3)
    x[row, 0, 0] = math.nan
    assert f"sample {row} holds NaN" in refused(vae, x)


@pytest.mark.parametrize(("low", "high"), [(0.0, 255.0), (-1.0, 1.0), (-0.5, 0.5), (0.0, 1.001)])
def test_values_outside_the_support_are_refused_with_their_range(vae, low, high):
    x = torch.full((4, 2, 3), 0.25)
    x[1, 0, 0], x[3, 1, 2] = low, high
    message = refused(vae, x)
    assert message.startswith("train: Bernoulli models values in [0, 1], but the data ranges from ")
    assert f"from {low:.6g} to {high:.6g}." in message


def test_the_same_values_pass_where_the_likelihood_takes_them():
    vae = vaekit.create_vae(
        input_shape=(2,), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood="gaussian", seed=0
    )
    check_examples(vae, Examples(torch.tensor([[-5.0, 300.0]])), "train")


def test_a_file_on_the_disk_is_checked_as_a_whole(vae):
    values = np.zeros((5, 2, 3))
    values[3, 1, 1] = np.nan
    with pytest.raises(ValueError, match="train: sample 3 holds NaN"):
        check_examples(vae, Examples(MappedArray(values)), "train")
    with pytest.raises(ValueError, match="validation: the model takes examples of shape"):
        check_examples(vae, Examples(MappedArray(np.zeros((5, 3)))), "validation")


def test_values_of_a_batch_are_numbered_from_where_it_starts(vae):
    x = torch.full((3, 2, 3), math.inf)
    with pytest.raises(ValueError, match=r"step 7: sample 100 holds infinity \(3 such"):
        check_values(vae, Batch(x), "step 7", torch.arange(100, 103))
