"""A rate that falls when a term of the history no longer improves, against torch's ReduceLROnPlateau."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vaekit import History, losses
from vaekit.schedules import Plateau


def history_of(losses, is_settled=None, name="loss"):
    history = History()
    for loss, settled in zip(losses, is_settled or [True] * len(losses), strict=True):
        history.append({name: loss}, seconds=1.0, is_settled=settled)
    return history


@given(
    st.lists(st.integers(-5, 5).map(float), max_size=30),
    st.integers(1, 4),
    st.sampled_from([0.1, 0.5]),
    st.sampled_from([0.0, 0.75, 2.0]),
    st.sampled_from([0.0, 1e-2]),
)
def test_after_every_epoch_it_is_torchs(losses, patience, factor, min_delta, lowest):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    by_hand = ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience - 1, threshold=min_delta, threshold_mode="abs", min_lr=lowest, eps=0.0
    )
    rate = Plateau(0.2, factor, patience, min_delta=min_delta, lowest=lowest)
    assert rate(0) == rate(None) == rate.after(History())(0) == 0.2
    for epoch, loss in enumerate(losses, start=1):
        by_hand.step(loss)
        assert math.isclose(rate.after(history_of(losses[:epoch]))(epoch), optimizer.param_groups[0]["lr"], rel_tol=1e-12)


def test_epochs_that_are_not_settled_or_lack_the_term_do_not_count():
    rate = Plateau(1.0, 0.5, patience=2)
    assert rate.after(history_of([1.0, 2.0, 2.0]))(0) == 0.5
    assert rate.after(history_of([1.0, 2.0, 2.0], [False, True, True]))(0) == 1.0
    assert rate.after(history_of([1.0, math.nan, 2.0]))(0) == 1.0
    assert rate.after(history_of([1.0, math.nan, 2.0, 2.0]))(0) == 0.5


def test_it_watches_what_it_is_told_to_or_what_says_which_epoch_is_best():
    both = History()
    for loss, validation, kl in [(3.0, 1.0, 9.0), (2.0, 1.0, 9.0)]:
        both.append({"loss": loss, "val_loss": validation, "kl": kl}, seconds=1.0)
    assert Plateau(1.0, 0.5, 1).after(both)(0) == 0.5
    assert Plateau(1.0, 0.5, 1, monitor="loss").after(both)(0) == 1.0
    assert Plateau(1.0, 0.5, 1).after(history_of([3.0, 2.0]))(0) == 1.0
    with pytest.raises(ValueError, match="'plateau' watches 'val_kl', but the history has loss, val_loss, kl"):
        Plateau(1.0, monitor="val_kl").after(both)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"start": 0.0}, ValueError, "start"),
        ({"factor": 1.0}, ValueError, "factor"),
        ({"patience": 0}, ValueError, "patience"),
        ({"lowest": 2.0}, ValueError, "lowest has to be at most start, 1, got 2.0"),
        ({"min_delta": -1.0}, ValueError, "min_delta"),
        ({"monitor": 3}, TypeError, "monitor"),
    ],
)
def test_options_that_make_no_rate_are_refused(options, error, said):
    with pytest.raises(error, match=said):
        Plateau(**{"start": 1.0, **options})


def test_an_objectives_weight_cannot_depend_on_the_history():
    with pytest.raises(TypeError, match="beta: the schedule 'plateau' depends on the history.*only a learning_rate can"):
        losses.create("elbo", beta={"name": "plateau", "start": 1.0})
