"""The checks that data passes before a model sees it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit import inputs as module
from vaekit.data import Batch, Examples, MappedArray
from vaekit.inputs import check_examples, check_values, checked, checked_batches


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
    monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", 12)  # two rows
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
    with pytest.raises(ValueError, match="validation:.*shape"):
        check_examples(vae, Examples(MappedArray(np.zeros((5, 3)))), "validation")


class Counted(np.ndarray):
    """An array that counts the rows that are read of it."""

    def __getitem__(self, index):
        rows = np.asarray(self)[index]
        READ.append(len(np.atleast_2d(rows)))
        return rows


READ = []


def on_disk(x, **options):
    """Examples that count as on disk."""
    READ.clear()
    return Examples(MappedArray(x.view(Counted)), **options)


@pytest.mark.parametrize(("limit", "rows"), [(6 * 5, 5), (6 * 5 - 1, 0)])
def test_values_on_disk_are_checked_at_once_up_to_a_size_and_beyond_it_when_they_come(vae, monkeypatch, limit, rows):
    monkeypatch.setattr(module, "_ELEMENTS_READ_TWICE", limit)
    batches = checked_batches(vae, on_disk(np.full((5, 2, 3), 0.5)), 2, "train")
    assert batches.is_checked == (rows > 0)
    assert sum(READ) == rows
    assert checked_batches(vae, torch.full((50, 2, 3), 0.5), 2).is_checked
    assert not checked_batches(vae, [torch.full((50, 2, 3), 0.5)], 2).is_checked


def test_what_does_not_need_the_values_is_checked_at_once_whatever_the_size(vae, monkeypatch):
    monkeypatch.setattr(module, "_ELEMENTS_READ_TWICE", 0)
    conditional = vaekit.create_vae(
        input_shape=(2, 3), latent_dim=1, encoder={"hidden": ()}, condition=vaekit.conditions.Vector(2)
    )
    for model, x, words in ((vae, np.zeros((5, 3)), "shape"), (conditional, np.zeros((5, 2, 3)), "conditional")):
        with pytest.raises(ValueError, match=f"train: .*{words}"):
            checked_batches(model, on_disk(x), 2, "train")
    with pytest.raises(TypeError, match="float64"):
        checked_batches(vae.double(), on_disk(np.zeros((5, 2, 3))), 2)
    vae.float()
    assert not READ


def test_the_first_way_through_checks_and_the_next_does_not(vae, monkeypatch):
    monkeypatch.setattr(module, "_ELEMENTS_READ_TWICE", 0)
    x = np.full((5, 2, 3), 0.5)
    batches = checked_batches(vae, on_disk(x), 2)
    checks = []
    monkeypatch.setattr(module, "check_values", lambda vae, batch, *_: checks.append(len(batch.x)))
    next(checked(vae, batches))
    assert not batches.is_checked
    assert len(list(checked(vae, batches))) == 3
    assert batches.is_checked
    assert len(list(checked(vae, batches))) == 3
    assert checks == [2, 2, 2, 1]
    stream = checked_batches(vae, [torch.full((2, 2, 3), 0.5)], 2)
    for _ in range(2):
        list(checked(vae, stream))
    assert checks == [2, 2, 2, 1, 2, 2]


def test_a_bad_value_that_is_met_on_the_way_is_named_by_its_number_in_the_file(vae, monkeypatch):
    monkeypatch.setattr(module, "_ELEMENTS_READ_TWICE", 0)
    x = np.full((5, 2, 3), 0.5)
    x[3, 1, 1] = np.nan
    batches = checked_batches(vae, on_disk(x, rows=torch.arange(10, 15)), 2)
    with pytest.raises(ValueError, match="batch 1: sample 13 holds NaN"):
        list(checked(vae, batches))
    with pytest.raises(ValueError, match="batch 1: sample 0 holds NaN"):
        list(checked(vae, checked_batches(vae, list(torch.tensor(x, dtype=torch.float32).roll(-1, 0).split(2)), 2)))


def test_only_the_rows_that_are_asked_for_are_looked_at(vae):
    x = np.full((9, 2, 3), 0.5)
    x[[1, 7], 0, 0] = np.inf
    examples = on_disk(x)
    check_examples(vae, examples, "test", torch.tensor([0, 8, 3]))
    assert sum(READ) == 3
    with pytest.raises(ValueError, match=r"test: sample 7 holds infinity \(1 such"):
        check_examples(vae, examples, "test", torch.tensor([0, 7, 3]))
    conditional = vaekit.create_vae(
        input_shape=(2, 3), latent_dim=1, encoder={"hidden": ()}, condition=vaekit.conditions.Labels(3)
    )
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 9])
    check_examples(conditional, on_disk(x, y=y), "test", torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="test:.*9"):
        check_examples(conditional, on_disk(x, y=y), "test", torch.tensor([0, 8]))


def test_values_of_a_batch_are_numbered_from_where_it_starts(vae):
    x = torch.full((3, 2, 3), math.inf)
    with pytest.raises(ValueError, match=r"step 7.*100.*infinity.*3"):
        check_values(vae, Batch(x), "step 7", torch.arange(100, 103))
