"""Laws of callbacks: which events there are and when, what ends a run, and what comes with vaekit."""

import math
import sys

import numpy as np
import pytest
import torch
from helpers.commands import STUB_CATALOGUE, StubFigure
from helpers.small_runs import X, fit, model, weights

import vaekit
from vaekit import Callback, ModelCheckpoint, Pictures, TimeLimit
from vaekit.plain import pack, unpack
from vaekit.plots import catalogue
from vaekit.plots.drawing import save_figure
from vaekit.training import RunState


class Clock:
    """Seconds that pass only when somebody asks."""

    def __init__(self, seconds=1.0):
        self.seconds, self.now = seconds, 0.0

    def __call__(self):
        self.now += self.seconds
        return self.now


class Record(Callback):
    """The events of a run, in order."""

    def __init__(self):
        self.events = []

    def on_fit_start(self, state):
        self.events.append("start")

    def on_step_end(self, state):
        self.events.append(state.step)

    def on_validation_end(self, state):
        self.events.append("validation")

    def on_epoch_end(self, state):
        self.events.append("epoch")

    def on_fit_end(self, state):
        self.events.append("end")


class Raises(Callback):
    def __init__(self, event, error=None):
        self.error = error or RuntimeError("from a callback")
        setattr(self, event, self._raise)

    def _raise(self, state):
        raise self.error


# Events.


def test_the_events_of_a_run_come_in_order():
    record = Record()
    fit(model(), validation=X, epochs=2, batch_size=25, callbacks=[record])
    assert record.events == ["start", 1, 2, "validation", "epoch", 3, 4, "validation", "epoch", "end"]


@pytest.mark.parametrize("event", ["on_fit_start", "on_step_end", "on_validation_end", "on_epoch_end", "on_fit_end"])
def test_the_end_is_told_however_the_run_ended(event, tmp_path):
    record, first = Record(), Record()
    with pytest.raises(RuntimeError, match="from a callback"):
        fit(model(), validation=X, epochs=1, callbacks=[first, Raises(event), record], out=tmp_path)
    assert record.events[-1] == first.events[-1] == "end"
    assert (tmp_path / "last").is_dir() == (event != "on_fit_start")


def test_the_end_is_told_after_an_interrupt_and_after_a_loss_that_is_not_finite():
    for error in (KeyboardInterrupt(), vaekit.NonFiniteLossError("planted")):
        record = Record()
        try:
            assert fit(model(), callbacks=[Raises("on_step_end", error), record]).interrupted
        except vaekit.NonFiniteLossError:
            assert not isinstance(error, KeyboardInterrupt)
        assert record.events == ["start", "end"]


def test_a_callback_has_no_state_unless_it_says_so():
    assert Callback().state_dict() == {}
    Callback().load_state_dict({})
    with pytest.raises(ValueError, match="a state for Record, best, count, but that has no load_state_dict"):
        Record().load_state_dict({"best": 1, "count": 2})


# What interrupts a run.


def test_a_time_limit_ends_the_run_at_the_next_step_with_everything_saved(tmp_path):
    vae, record = model(), Record()
    limit = TimeLimit(minutes=0.1, clock=Clock())  # 6 s; the clock has 1 s a step
    history = fit(vae, epochs=9, out=tmp_path, callbacks=[limit, record])
    assert record.events == ["start", 1, 2, 3, 4, "epoch", 5, 6, "end"]
    assert history.interrupted
    assert history.reason == "the time limit of 0.1 minutes"
    assert history.epochs == 1
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))


def test_a_time_limit_counts_from_the_beginning_of_each_run():
    clock = Clock()
    limit = TimeLimit(minutes=0.1, clock=clock)
    for _ in range(2):
        clock.now += 1000
        record = Record()
        fit(model(), epochs=9, callbacks=[limit, record])
        assert record.events[-2:] == [6, "end"]


def test_a_run_within_its_time_limit_is_not_interrupted():
    history = fit(model(), time_limit=60)
    assert (history.epochs, history.interrupted, history.reason) == (2, False, "")


