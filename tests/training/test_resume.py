"""A run that is interrupted, killed or moved on is, in the end, bit for bit the run that never was."""

import json
import os
import pickle
import random
import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers.small_runs import Interrupt, X, fit, model, weights
from torch.utils.data import DataLoader, TensorDataset

import vaekit
from vaekit.training.snapshots import Snapshots

VECTOR_QUANTIZED = {"name": "vector_quantized", "codes": 5}
MODELS = {
    "dropout": {"encoder": {"hidden": (8,), "dropout": 0.3}},
    "batch-normalisation": {"encoder": {"hidden": (8,), "normalization": "batch"}},
    "codebook": {"encoder": {"hidden": (8,), "posterior": VECTOR_QUANTIZED}, "prior": "codes", "loss": "vector_quantized"},
    "discriminator": {"loss": {"name": "factor", "hidden": (4,)}},
    "discriminator of reconstructions": {
        "loss": {"name": "perceptual", "discriminator": {"name": "mlp", "hidden": (4,)}, "start": 3}
    },
    "narrow": {"likelihood": {"name": "gaussian", "sigma": 0.01}},  # whose first gradients overflow in float16
    "schedule": {"loss": {"name": "elbo", "beta": {"name": "linear", "steps": 7}}},
}
RUNS = {
    "half": {"precision": "bf16"},
    "scaled": {"precision": "16", "epochs": 5},
    "plateau": {"validation": X[:9], "learning_rate": {"name": "plateau", "start": 0.05, "patience": 1, "min_delta": 100.0}},
    "plain": {},
    "validated": {"validation": X[:9], "learning_rate": 0.05},
    "averaged": {"validation": X[:9], "ema": 0.9, "optimizer": "sgd"},
    "accumulated": {"accumulate": 3, "batch_size": 8, "optimizer": {"name": "adamw", "weight_decay": 0.1}},
    "scheduled": {"learning_rate": {"name": "cosine", "start": 0.05, "end": 1e-3, "steps": 10}, "gradient_clip": 0.5},
}


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Killed(BaseException):
    """Nobody catches it, as nobody survives a SIGKILL."""


class Kill(vaekit.Callback):
    """Ends the run after so many of its steps, without a chance to save anything."""

    def __init__(self, after, number=0):
        self.after, self.number = after, number

    def on_step_end(self, state):
        self.number += 1
        if self.number == self.after:
            raise Killed


