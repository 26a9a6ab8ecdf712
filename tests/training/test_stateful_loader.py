"""A run on a loader that keeps its place, torchdata's, goes on within the epoch, in the order that the loader had drawn."""

import pytest
import torch
from helpers.small_runs import Interrupt, Stop, X, fit, model, weights
from torch.utils.data import TensorDataset

import vaekit

torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed: pip install torchdata")
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it


def loader(seed):
    """Its order comes from a generator of its own, which is seeded when it is made."""
    torch.manual_seed(seed)
    return torchdata.StatefulDataLoader(TensorDataset(X), batch_size=16, shuffle=True)


@pytest.mark.parametrize("step", [1, 4, 6], ids=["in the first epoch", "between epochs", "in the second"])
def test_a_run_goes_on_in_the_order_of_the_loader_it_began_with(step, tmp_path):
    whole = model()
    history = fit(whole, loader(1), epochs=3)
    fit(model(), loader(1), epochs=3, out=tmp_path / "run", callbacks=[Interrupt(step)])
    resumed = vaekit.resume(tmp_path / "run", loader(2))
    assert resumed["loss"] == history["loss"]
    assert torch.equal(weights(vaekit.load(tmp_path / "run/last")), weights(whole))


@pytest.mark.parametrize("step", [2, 4], ids=["within", "at its end"])
def test_the_epoch_after_one_that_was_stopped_has_all_examples(step, tmp_path):
    fit(model(), loader(1), epochs=1, out=tmp_path / "run", callbacks=[Stop(step)])
    steps = []

    class Count(vaekit.Callback):
        def on_step_end(self, state):
            steps.append(state.step)

    vaekit.resume(tmp_path / "run", loader(2), epochs=2, callbacks=[Count()])
    assert steps == list(range(step + 1, step + 5))


def test_a_finished_run_keeps_the_place_of_its_loader_however_often_it_is_gone_on_with(tmp_path):
    whole = model()
    fit(whole, loader(1), epochs=3)
    fit(model(), loader(1), epochs=2, out=tmp_path / "run")
    vaekit.resume(tmp_path / "run", loader(2))
    vaekit.resume(tmp_path / "run", loader(3), epochs=3)
    assert torch.equal(weights(vaekit.load(tmp_path / "run/last")), weights(whole))