def test_the_time_limit_of_fit_is_in_minutes(monkeypatch):
    record = Record()
    monkeypatch.setattr(sys.modules["vaekit.training.fit"], "TimeLimit", lambda minutes: TimeLimit(minutes, Clock(30.0)))
    assert fit(model(), epochs=9, time_limit=2.5, callbacks=[record]).interrupted
    assert record.events[-2:] == [5, "end"]


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), "1h30m", True])
def test_a_time_limit_is_a_number_of_minutes(minutes):
    with pytest.raises((TypeError, ValueError), match="minutes"):
        TimeLimit(minutes)
    with pytest.raises((TypeError, ValueError), match="time_limit"):
        fit(model(), time_limit=minutes)


# Pictures.


def images(count=9):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def image_model(**parts):
    hidden = {"encoder": {"hidden": (8,), "dropout": 0.5}, "decoder": {"hidden": (8,)}}
    return vaekit.create_vae(input_shape=(1, 6, 6), latent_dim=2, seed=0, **{**hidden, **parts})


def test_pictures_are_those_that_a_run_ends_with_every_few_epochs(tmp_path):
    vae, x = image_model(), images()
    history = fit(vae, images(20), epochs=4, ema=0.5, callbacks=[Pictures(x, every=2, folder=tmp_path / "pictures")])
    expected = {}
    for name, figure in catalogue.fitting(catalogue.Subject(vae, vaekit.data.as_examples(x), history)):
        expected[name] = save_figure(figure, tmp_path / f"{name}.png").read_bytes()
    assert expected.keys() == {"loss", "reconstructions", "samples", "latent_space", "latent_grid"}
    drawn = {file.name for file in (tmp_path / "pictures").iterdir()}
    assert drawn == {f"{name}-{epoch}.png" for name in expected for epoch in ("0002", "0004")}
    for name, picture in expected.items():  # the last ones are of the averaged weights, which are now the model's
        assert (tmp_path / "pictures" / f"{name}-0004.png").read_bytes() == picture


def test_pictures_change_neither_the_model_nor_the_noise(tmp_path, stub_pictures):
    with_them, without = image_model(), image_model()
    drawing = fit(with_them, images(20), epochs=3, ema=0.9, callbacks=[Pictures(images(), folder=tmp_path), Draws()])
    plain = fit(without, images(20), epochs=3, ema=0.9)
    assert dict(drawing) == dict(plain)
    assert torch.equal(weights(with_them), weights(without))
    assert len(list(tmp_path.iterdir())) == 3


class Draws(Callback):
    """Draws from the global generator, as a picture with dropout would."""

    def on_epoch_end(self, state):
        torch.rand(7)


@pytest.fixture
def stub_pictures(monkeypatch):
    monkeypatch.setattr(catalogue, "CATALOGUE", STUB_CATALOGUE)