def files(folder):
    """What a run leaves, but for what says how and when it was begun, and the checkpoints."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".json" and "checkpoints" not in file.parts
    }


def killed(after, **options):
    """A run that is killed; the folder is as the kill left it."""
    save = vaekit.VAE.save
    with pytest.MonkeyPatch.context() as patch:
        # What a killed process does not do any more: the last weights, and the checkpoint at the end.
        patch.setattr("vaekit.training.checkpoints.Checkpoints.run_ended", lambda *_: None)
        with pytest.raises(Killed):
            fit(options.pop("vae"), callbacks=[Kill(after)], **options)
    assert vaekit.VAE.save is save


def assert_same(one, other):
    vae, history, folder = one
    again, later, place = other
    assert torch.equal(weights(vae), weights(again))
    assert all(map(torch.equal, vae.buffers(), again.buffers()))
    assert dict(history) == dict(later)
    assert files(folder) == files(place)


@pytest.mark.parametrize(
    ("kind", "run"),
    [*((kind, "validated") for kind in MODELS), *(("narrow" if run == "scaled" else "dropout", run) for run in RUNS)],
)
def test_a_run_that_is_killed_and_gone_on_with_is_the_run_that_was_not(kind, run, tmp_path):
    options = {"epochs": 3, "checkpoint_minutes": 0.0, **RUNS[run]}
    vae = model(**MODELS[kind])
    whole = (vae, fit(vae, out=tmp_path / "whole", **options), tmp_path / "whole")
    for after in (1, 4, 7):
        out = tmp_path / f"killed-{after}"
        killed(after, vae=model(**MODELS[kind]), out=out, **options)
        again = model(**MODELS[kind])
        again.load_state_dict({name: torch.zeros_like(value) for name, value in again.state_dict().items()})
        assert_same(whole, (again, fit(again, out=out, resume=True, **options), out))


@pytest.mark.parametrize("minutes", [0.0, 1e9])
def test_a_run_that_is_killed_again_and_again(minutes, tmp_path):
    options = {"epochs": 3, "checkpoint_minutes": minutes, "validation": X[:9], "keep": 1}
    vae = model(**MODELS["dropout"])
    whole = (vae, fit(vae, out=tmp_path / "whole", **options), tmp_path / "whole")
    out = tmp_path / "killed"
    for number, after in enumerate((2, 1, 5, 3)):
        killed(after, vae=model(**MODELS["dropout"]), out=out, resume=number > 0, **options)
    again = model(**MODELS["dropout"])
    assert_same(whole, (again, fit(again, out=out, resume=True, **options), out))


@pytest.mark.parametrize("after", [1, 3, 4, 6, 8])
def test_an_interrupted_run_goes_on_from_the_step_it_had_come_to(after, tmp_path):
    options = {"epochs": 3, "validation": X[:9]}
    vae = model(**MODELS["dropout"])
    whole = (vae, fit(vae, out=tmp_path / "whole", **options), tmp_path / "whole")
    out = tmp_path / "interrupted"
    history = fit(model(**MODELS["dropout"]), out=out, callbacks=[Interrupt(after)], **options)
    assert history.interrupted
    assert history.epochs == (after - 1) // 4
    steps = []

    class Count(vaekit.Callback):
        def on_step_end(self, state):
            steps.append(state.step)

    history = vaekit.resume(out, X, validation=X[:9], callbacks=[Count()], progress=False, device="cpu")
    assert steps == list(range(after + 1, 13))
    assert not history.interrupted
    assert_same(whole, (vaekit.load(out / "last"), history, out))


def test_more_epochs_are_those_of_a_longer_run(tmp_path):
    vae = model()
    whole = (vae, fit(vae, out=tmp_path / "whole", epochs=4, validation=X[:9]), tmp_path / "whole")
    fit(model(), out=tmp_path / "longer", epochs=2, validation=X[:9])
    history = vaekit.resume(tmp_path / "longer", X, validation=X[:9], epochs=4, progress=False, device="cpu")
    assert_same(whole, (vaekit.load(tmp_path / "longer" / "last"), history, tmp_path / "longer"))


@pytest.mark.parametrize("stopped", [False, True])
def test_a_finished_run_stays_as_it_is(stopped, tmp_path):
    class Stop(vaekit.Callback):
        def on_epoch_end(self, state):
            state.stop = state.epoch == 0

    callbacks = [Stop()] if stopped else []
    history = fit(model(), out=tmp_path, epochs=2, callbacks=callbacks)
    before = files(tmp_path)
    again = vaekit.resume(tmp_path, X, progress=False, device="cpu")
    assert dict(again) == dict(history)
    assert again.epochs == (1 if stopped else 2)
    assert files(tmp_path) == before
    assert vaekit.resume(tmp_path, X, epochs=3, progress=False, device="cpu").epochs == 3


@pytest.mark.parametrize("epochs", [None, 3], ids=["as it was", "for more epochs"])
def test_an_epoch_that_was_stopped_and_interrupted_at_once_is_ended_first(epochs, tmp_path):
    class Both(vaekit.Callback):
        def __init__(self, interrupt):
            self.interrupt = interrupt

        def on_step_end(self, state):
            state.stop, state.interrupt = state.step == 6, self.interrupt if state.step == 6 else ""

    vae = model()
    whole = (vae, fit(vae, out=tmp_path / "whole", callbacks=[Both("")] if epochs is None else [], epochs=3), tmp_path / "whole")
    out = tmp_path / "run"
    assert fit(model(), out=out, callbacks=[Both("a test")], epochs=3 if epochs is None else 2).epochs == 1
    changes = {} if epochs is None else {"epochs": epochs}
    history = vaekit.resume(out, X, progress=False, device="cpu", **changes)
    assert history.epochs == (2 if epochs is None else 3)
    assert not history.interrupted
    assert_same(whole, (vaekit.load(out / "last"), history, out))


def test_resume_begins_a_run_where_there_is_none(tmp_path):
    one, other = model(), model()
    fit(one, out=tmp_path / "new", resume=True)
    fit(other, out=tmp_path / "other")
    assert files(tmp_path / "new") == files(tmp_path / "other")


def test_what_was_frozen_is_frozen_again(tmp_path):
    vae = model(**MODELS["batch-normalisation"])
    vae.encoder.requires_grad_(False).eval()
    frozen = [tensor.clone() for tensor in vae.encoder.state_dict().values()]
    fit(vae, out=tmp_path, callbacks=[Interrupt(3)])
    vaekit.resume(tmp_path, X, progress=False, device="cpu")
    assert all(map(torch.equal, vaekit.load(tmp_path / "last").encoder.state_dict().values(), frozen))
    with pytest.raises(ValueError, match="frozen parameters were .*encoder"):
        fit(model(**MODELS["batch-normalisation"]), out=tmp_path, resume=True)


class Total(vaekit.Callback):
    """Has a state."""

    def __init__(self):
        self.total, self.seen = 0, torch.zeros(2)

    def on_step_end(self, state):
        self.total += state.step
        self.seen[state.step % 2] += 1

    def state_dict(self):
        return {"total": self.total, "seen": self.seen}

    def load_state_dict(self, state):
        self.total, self.seen = state["total"], state["seen"]


def test_callbacks_get_their_states_back(tmp_path):
    fit(model(), out=tmp_path, callbacks=[Total(), Interrupt(3)])
    again = Total()
    vaekit.resume(tmp_path, X, callbacks=[vaekit.EarlyStopping(9, "loss"), again], progress=False, device="cpu")
    assert again.total == sum(range(1, 9))
    assert again.seen.tolist() == [4, 4]
    with pytest.raises(ValueError, match=r"callback Total .* given again"):
        vaekit.resume(tmp_path, X, progress=False, device="cpu")


def test_early_stopping_counts_on(tmp_path):
    def stopping():
        return vaekit.EarlyStopping(patience=2, min_delta=1e9)

    whole = fit(model(), out=tmp_path / "whole", validation=X[:9], epochs=9, callbacks=[stopping()])
    fit(model(), out=tmp_path / "run", validation=X[:9], epochs=9, callbacks=[stopping(), Interrupt(7)])
    history = vaekit.resume(tmp_path / "run", X, validation=X[:9], callbacks=[stopping()], progress=False, device="cpu")
    assert history.epochs == whole.epochs == 3


# Loaders.


class Stateful:
    """A loader that can say where it is, shuffled by a generator of its own."""

    def __init__(self, state=True):
        self.generator, self.order, self.place = torch.Generator().manual_seed(3), None, 0
        if not state:
            self.state_dict = self.load_state_dict = None

    def __iter__(self):
        if self.order is None or self.place >= 50:
            self.order, self.place = torch.randperm(50, generator=self.generator), 0
        while self.place < 50:
            self.place += 16
            yield X[self.order[self.place - 16 : self.place]]

    def state_dict(self):
        return {"order": self.order, "place": self.place, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.order, self.place = state["order"], state["place"]
        self.generator.set_state(state["generator"])


def shuffled():
    return DataLoader(TensorDataset(X), batch_size=16, shuffle=True)


@pytest.mark.parametrize(("loader", "first"), [(Stateful, 7), (shuffled, 5)], ids=["with state", "without"])
def test_a_loader_goes_on_where_it_can_say_where_it_is_and_else_at_its_beginning(loader, first, tmp_path):
    vae = model(**MODELS["dropout"])
    whole = (vae, fit(vae, loader(), out=tmp_path / "whole", epochs=3), tmp_path / "whole")
    out, steps = tmp_path / "run", []
    fit(model(**MODELS["dropout"]), loader(), out=out, epochs=3, callbacks=[Interrupt(6)])

    class Count(vaekit.Callback):
        def on_step_end(self, state):
            steps.append(state.step)

    history = vaekit.resume(out, loader(), callbacks=[Count()], progress=False, device="cpu")
    assert steps == list(range(first, 13))
    assert_same(whole, (vaekit.load(out / "last"), history, out))


@pytest.mark.parametrize("after", [4, 6, 8])
def test_a_loader_with_a_generator_of_its_own_goes_on_with_it(after, tmp_path):
    def loader():
        return DataLoader(TensorDataset(X), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(7))

    vae = model()
    whole = (vae, fit(vae, loader(), out=tmp_path / "whole", epochs=3), tmp_path / "whole")
    fit(model(), loader(), out=tmp_path / "run", epochs=3, callbacks=[Interrupt(after)])
    history = vaekit.resume(tmp_path / "run", loader(), progress=False, device="cpu")
    assert_same(whole, (vaekit.load(tmp_path / "run" / "last"), history, tmp_path / "run"))


class Augmented(torch.utils.data.Dataset):
    """Draws from every global generator there is."""

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return X[row] * (random.random() + np.random.rand() + float(torch.rand(()))) / 3


def augmented(**options):
    return DataLoader(Augmented(), batch_size=16, shuffle=True, **options)


def init(worker):
    random.random()
    torch.rand(worker)


class InOneProcess(Stateful):
    """Keeps its place in the epoch, but not that of the global generators."""

    def __iter__(self):
        for x in super().__iter__():
            yield x * (random.random() + np.random.rand()) / 2


@pytest.mark.parametrize(
    "loader",
    [augmented, partial(augmented, num_workers=2), partial(augmented, num_workers=2, worker_init_fn=init), InOneProcess],
    ids=["here", "workers", "worker_init_fn", "with state"],
)
def test_what_a_loader_draws_from_the_generators_of_python_and_numpy_is_drawn_again(loader, tmp_path):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    vae, before = model(), states()
    whole = (vae, fit(vae, loader(), validation=augmented(), out=tmp_path / "whole", epochs=3), tmp_path / "whole")
    assert states() == before
    random.random(), np.random.rand(), torch.rand(())  # which a run does not depend on
    fit(model(), loader(), validation=augmented(), out=tmp_path / "run", epochs=3, callbacks=[Interrupt(6)])
    history = go_on(tmp_path / "run", loader(), validation=augmented())
    assert_same(whole, (vaekit.load(tmp_path / "run/last"), history, tmp_path / "run"))


def test_what_layers_draw_from_the_generators_of_python_and_numpy_is_drawn_again_within_an_epoch(tmp_path):
    def noisy():
        vae = model()
        vae.encoder.register_forward_pre_hook(lambda m, given: (given[0] * (random.random() + np.random.rand()) / 2, *given[1:]))
        return vae

    vae = noisy()
    whole = (vae, fit(vae, out=tmp_path / "whole", epochs=3), tmp_path / "whole")
    fit(noisy(), out=tmp_path / "run", epochs=3, callbacks=[Interrupt(6)])
    again = noisy()
    assert_same(whole, (again, fit(again, out=tmp_path / "run", epochs=3, resume=True), tmp_path / "run"))


def test_workers_that_stay_are_told_of_where_a_run_goes_on(tmp_path, capfd):
    loader = partial(augmented, num_workers=1)
    for keeps in (False, True):
        fit(model(), loader(persistent_workers=keeps), out=tmp_path / str(keeps), callbacks=[Interrupt(6)])
        vaekit.resume(tmp_path / str(keeps), loader(persistent_workers=keeps), device="cpu")
        assert ("persistent workers begin anew" in capfd.readouterr().err) == keeps


@pytest.mark.parametrize("after", [4, 5, 8])
def test_validation_data_that_are_shuffled_are_so_in_the_same_way(after, tmp_path):
    def validation():
        return DataLoader(TensorDataset(X[:20]), batch_size=8, shuffle=True)

    vae = model()
    whole = (vae, fit(vae, out=tmp_path / "whole", epochs=3, validation=validation()), tmp_path / "whole")
    fit(model(), out=tmp_path / "run", epochs=3, validation=validation(), callbacks=[Interrupt(after)])
    history = vaekit.resume(tmp_path / "run", X, validation=validation(), progress=False, device="cpu")
    assert_same(whole, (vaekit.load(tmp_path / "run" / "last"), history, tmp_path / "run"))


@pytest.mark.parametrize("change", [{"x": X.flip(0)}, {"shuffle": False}, {"drop_last": True}], ids=["values", "order", "last"])
def test_another_loader_is_refused(change, tmp_path):
    def loader(x=X, shuffle=True, drop_last=False):
        return DataLoader(TensorDataset(x), batch_size=16, shuffle=shuffle, drop_last=drop_last)

    fit(model(), loader(), out=tmp_path, callbacks=[Interrupt(6)])
    with pytest.raises(ValueError, match="train: .*(values|sampler|drop_last)"):
        vaekit.resume(tmp_path, loader(**change))


class Rows(torch.utils.data.Dataset):
    """Examples that only a loader reads; without a way to read one where a row has no number."""

    def __init__(self, x, has_numbers=True):
        self.x, self.has_numbers = x, has_numbers

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row if self.has_numbers else row["row"]]


class Keyed(torch.utils.data.Sampler):
    def __iter__(self):
        yield from ({"row": row} for row in range(len(X)))


@pytest.mark.parametrize("workers", [0, 1])
def test_other_data_of_the_same_size_in_a_loader_are_refused(workers, tmp_path):
    def loader(x):
        return DataLoader(Rows(x), batch_size=16, num_workers=workers)

    fit(model(), loader(X), validation=loader(X[:9]), out=tmp_path, callbacks=[Interrupt(6)])
    for data, validation, which in ((X.flip(0), X[:9], "train"), (X, X[1:10], "validation")):
        with pytest.raises(ValueError, match=f"{which}: the values in 64 rows differ"):
            go_on(tmp_path, loader(data), validation=loader(validation))
    assert go_on(tmp_path, loader(X), validation=loader(X[:9])).epochs == 2


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (lambda: list(X.split(16)), "list has no rows that can be read one by one"),
        (
            lambda: DataLoader(Rows(X, has_numbers=False), batch_size=16, sampler=Keyed()),
            "reading its rows .* failed, TypeError: ",
        ),
    ],
    ids=["list", "keys"],
)
def test_data_that_cannot_be_compared_are_told_of_where_a_run_goes_on(loader, why, tmp_path, capfd):
    fit(model(), loader(), validation=X[:9], out=tmp_path, progress=True)
    assert "compared" not in capfd.readouterr().err
    vaekit.resume(tmp_path, loader(), validation=X[:9], epochs=3, device="cpu")
    said = capfd.readouterr().err
    assert re.search(f"train: its values could not be compared with those that the run began with: {why}", said)
    assert "validation: its" not in said


@pytest.mark.parametrize("optimizer", ["adam", {"name": "sgd", "momentum": 0.9}], ids=str)
def test_weights_in_another_memory_format_go_on_with_their_own_moments(optimizer, tmp_path):
    def convolutional():
        vae = vaekit.create_vae(input_shape=(3, 8, 8), latent_dim=2, encoder={"name": "conv", "channels": (4, 6)}, seed=0)
        return vae.to(memory_format=torch.channels_last)

    x = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"optimizer": optimizer, "learning_rate": 0.01, "epochs": 3}
    vae = convolutional()
    whole = (vae, fit(vae, x, out=tmp_path / "whole", **options), tmp_path / "whole")
    fit(convolutional(), x, out=tmp_path / "run", callbacks=[Interrupt(3)], **options)
    again = convolutional()
    assert_same(whole, (again, fit(again, x, out=tmp_path / "run", resume=True, **options), tmp_path / "run"))


@pytest.mark.parametrize("mode", [True, False])
def test_a_frozen_module_in_evaluation_mode_is_so_again_whatever_the_model_was_in(mode, tmp_path):
    def frozen():
        vae = model(**MODELS["batch-normalisation"])
        vae.train(mode)
        vae.encoder.requires_grad_(False).eval()
        return vae

    vae = frozen()
    whole = (vae, fit(vae, out=tmp_path / "whole", epochs=3), tmp_path / "whole")
    fit(frozen(), out=tmp_path / "run", epochs=3, callbacks=[Interrupt(3)])
    history = vaekit.resume(tmp_path / "run", X, progress=False, device="cpu")
    assert_same(whole, (vaekit.load(tmp_path / "run" / "last"), history, tmp_path / "run"))
    other = model(**MODELS["batch-normalisation"])
    other.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="evaluation mode were .*encoder"):
        fit(other, out=tmp_path / "run", epochs=4, resume=True)


# What is refused.


CHANGES = {
    "batch_size": {"batch_size": 8},
    "seed": {"seed": 1},
    "learning_rate": {"learning_rate": 0.1},
    "optimizer": {"optimizer": "sgd"},
    "accumulate": {"accumulate": 2},
    "ema": {"ema": 0.9},
    "number of examples": {"data": X[:49]},
    "values": {"data": X + 0.001},
    "validation": {"validation": X[:9]},
    "the loss's beta was not set and is 2.0": {"vae": {"loss": {"name": "elbo", "beta": 2.0}}},
    "the model's loss was": {"vae": {"loss": "iwae"}},
    r"the encoder's hidden was \[8\] and is \[9\]": {"vae": {"encoder": {"hidden": (9,)}}},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_run_is_refused_by_what_differs(what, tmp_path):
    fit(model(), out=tmp_path, callbacks=[Interrupt(3)])
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    changes = dict(CHANGES[what])
    vae = model(**changes.pop("vae", {}))
    data = changes.pop("data", X)
    with pytest.raises(ValueError, match=f"cannot go on: .*{what}"):
        fit(vae, data, out=tmp_path, resume=True, **changes)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_resume_takes_what_may_change_and_no_more(tmp_path):
    fit(model(), out=tmp_path)
    with pytest.raises(TypeError, match="resume takes no batch_size"):
        vaekit.resume(tmp_path, X, batch_size=8)
    with pytest.raises(TypeError, match="resume takes no epoch; it takes .*epochs"):
        vaekit.resume(tmp_path, X, epoch=3)
    with pytest.raises(FileNotFoundError, match="run.json has no checkpoint"):
        vaekit.resume(tmp_path / "run.json", X)
    with pytest.raises(TypeError, match="resume takes no out"):
        vaekit.resume(tmp_path, X, out=tmp_path)
    with pytest.raises(TypeError, match="resume"):
        fit(model(), out=tmp_path, resume="no")
    with pytest.raises(FileNotFoundError, match="no checkpoint to go on from"):
        vaekit.resume(tmp_path / "other", X)
    with pytest.raises(ValueError, match="give out="):
        fit(model(), resume=True)
    fit(model(), out=tmp_path / "none", keep=0)
    assert not (tmp_path / "none" / "checkpoints").exists()
    with pytest.raises(FileExistsError, match="no checkpoint"):
        fit(model(), out=tmp_path / "none", resume=True)


def test_an_optimizer_that_is_a_function_is_given_again(tmp_path):
    def mine(groups):
        return torch.optim.SGD(groups, momentum=0.9)

    vae = model()
    whole = (vae, fit(vae, out=tmp_path / "whole", optimizer=mine), tmp_path / "whole")
    out = tmp_path / "run"
    fit(model(), out=out, optimizer=mine, callbacks=[Interrupt(3)])
    with pytest.raises(TypeError, match="was .*mine, which is not registered; give optimizer="):
        vaekit.resume(out, X)
    with pytest.raises(ValueError, match="optimizer was .*mine.* and is 'adam'"):
        vaekit.resume(out, X, optimizer="adam")
    history = vaekit.resume(out, X, optimizer=mine, progress=False, device="cpu")
    assert_same(whole, (vaekit.load(out / "last"), history, out))


class Rates(vaekit.Callback):
    def __init__(self):
        self.seen = []

    def on_step_end(self, state):
        self.seen.append(state.learning_rate)


@pytest.mark.parametrize("end", [0.0, 0.001])
def test_a_schedule_as_long_as_the_run_stays_as_long_as_it_was_planned_and_the_folder_says_so(end, tmp_path, capfd):
    rate, rates = {"name": "linear", "start": 0.01, "end": end}, Rates()
    fit(model(), out=tmp_path / "run", epochs=2, learning_rate=rate)
    assert json.loads((tmp_path / "run/run.json").read_text())["planned_epochs"] is None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        history = vaekit.resume(tmp_path / "run", X, epochs=3, callbacks=[rates], device="cpu")
    assert rates.seen == [end] * 4
    said = capfd.readouterr().err.splitlines()
    assert f"the learning rate keeps the schedule for 2 epochs with which the run began, and stays at {end:g} after them" in said
    assert ["what comes until epoch 3 changes no weights" in str(one.message) for one in warned] == ([] if end else [True])
    settings = json.loads((tmp_path / "run/run.json").read_text())
    assert (settings["epochs"], settings["planned_epochs"]) == (3, 2)

    again = model()  # what `vaekit train --config` would train from that file
    repeated = fit(again, out=tmp_path / "again", epochs=3, planned_epochs=2, learning_rate=rate)
    assert dict(repeated) == dict(history)
    assert torch.equal(weights(again), weights(vaekit.load(tmp_path / "run/last")))
    for planned in (None, 2):  # as before, by whatever leads there
        assert go_on(tmp_path / "run", epochs=3).epochs == 3
        assert fit(model(), out=tmp_path / "run", epochs=3, planned_epochs=planned, learning_rate=rate, resume=True).epochs == 3
    with pytest.raises(ValueError, match="planned_epochs was 2 and is 3"):
        fit(model(), out=tmp_path / "run", epochs=3, planned_epochs=3, learning_rate=rate, resume=True)


def test_a_run_that_has_ended_says_so(tmp_path, capfd):
    fit(model(), out=tmp_path, epochs=2)
    vaekit.resume(tmp_path, X, device="cpu")
    assert "the run has ended already, after step 8 of epoch 2; more epochs go on with it" in capfd.readouterr().err
    vaekit.resume(tmp_path, X, device="cpu", epochs=3)
    assert "resumed after step 8, at the start of epoch 3" in capfd.readouterr().err


def test_nothing_is_said_of_a_rate_that_more_epochs_do_not_change(tmp_path, capfd):
    fit(model(), out=tmp_path, epochs=1)
    vaekit.resume(tmp_path, X, epochs=2, device="cpu")
    assert "schedule" not in capfd.readouterr().err
    assert json.loads((tmp_path / "run.json").read_text())["planned_epochs"] is None


def test_two_processes_do_not_go_on_with_one_run(tmp_path):
    fit(model(), out=tmp_path, callbacks=[Interrupt(3)])

    class Beside(vaekit.Callback):
        def on_fit_start(self, state):
            with pytest.raises(FileExistsError, match="in use by another run"):
                fit(model(), out=tmp_path, resume=True)
            seen.append(state.step)

    seen = []
    fit(model(), out=tmp_path, resume=True, callbacks=[Beside()])
    assert seen == [3]


# Checkpoints as files.


def checkpoints(folder):
    return sorted((folder / "checkpoints").glob("step-?????????.safetensors"))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_few_are_kept(keep, tmp_path):
    fit(model(), out=tmp_path, keep=keep, checkpoint_minutes=0.0)
    assert [int(file.stem[5:]) for file in checkpoints(tmp_path)] == list(range(9 - keep, 9))


def torn(content):
    return content[: len(content) // 2]


def flipped(content):
    place = len(content) - 1000
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def foreign(content):
    return (b"GIF89a" * 100)[: len(content)]


@pytest.mark.parametrize("damage", [torn, flipped, foreign, lambda content: b""], ids=["torn", "flipped", "foreign", "empty"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_used(damage, tmp_path):
    vae = model()
    whole = (vae, fit(vae, out=tmp_path / "whole"), tmp_path / "whole")
    out = tmp_path / "run"
    fit(model(), out=out, checkpoint_minutes=0.0, callbacks=[Interrupt(6)])
    first, last = checkpoints(out)
    last.write_bytes(damage(last.read_bytes()))
    with pytest.warns(UserWarning, match=rf"{last.name}.* goes on from {first.name}"):
        history = vaekit.resume(out, X, progress=False, device="cpu")
    assert_same(whole, (vaekit.load(out / "last"), history, out))
    for file in checkpoints(out):
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=f"no checkpoint .*can be used.*{checkpoints(out)[-1].name}"):
        vaekit.resume(out, X)


def test_every_bit_of_a_checkpoint_counts(tmp_path):
    fit(model(), out=tmp_path, keep=1, callbacks=[Interrupt(3)])
    (file,) = checkpoints(tmp_path)
    content = file.read_bytes()
    for place in {0, 7, 8, 100, len(content) // 2, len(content) - 33, len(content) - 1}:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            Snapshots(tmp_path / "checkpoints", 1).newest()
    file.write_bytes(content)
    assert Snapshots(tmp_path / "checkpoints", 1).newest().step == 3


def test_nothing_is_pickled(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was pickled")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    fit(model(), out=tmp_path, ema=0.9, callbacks=[Total(), Interrupt(3)])
    history = vaekit.resume(tmp_path, X, callbacks=[Total()], progress=False, device="cpu")
    assert history.epochs == 2


def test_a_checkpoint_says_what_the_run_is_made_from_and_safetensors_reads_it(tmp_path):
    from safetensors import safe_open

    vae = model()
    fit(vae, out=tmp_path, keep=1)
    with safe_open(checkpoints(tmp_path)[0], framework="pt") as file:
        about = json.loads(file.metadata()["vaekit-checkpoint"])["about"]
        total = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert about["model"] == vae.config()
    assert about["options"]["batch_size"] == 16
    assert total > 3 * len(weights(vae))  # Adam's moments too


# What was gained stays.


class Fails(vaekit.Callback):
    def on_fit_start(self, state):
        raise RuntimeError("of a callback")


def everything(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def flip(file):
    file.write_bytes(flipped(file.read_bytes()))


def go_on(folder, data=X, **changes):
    return vaekit.resume(folder, data, progress=False, device="cpu", **changes)


def test_a_run_that_goes_back_to_its_beginning_and_fails_there_leaves_what_it_had(tmp_path):
    vae = model()
    whole = (vae, fit(vae, out=tmp_path / "whole", epochs=4), tmp_path / "whole")
    out = tmp_path / "run"
    fit(model(), out=out, epochs=4)
    flip(checkpoints(out)[-1])
    before = files(out)
    assert before.keys() >= {"best/model.safetensors", "history.csv"}
    with (
        pytest.warns(UserWarning, match=r"step-000000016.*from step-000000000.*again for what 4 epochs had"),
        pytest.raises(RuntimeError),
    ):
        go_on(out, callbacks=[Fails()])
    assert files(out) == before
    assert len(checkpoints(out)) == 2
    with pytest.warns(UserWarning, match="goes on from"):
        assert go_on(out, callbacks=[Interrupt(2)]).interrupted
    assert before.items() - files(out).items() == {("last/model.safetensors", before["last/model.safetensors"])}
    history = go_on(out)
    assert_same(whole, (vaekit.load(out / "last"), history, out))


@pytest.fixture
def with_best(tmp_path):
    """A run within its second epoch, with checkpoints after steps 4 and 6 and copies of `best` that are files of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.training.snapshots.os.link", _refused)
        options = {"epochs": 3, "validation": X[:9], "checkpoint_minutes": 0.0}
        fit(model(), out=tmp_path / "run", callbacks=[Interrupt(7)], **options)
        whole = model()
        history = fit(whole, out=tmp_path / "whole", **options)
    return tmp_path / "run", (whole, history, tmp_path / "whole")


