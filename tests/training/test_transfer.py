"""Batches on their way to a device ahead of the steps that take them, with a stand-in for a GPU: the run is the same."""

from functools import partial

import pytest
import torch
from helpers.small_runs import X, fit, model, weights

from vaekit import Callback
from vaekit.data import moved
from vaekit.evaluation import terms
from vaekit.training import plan


class StandIn:
    """Notes which batches are on their way, and how many have arrived."""

    def __init__(self):
        self.begun, self.ended = 0, 0

    def begin(self, batch):
        self.begun += 1
        return batch.each(torch.clone)

    def end(self, begun):
        self.ended += 1
        return begun


class Loader:
    def __iter__(self):
        yield from X.split(16)


class ResumableLoader(Loader):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Watch(Callback):
    def __init__(self, transfer):
        self.transfer, self.seen = transfer, []

    def on_step_end(self, state):
        self.seen.append(self.transfer.begun - self.transfer.ended)


@pytest.fixture
def stand_in(monkeypatch):
    transfer = StandIn()
    monkeypatch.setattr(plan, "moved", partial(moved, transfer=transfer))
    return transfer


@pytest.mark.parametrize(
    ("data", "ahead"),
    [(X, [1, 1, 1, 0]), (Loader(), [1, 1, 1, 0]), (ResumableLoader(), [0, 0, 0, 0])],
    ids=["whole", "loader", "resumable"],
)
def test_a_run_with_batches_on_their_way_is_the_run_without(data, ahead, stand_in):
    watch, with_it, without = Watch(stand_in), model(), model()
    fit(with_it, data, callbacks=[watch])
    assert stand_in.ended == 8
    assert watch.seen == ahead * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "moved", moved)
        fit(without, data)
    assert torch.equal(weights(with_it), weights(without))


def test_steps_of_several_batches_fetch_one_ahead(stand_in):
    watch, with_it, without = Watch(stand_in), model(), model()
    fit(with_it, accumulate=2, callbacks=[watch], epochs=1)
    assert watch.seen == [1, 0]
    fit(without, batch_size=32, epochs=1)
    assert torch.allclose(weights(with_it), weights(without), rtol=1e-5, atol=1e-7)


def test_validation_goes_the_same_way(monkeypatch):
    transfer = StandIn()
    monkeypatch.setattr(terms, "moved", partial(moved, transfer=transfer))
    history = fit(model(), validation=X, epochs=1)
    assert transfer.ended == 4
    monkeypatch.setattr(terms, "moved", moved)
    assert fit(model(), validation=X, epochs=1)["val_loss"] == history["val_loss"]