def test_pictures_go_to_the_trackers_where_there_is_no_folder(tmp_path, stub_pictures, monkeypatch):
    class Shows(vaekit.Tracker):
        shows_pictures, shown = True, []

        def log_picture(self, name, figure, step):
            self.shown.append((name, type(figure), step))

    fit(model(), callbacks=[Pictures(X)], trackers=["csv", shows := Shows()])
    assert shows.shown == [("stub", StubFigure, 4), ("stub", StubFigure, 8)]
    shows.shown.clear()
    fit(model(), callbacks=[Pictures(X, folder=tmp_path)], trackers=[shows])
    assert shows.shown == []
    assert {file.name for file in tmp_path.iterdir()} == {"stub-0001.png", "stub-0002.png"}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda folder: Pictures(X), ValueError, "Pictures has neither a folder nor a tracker that shows pictures"),
        (lambda folder: Pictures(X[:, :5], folder=folder), ValueError, "the data of Pictures"),
        (lambda folder: Pictures(X, every=0, folder=folder), ValueError, "every has to be a whole number of at least 1"),
        (lambda folder: ModelCheckpoint(folder, mode="least"), ValueError, "mode has to be one of 'min', 'max'"),
        (lambda folder: ModelCheckpoint(folder, keep=0), ValueError, "keep has to be a whole number of at least 1"),
        (
            lambda folder: ModelCheckpoint(folder, monitor="elbo"),
            ValueError,
            "ModelCheckpoint watches 'elbo', but the history has",
        ),
    ],
)
def test_mistakes_of_callbacks_are_told(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        fit(model(), callbacks=[make(tmp_path)])


def test_another_process_than_the_first_writes_nothing(tmp_path):
    class Other(Callback):
        def on_fit_start(self, state):
            state.rank = 1

    callbacks = [Other(), Pictures(X, folder=tmp_path), keeper := ModelCheckpoint(tmp_path, monitor="loss", keep=2)]
    history = fit(model(), epochs=4, callbacks=callbacks)
    assert list(tmp_path.iterdir()) == []
    assert keeper.best == tmp_path / f"epoch-{np.argmin(history['loss']) + 1:04}"  # it knows all the same


# The best models.


class Weights(Callback):
    def __init__(self):
        self.by_epoch = []

    def on_epoch_end(self, state):
        with state.averaged() as vae:
            self.by_epoch.append(weights(vae).clone())


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "min"), ("kl", "max")])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_the_best_epochs_by_a_term_are_kept(monitor, mode, ema, tmp_path):
    keeper, seen = ModelCheckpoint(tmp_path, monitor, mode, keep=3), Weights()
    history = fit(model(), validation=X[:5], epochs=8, learning_rate=0.3, ema=ema, callbacks=[keeper, seen])
    order = np.argsort(np.array(history[monitor]) * (1 if mode == "min" else -1))[:3]
    assert {file.name for file in tmp_path.iterdir()} == {f"epoch-{epoch + 1:04}" for epoch in order}
    for epoch in order:
        assert torch.equal(weights(vaekit.load(tmp_path / f"epoch-{epoch + 1:04}")), seen.by_epoch[epoch])
    assert keeper.best == tmp_path / f"epoch-{order[0] + 1:04}"


def ended(keeper, values, settled=None):
    """Tell a keeper of so many epochs, one after the other."""
    state = RunState(model(), None)
    keeper.on_fit_start(state)
    for value, is_settled in zip(values, settled or [True] * len(values), strict=True):
        state.history.append({"loss": value}, 1.0, is_settled=is_settled)
        keeper.on_epoch_end(state)
    return state


def names_in(folder):
    return sorted(int(file.name.removeprefix("epoch-")) for file in folder.iterdir())


@pytest.mark.parametrize(
    ("values", "settled", "kept"),
    [
        ([3.0, math.nan, 4.0, math.inf], None, [1, 3]),
        ([1.0, 2.0, 3.0, 2.5], [False, False, True, True], [3, 4]),  # the weight grew until the third
        ([1.0, 2.0, 3.0], [False, False, False], [2, 3]),  # the last has come closest
        ([2.0, 2.0, 2.0], None, [1, 2]),
    ],
)
def test_nan_and_epochs_before_a_final_weight_are_worse_than_others(values, settled, kept, tmp_path):
    ended(ModelCheckpoint(tmp_path, monitor="loss", keep=2), values, settled)
    assert names_in(tmp_path) == kept


def test_a_resumed_run_keeps_what_one_that_went_on_would(tmp_path):
    values = [5.0, 4.0, 6.0, 3.0, 7.0, 2.0]
    state = ended(keeper := ModelCheckpoint(tmp_path, monitor="loss", keep=2), values[:3])
    saved = unpack(*pack(keeper.state_dict()))
    for value in values[3:5]:  # which the checkpoint does not know of
        state.history.append({"loss": value}, 1.0)
        keeper.on_epoch_end(state)
    assert names_in(tmp_path) == [2, 4]
    again, state = ModelCheckpoint(tmp_path, monitor="loss", keep=2), RunState(model(), None)
    again.load_state_dict(saved)
    for value in values[:3]:
        state.history.append({"loss": value}, 1.0)
    again.on_fit_start(state)
    for value in values[3:]:
        state.history.append({"loss": value}, 1.0)
        again.on_epoch_end(state)
    assert names_in(tmp_path) == [4, 6]
    assert again.best == tmp_path / "epoch-0006"
    with pytest.raises(FileExistsError, match="epoch-0004 is the model of an earlier run"):
        again.on_fit_start(state)