def _refused(*_):
    raise OSError("no links here")


def removed(folder, copy):
    for file in (folder / "best").iterdir():
        file.unlink()
    (folder / "best").rmdir()


def copy_flipped(folder, copy):
    flip(copy)


def copy_missing(folder, copy):
    copy.unlink()


@pytest.mark.parametrize("damage", [removed, copy_flipped, copy_missing])
def test_best_comes_back_from_its_copy_or_stays(damage, with_best):
    out, whole = with_best
    before = everything(out / "best")
    damage(out, out / "checkpoints" / "step-000000007-best.safetensors")
    with pytest.raises(RuntimeError):
        go_on(out, validation=X[:9], callbacks=[Fails()])
    assert everything(out / "best") == before
    assert (out / "checkpoints" / "step-000000007-best.safetensors").read_bytes() == before["model.safetensors"]
    history = go_on(out, validation=X[:9])
    assert_same(whole, (vaekit.load(out / "last"), history, out))


def test_a_checkpoint_whose_best_weights_are_damaged_everywhere_is_passed_over(with_best):
    out, whole = with_best
    removed(out, None)
    flip(out / "checkpoints" / "step-000000007-best.safetensors")
    with pytest.warns(UserWarning, match=r"step-000000007-best.safetensors, which is missing or damaged.*from step-000000006"):
        history = go_on(out, validation=X[:9])
    assert_same(whole, (vaekit.load(out / "last"), history, out))


