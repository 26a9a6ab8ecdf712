"""What is held out: disjoint from the rest and together with it everything, in every way of splitting; witness scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from vaekit.data.splits import Marks, held_out_rows

fractions = st.floats(0.02, 0.98)
seeds = st.integers(0, 2**64 - 1)
kinds = st.lists(st.integers(-3, 5), min_size=2, max_size=80).map(torch.tensor)


def parts(count, held_out):
    """(rows that are trained on, rows held out), which are disjoint, in order, and all there are."""
    is_held_out = torch.zeros(count, dtype=torch.bool)
    is_held_out[held_out] = True
    assert torch.equal(is_held_out.nonzero().flatten(), held_out)
    assert 0 < len(held_out) < count
    return (~is_held_out).nonzero().flatten(), held_out


@given(count=st.integers(2, 99), fraction=fractions, seed=seeds)
def test_a_random_split_has_the_fraction_and_is_a_function_of_the_seed(count, fraction, seed):
    assume(0 < round(count * fraction) < count)
    _, held_out = parts(count, held_out_rows(count, fraction, seed))
    assert len(held_out) == round(count * fraction)
    torch.rand(3)  # which draws from the global generator
    assert torch.equal(held_out, held_out_rows(count, fraction, seed))


@given(labels=kinds, fraction=fractions, seed=seeds)
def test_every_class_is_held_out_in_its_share_to_within_one(labels, fraction, seed):
    assume(0 < round(len(labels) * fraction) < len(labels))
    _, held_out = parts(len(labels), held_out_rows(len(labels), fraction, seed, labels=labels))
    assert len(held_out) == round(len(labels) * fraction)
    for label in labels.unique():
        share = int((labels == label).sum()) * len(held_out) / len(labels)
        assert abs(int((labels[held_out] == label).sum()) - share) < 1
    assert torch.equal(held_out, held_out_rows(len(labels), fraction, seed, labels=labels * 7))  # whatever the numbers are


@given(groups=kinds, fraction=fractions, seed=seeds)
def test_no_group_is_on_both_sides(groups, fraction, seed):
    assume(0 < round(len(groups) * fraction) < len(groups) and len(groups.unique()) > 1)
    train, held_out = parts(len(groups), held_out_rows(len(groups), fraction, seed, marks=Marks(groups=groups)))
    assert not set(groups[train].tolist()) & set(groups[held_out].tolist())
    # No single group, moved to the other side, would bring the fraction nearer from below.
    wanted, sizes = round(len(groups) * fraction), torch.bincount(groups + 3)
    if len(held_out) < wanted:
        smallest = min(int(sizes[group + 3]) for group in groups[train].tolist())
        assert smallest >= 2 * (wanted - len(held_out)) or len(held_out) + smallest == len(groups)


@given(times=st.lists(st.integers(-9, 9), min_size=2, max_size=60).map(torch.tensor), fraction=fractions)
def test_what_is_held_out_is_later_than_all_that_is_trained_on(times, fraction):
    assume(0 < round(len(times) * fraction) < len(times) and len(times.unique()) > 1)
    train, held_out = parts(len(times), held_out_rows(len(times), fraction, marks=Marks(times=times)))
    assert int(times[train].max()) < int(times[held_out].min())
    wanted = round(len(times) * fraction)
    for moment in times.unique()[:-1]:  # no other moment to cut at is nearer to the fraction
        assert abs(int((times > moment).sum()) - wanted) >= abs(len(held_out) - wanted)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_classes_are_shared_out_as_scikit_learn_does(fraction):
    labels = torch.tensor([0] * 50 + [1] * 33 + [2] * 17)
    ours = torch.bincount(labels[held_out_rows(100, fraction, labels=labels)], minlength=3)
    (_, theirs), *_ = StratifiedShuffleSplit(1, test_size=fraction, random_state=0).split(np.zeros(100), labels)
    assert (ours - torch.bincount(labels[theirs], minlength=3)).abs().max() <= 1


def test_each_example_is_held_out_as_often_as_any_other():
    labels = torch.tensor([0] * 6 + [1] * 4 + list(range(2, 7)))  # five classes of one example, none of which has a claim
    counts = torch.zeros(15)
    for seed in range(600):
        counts[held_out_rows(15, 0.2, seed, labels=labels)] += 1
    # 120 expected of each class's share: 3 * (6, 4, 1, ...) / 15 = 1.2, 0.8, 0.2 ...; a binomial's sd is below 11.
    assert (counts[10:] - 120).abs().max() < 60
    assert counts[10:].min() > 0
    groups = torch.arange(15) // 3
    drawn = {int(groups[held_out_rows(15, 0.2, seed, marks=Marks(groups=groups))][0]) for seed in range(60)}
    assert drawn == set(range(5))


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="3 examples cannot be split into two parts with validation=0.1: 0 would be held out"):
        held_out_rows(3, 0.1)
    with pytest.raises(ValueError, match="all examples are of one group"):
        held_out_rows(9, 0.3, marks=Marks(groups=torch.ones(9)))
    with pytest.raises(ValueError, match="all examples are of one time"):
        held_out_rows(9, 0.3, marks=Marks(times=torch.ones(9)))
    with pytest.raises(ValueError, match="one of groups, times and held_out, got groups and times"):
        Marks(groups=torch.ones(9), times=torch.ones(9))
    with pytest.raises(ValueError, match="validation has to be a finite number above 0 and below 1, got 1.5"):
        held_out_rows(9, 1.5)