def test_what_a_killed_run_kept_after_its_checkpoint_is_forgotten(tmp_path):
    values = [5.0, 4.0, 3.0, 6.0]
    state = ended(keeper := ModelCheckpoint(tmp_path, monitor="loss"), values[:2])
    saved = unpack(*pack(keeper.state_dict()))
    state.history.append({"loss": values[2]}, 1.0)
    keeper.on_epoch_end(state)
    assert names_in(tmp_path) == [3]
    again, state = ModelCheckpoint(tmp_path, monitor="loss"), RunState(model(), None)
    again.load_state_dict(saved)
    for value in values[:2]:
        state.history.append({"loss": value}, 1.0)
    again.on_fit_start(state)
    assert names_in(tmp_path) == []
    with pytest.raises(ValueError, match="has kept no model"):
        again.best  # noqa: B018
    state.history.append({"loss": values[3]}, 1.0)  # another third epoch, of a run with another callback
    again.on_epoch_end(state)
    assert again.best == tmp_path / "epoch-0003"
    assert names_in(tmp_path) == [3]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"folder": "b"}, "folder was .*a' and is .*b'"),
        ({"monitor": "kl"}, "monitor was 'loss' and is 'kl'"),
        ({"mode": "max"}, "mode was 'min' and is 'max'"),
    ],
)
def test_two_that_keep_models_do_not_take_each_others_state(other, message, tmp_path):
    def keepers():
        one = {"folder": "a", "monitor": "loss", "mode": "min"}
        return [ModelCheckpoint(tmp_path / given.pop("folder"), **given) for given in (dict(one), {**one, **other})]

    first, second = keepers()
    second.folder = first.folder.parent / ("b" if "folder" in other else "c")
    fit(model(), epochs=1, out=tmp_path / "run", callbacks=[first, second])
    first, second = keepers()
    second.folder = first.folder.parent / ("b" if "folder" in other else "c")
    with pytest.raises(ValueError, match=f"another ModelCheckpoint's: .*{message}.*in the same order"):
        vaekit.resume(tmp_path / "run", X, epochs=2, callbacks=[second, first], progress=False, device="cpu")
    vaekit.resume(tmp_path / "run", X, epochs=2, callbacks=[first, second], progress=False, device="cpu")


def test_a_folder_of_models_may_have_been_moved(tmp_path):
    ended(keeper := ModelCheckpoint(tmp_path / "a", monitor="loss"), [1.0])
    saved = keeper.state_dict()
    (tmp_path / "a").rename(tmp_path / "b")
    again, state = ModelCheckpoint(tmp_path / "b", monitor="loss"), RunState(model(), None)
    again.load_state_dict(saved)
    state.history.append({"loss": 1.0}, 1.0)
    again.on_fit_start(state)
    assert again.best == tmp_path / "b" / "epoch-0001"


def test_a_model_that_cannot_be_kept_is_found_before_the_first_step(tmp_path):
    parts, record = model(), Record()
    vae = vaekit.VAE(parts.encoder, torch.nn.Sequential(parts.decoder)[0], likelihood=parts.likelihood, loss=Unregistered())
    with pytest.raises(ValueError, match="Unregistered"):
        fit(vae, callbacks=[ModelCheckpoint(tmp_path, monitor="loss"), record])
    assert record.events == ["end"]
    with pytest.raises(ValueError, match="no epoch has ended yet"):
        ModelCheckpoint(tmp_path).best  # noqa: B018


class Unregistered(vaekit.Elbo):
    pass