def test_nothing_half_done_stays_in_the_folder(tmp_path):
    fit(model(), out=tmp_path, keep=3, epochs=3, checkpoint_minutes=0.0, callbacks=[Interrupt(7)])
    folder = tmp_path / "checkpoints"
    (folder / f".step-000000099.safetensors.{'0' * 32}.tmp").write_bytes(b"half")
    (folder / "step-000000099-best.safetensors").write_bytes(b"whose checkpoint is gone")
    (damaged := folder / "step-000000007.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="goes on from step-000000006"):
        go_on(tmp_path, callbacks=[Interrupt(6)], checkpoint_minutes=1e9, keep=3)
    assert not damaged.exists()
    assert not [*folder.glob(".*"), *folder.glob("step-000000099*")]
    go_on(tmp_path)
    steps = {file.stem for file in checkpoints(tmp_path)}
    assert {file.stem.removesuffix("-best") for file in folder.glob("step-*")} == steps


def test_a_run_that_keeps_no_checkpoint_any_more_leaves_none_that_is_behind(tmp_path):
    fit(model(), out=tmp_path, callbacks=[Interrupt(3)])
    assert go_on(tmp_path, keep=0, callbacks=[Interrupt(5)]).interrupted
    assert checkpoints(tmp_path)  # from which it can still go on
    assert go_on(tmp_path, keep=0, epochs=3).epochs == 3
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        go_on(tmp_path)


@pytest.mark.parametrize("name", ["step-000000999", "step-000000008"], ids=["renamed", "as it was"])
def test_a_checkpoint_of_another_run_is_refused_by_name(name, tmp_path):
    vae = model()
    whole = (vae, fit(vae, out=tmp_path / "whole"), tmp_path / "whole")
    fit(model(encoder={"hidden": (9,)}), out=tmp_path / "other")
    fit(model(), out=tmp_path / "run", callbacks=[Interrupt(3)])
    foreign = tmp_path / "other" / "checkpoints" / "step-000000008"
    for end in (".safetensors", "-best.safetensors"):
        (tmp_path / "run" / "checkpoints" / f"{name}{end}").write_bytes(foreign.with_name(foreign.name + end).read_bytes())
    with pytest.warns(UserWarning, match=rf"{name}.*(another run|another name).* goes on from step-000000003"):
        history = go_on(tmp_path / "run")
    assert_same(whole, (vaekit.load(tmp_path / "run" / "last"), history, tmp_path / "run"))


@pytest.mark.parametrize("loader", [lambda: X, Stateful], ids=["whole", "loader"])
@pytest.mark.parametrize("stopped", [False, True])
def test_more_epochs_are_not_forgotten_by_a_run_that_is_killed_at_once(stopped, loader, tmp_path):
    class Stop(vaekit.Callback):
        def on_epoch_end(self, state):
            state.stop = stopped and state.epoch == 1

    vae = model()
    whole = (vae, fit(vae, loader(), out=tmp_path / "whole", epochs=4), tmp_path / "whole")
    out = tmp_path / "run"
    fit(model(), loader(), out=out, epochs=2, callbacks=[Stop()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.training.checkpoints.Checkpoints.run_ended", lambda *_: None)
        with pytest.raises(Killed):
            go_on(out, loader(), epochs=4, callbacks=[Kill(1)])
    history = go_on(out, loader())
    assert history.epochs == 4
    assert_same(whole, (vaekit.load(out / "last"), history, out))


def test_fewer_epochs_than_a_run_has_are_not_noted(tmp_path):
    fit(model(), out=tmp_path, epochs=3)
    assert go_on(tmp_path, epochs=2).epochs == 3
    assert json.loads((tmp_path / "run.json").read_bytes())["epochs"] == 3
    assert go_on(tmp_path).epochs == 3
    assert Snapshots(tmp_path / "checkpoints", 1).newest().about["options"]["epochs"] == 3


def test_a_run_that_is_refused_for_a_callback_is_not_touched(tmp_path):
    fit(model(), out=tmp_path, callbacks=[Total(), Interrupt(3)])
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="callback Total"):
        go_on(tmp_path, epochs=5)
    assert everything(tmp_path) == before


def test_a_run_json_that_no_run_has_begun_with_is_its_owners(tmp_path):
    (tmp_path / "run.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"run\.json"):
        fit(model(), out=tmp_path, resume=True)
    assert everything(tmp_path) == {"run.json": b"mine"}
    (tmp_path / "environment.json").write_text("[]")  # a run was killed before its first checkpoint
    assert fit(model(), out=tmp_path, resume=True).epochs == 2
