"""Laws of trackers: what a run records does not depend on when it was looked at, and the real packages find it on the disk."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from helpers import wandb_files
from helpers.small_runs import X, fit, model, weights
from PIL import Image

import vaekit
from vaekit import Tracker, UnknownNameError
from vaekit.evaluation.terms import TermSums
from vaekit.plots.drawing import new_figure
from vaekit.training import FitOptions, RunState, watch
from vaekit.training.guard import Taken
from vaekit.training.recorder import Recorder
from vaekit.training.trackers import JsonLines, Summary, TrackedRun, build

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}  # by tracker
RATE = {"name": "linear", "start": 0.1, "end": 0.0125, "steps": 100}


class Kept(Tracker):
    """Keeps what it is told."""

    def __init__(self):
        self.told, self.run = [], None

    def begin(self, run):
        self.run = run

    def log_steps(self, record):
        self.told.append(record)

    def log_epoch(self, record):
        self.told.append(record)

    def end(self, status):
        self.told.append(status)

    def steps(self):
        return [
            record
            for record in self.told
            if isinstance(record, Summary) and record.step % 50 == 0 and "val_loss" not in record.terms
        ]


class Seen(vaekit.Elbo):
    """Remembers the loss and the size of every batch in training."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, model, batch, context):
        terms = super().forward(model, batch, context)
        if self.training:
            self.seen.append((terms.total.item(), len(batch.x)))
        return terms


def with_loss(loss):
    parts = model()
    return vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=loss)


def taken(step, terms):
    return Taken(step, vaekit.make_key(step), 0, (4,), None, terms, None, None, True, torch.tensor(False))


def mean(pairs):
    losses, sizes = zip(*pairs, strict=True)
    return np.average(losses, weights=sizes)


# What is recorded.


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_records_are_the_means_of_every_50_steps_however_often_they_are_looked_at(seconds, accumulate, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", seconds)
    kept, loss = Kept(), Seen()
    options = {"validation": X, "learning_rate": RATE, "accumulate": accumulate, "batch_size": 1 if accumulate == 3 else 3}
    fit(with_loss(loss), epochs=7, trackers=[kept], **options)  # 17 steps an epoch: 3 batches of 1, or 1 of 3; the last has 2
    assert [record.step for record in kept.steps()] == [50, 100]
    assert [record.epoch for record in kept.steps()] == [3, 6]
    assert [record.learning_rate for record in kept.steps()] == pytest.approx([0.1 - 49 * 0.000875, 0.1 - 99 * 0.000875])
    by_step = (
        np.split(np.array(loss.seen), np.cumsum([50] * 6))
        if accumulate == 3
        else np.split(np.array(loss.seen), np.cumsum([17] * 6))
    )
    per = [accumulate] * 16 + [2 if accumulate == 3 else 1]
    steps = [step for epoch in by_step for step in np.split(epoch, np.cumsum(per)[:-1])]
    for record, seen in zip(kept.steps(), (steps[:50], steps[50:100]), strict=True):
        assert record.terms["loss"] == pytest.approx(mean(np.concatenate(seen)), rel=1e-6)
        assert record.examples == sum(size for _, size in np.concatenate(seen))
        assert record.terms.keys() == {"loss", "reconstruction", "kl"}


def test_an_epochs_record_is_its_row_in_the_history():
    kept = Kept()
    history = fit(model(), validation=X, epochs=3, trackers=[kept])
    *records, status = kept.told
    assert status == "finished"
    for number, record in enumerate(records):
        assert record.terms == {name: values[number] for name, values in history.items()}
        assert (record.epoch, record.step, record.examples) == (number + 1, 4 * (number + 1), 50)
        assert record.seconds == history.seconds[number]
        assert record.samples_per_second == 50 / history.seconds[number]


def test_seconds_are_those_of_steps_and_not_of_what_is_between_epochs():
    now, state, kept = [0.0], RunState(model(), None), Kept()
    state.optimizer = torch.optim.SGD(state.vae.parameters(), lr=0.5)
    recorder = Recorder(state, [kept], TrackedRun(None, state.history, state.vae, FitOptions()), clock=lambda: now[0])
    for epoch in range(2):
        now[0] += 1000.0  # a validation
        recorder.begin_epoch()
        for step in range(25 * epoch, 25 * epoch + 25):
            now[0] += 2.0
            one = taken(step, state.vae(X[:4]).detach())
            recorder.took(one)
            state.step += 1
            recorder.saw([(step, TermSums.of(one.terms))])
    (record,) = kept.told
    assert (record.examples, record.seconds, record.samples_per_second) == (200, 100.0, 2.0)


def test_a_resumed_run_goes_on_within_the_50_steps(monkeypatch):
    state, kept = RunState(model(), None), Kept()
    state.optimizer = torch.optim.SGD(state.vae.parameters(), lr=0.5)
    terms = [state.vae(X[:4], key=vaekit.make_key(step)).detach() for step in range(50)]
    for one in terms[:30]:  # which the state remembers
        state.window.add(one)
    state.step = 30
    recorder = Recorder(state, [kept], TrackedRun(None, state.history, state.vae, FitOptions(), is_resumed=True, step=30))
    for step, one in enumerate(terms[30:], start=30):
        state.step += 1
        recorder.saw([(step, TermSums.of(one))])
    expected = TermSums()
    for one in terms:
        expected.add(one)
    (record,) = kept.told
    assert record.step == 50
    assert record.terms == expected.means()


def test_a_tracker_is_told_what_the_run_is_made_from(tmp_path):
    kept, vae = Kept(), model()
    fit(vae, learning_rate=vaekit.schedules.create("linear", start=0.1, end=0.01, steps=9), out=tmp_path, trackers=["csv", kept])
    settings = json.loads(json.dumps(kept.run.settings()))
    assert kept.run.folder == tmp_path
    assert settings["fit"]["batch_size"] == 16
    assert settings["fit"]["learning_rate"]["name"] == "linear"
    assert settings["fit"]["trackers"] == ["csv", f"{Kept.__module__}.Kept"]
    assert settings["model"] == json.loads(json.dumps(vae.config()))


def test_a_model_that_cannot_be_written_down_is_tracked_all_the_same():
    kept = Kept()
    fit(with_loss(Seen()), trackers=[kept])
    assert kept.run.settings()["model"] is None


# How a run ends.


def test_a_tracker_is_told_how_the_run_ended(tmp_path):
    class Ends(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == 3:
                raise error

    for raised, status in ((KeyboardInterrupt, "interrupted"), (RuntimeError, "failed")):
        error, kept = raised("planted"), Kept()
        try:
            fit(model(), callbacks=[Ends()], trackers=[kept])
        except RuntimeError:
            assert status == "failed"
        assert kept.told == [status]
    fit(model(), epochs=1, trackers=[kept])
    assert kept.told[-1] == "finished"


def test_a_tracker_that_fails_ends_the_run_with_everything_saved(tmp_path):
    class Fails(Tracker):
        def log_epoch(self, record):
            raise OSError("the server is gone")

        def end(self, status):
            raise ValueError("the server is still gone")

    before, after, vae = Kept(), Kept(), model()
    with pytest.warns(RuntimeWarning, match="the end of the run failed as well: ValueError: the server is still gone"):
        with pytest.raises(OSError, match="the server is gone"):
            fit(vae, out=tmp_path, trackers=[before, Fails(), after])
    for kept in (before, after):  # the others hear of the epoch all the same, once
        assert [getattr(told, "epoch", told) for told in kept.told] == [1, "failed"]
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))


def test_only_the_end_fails_where_nothing_else_did():
    class Fails(Tracker):
        def end(self, status):
            raise ValueError(f"{status}, and no server")

    kept = Kept()
    with pytest.raises(ValueError, match="finished, and no server"):
        fit(model(), trackers=[Fails(), kept])
    assert kept.told[-1] == "finished"


# Names, and mistakes.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("csv", TypeError, r"trackers takes a sequence of names, .* \(\"csv\",\) for example, got 'csv'"),
        ({"name": "csv"}, TypeError, "takes a sequence"),
        (None, TypeError, "takes a sequence"),
        ([print], TypeError, "tracker has to be a name"),
        ([Kept], TypeError, "tracker has to be a name"),
        (["jsonlines"], UnknownNameError, "unknown tracker 'jsonlines'. Did you mean 'jsonl'"),
        ([{"name": "jsonl", "path": "x"}], TypeError, "tracker 'jsonl' takes no option 'path'"),
        (["jsonl"], ValueError, "JsonLines writes into the run's folder, and this run has none"),
        (["tensorboard"], ValueError, "TensorBoard writes into the run's folder, and this run has none"),
    ],
)
def test_mistakes_are_told_before_the_first_step(given, error, message):
    vae = model()
    before = weights(vae).clone()
    with pytest.raises(error, match=message):
        fit(vae, trackers=given)
    assert torch.equal(weights(vae), before)


@pytest.mark.parametrize("tracker", PACKAGES)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(tracker, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == PACKAGES[tracker] else found(name, *rest)
    )
    with pytest.raises(ImportError, match=rf"needs the package {PACKAGES[tracker]}: pip install 'vaekit\[{tracker}\]'"):
        FitOptions(trackers=[tracker])


def test_trackers_of_other_packages_are_found_by_name(monkeypatch):
    monkeypatch.setattr(vaekit.trackers.registry, "_parts", dict(vaekit.trackers.registry._parts))
    vaekit.trackers.register("kept")(Kept)
    assert vaekit.trackers.registry.group == "vaekit.trackers"
    assert isinstance(build(["kept"])[0], Kept)


# Files.


def test_csv_is_the_history_and_only_where_it_is_asked_for(tmp_path):
    history = fit(model(), out=tmp_path / "with")
    assert dict(vaekit.History.from_csv(tmp_path / "with" / "history.csv")) == dict(history)
    fit(model(), out=tmp_path / "without", trackers=[])
    assert not (tmp_path / "without" / "history.csv").exists()
    assert vaekit.load(tmp_path / "without" / "best")


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_lines_of_json_hold_settings_steps_and_epochs(tmp_path):
    history = fit(model(), epochs=3, batch_size=2, out=tmp_path, trackers=["jsonl"])
    run, *rest = lines_of(tmp_path / "metrics.jsonl")
    assert run["event"] == "run"
    assert run["fit"]["batch_size"] == 2
    assert [(line["event"], line["step"], line["epoch"]) for line in rest] == [
        ("epoch", 25, 1),
        ("steps", 50, 2),
        ("epoch", 50, 2),
        ("epoch", 75, 3),
    ]
    assert [line["terms"]["loss"] for line in rest if line["event"] == "epoch"] == history["loss"]
    assert all(line["learning_rate"] == 1e-3 and line["seconds"] > 0 and line["samples_per_second"] > 0 for line in rest)


def tracked(tmp_path, epochs, step, is_resumed=True):
    history = vaekit.History()
    for _ in range(epochs):
        history.append({"loss": 1.0}, seconds=1.0)
    return TrackedRun(tmp_path, history, model(), FitOptions(), is_resumed, step)


def test_a_resumed_run_drops_the_lines_after_its_step_and_what_was_torn(tmp_path):
    file = tmp_path / "metrics.jsonl"
    fit(model(), epochs=6, batch_size=2, out=tmp_path, trackers=["jsonl"])  # 150 steps
    before = file.read_bytes()
    file.write_bytes(before + b'{"event": "st')
    tracker = JsonLines()
    tracker.begin(tracked(tmp_path, epochs=3, step=100))  # within the step that ends epoch 4
    kept = [(line["event"], line.get("step")) for line in lines_of(file)]
    assert kept == [("run", None), ("epoch", 25), ("steps", 50), ("epoch", 50), ("epoch", 75), ("steps", 100)]
    assert before.startswith(file.read_bytes())
    tracker.log_epoch(Summary(100, 4, {"loss": float("nan")}, 1e-3, 50, 0.0))
    assert lines_of(file)[-1]["terms"] == {"loss": None}
    assert [line["event"] for line in lines_of(file)].count("run") == 1


def test_a_run_that_was_interrupted_and_resumed_records_what_one_that_was_not_would(tmp_path):
    class Interrupts(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == 63 and not (tmp_path / "cut" / "last").exists():
                state.interrupt = "a test"

    options = {"epochs": 6, "batch_size": 2, "trackers": ["csv", "jsonl"], "learning_rate": RATE}
    fit(model(), out=tmp_path / "whole", **options)
    assert fit(model(), out=tmp_path / "cut", callbacks=[Interrupts()], **options).interrupted
    assert fit(model(), out=tmp_path / "cut", resume=True, **options).epochs == 6
    whole, cut = (
        [{**line, "seconds": 0, "samples_per_second": 0} for line in lines_of(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "cut")
    )
    assert [line.get("step") for line in whole] == [None, 25, 50, 50, 75, 100, 100, 125, 150, 150]
    assert cut[1:] == whole[1:]
    assert (tmp_path / "cut" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()


def test_samples_a_second_of_an_epoch_that_was_resumed_within_are_those_of_all_its_examples(tmp_path):
    class Interrupts(vaekit.Callback):
        def on_step_end(self, state):
            if state.step == 6:
                state.interrupt = "a test"

    kept = Kept()
    fit(model(), out=tmp_path, epochs=3, callbacks=[Interrupts()])
    history = vaekit.resume(tmp_path, X, trackers=[kept], progress=False, device="cpu")
    records = [record for record in kept.told if isinstance(record, Summary)]
    assert [(record.epoch, record.examples) for record in records] == [(2, 50), (3, 50)]
    assert [record.samples_per_second for record in records] == [50 / seconds for seconds in history.seconds[1:]]


def test_a_tracker_that_is_not_registered_is_given_again(tmp_path):
    class Mine(Kept):
        pass

    fit(model(), out=tmp_path, epochs=1, trackers=["csv", Mine()])
    with pytest.raises(TypeError, match=r"the run had the tracker .*Mine, which is not registered; give trackers= again"):
        vaekit.resume(tmp_path, X, epochs=2)
    again = Mine()
    vaekit.resume(tmp_path, X, epochs=2, trackers=["csv", again], progress=False, device="cpu")
    assert [getattr(told, "epoch", told) for told in again.told] == [2, "finished"]


@pytest.mark.parametrize("trackers", [["jsonl"], []])
def test_a_run_that_goes_on_keeps_the_table_that_it_has_current(trackers, tmp_path):
    fit(model(), out=tmp_path, epochs=2)
    history = vaekit.resume(tmp_path, X, epochs=4, trackers=trackers, progress=False, device="cpu")
    assert dict(vaekit.History.from_csv(tmp_path / "history.csv")) == dict(history)
    assert history.epochs == 4


def test_a_run_that_goes_on_without_a_table_gets_none(tmp_path):
    fit(model(), out=tmp_path, epochs=1, trackers=["jsonl"])
    vaekit.resume(tmp_path, X, epochs=2, progress=False, device="cpu")
    assert not (tmp_path / "history.csv").exists()


def test_a_new_run_does_not_write_into_another_ones_file(tmp_path):
    fit(model(), epochs=1, trackers=[JsonLines(tmp_path / "a.jsonl")])
    before = (tmp_path / "a.jsonl").read_bytes()
    expected = {"name": "jsonl", "file": str(tmp_path / "a.jsonl")}  # a path is plain, too
    assert lines_of(tmp_path / "a.jsonl")[0]["fit"]["trackers"] == [expected]
    with pytest.raises(FileExistsError, match="records of an earlier run"):
        fit(model(), epochs=1, trackers=[JsonLines(tmp_path / "a.jsonl")])
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_a_resumed_run_has_the_history_of_its_checkpoint_in_its_table(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n1,1.0\n2,5.0\n")
    (tracker,) = build(["csv"])
    tracker.begin(tracked(tmp_path, epochs=1, step=4))
    assert (tmp_path / "history.csv").read_text() == "epoch,loss\n1,1.0\n"


def test_a_run_that_has_nothing_to_record_leaves_no_file(tmp_path):
    class Ends(vaekit.Callback):
        def on_fit_start(self, state):
            raise KeyboardInterrupt

    trackers = ["csv", "jsonl", *(["tensorboard"] if importlib.util.find_spec("tensorboard") else [])]
    assert fit(model(), out=tmp_path, trackers=trackers, callbacks=[Ends()]).interrupted
    assert list(tmp_path.iterdir()) == []


# The real packages, offline.


def figure():
    drawn = new_figure(1.0, 0.5)
    drawn.patch.set_facecolor((1.0, 0.0, 0.0))
    return drawn


class Draws(vaekit.Callback):
    def on_epoch_end(self, state):
        for tracker in state.trackers:
            tracker.log_picture("red", figure(), state.step)


def is_red(image):
    return image.size == (120, 60) and np.array_equal(
        np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0), [[255, 0, 0]]
    )


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def points(accumulated, tag):
    return [(event.step, event.value) for event in accumulated.Scalars(tag)]


def test_tensorboard_reads_scalars_pictures_and_settings(tmp_path):
    pytest.importorskip("tensorboard")
    kept = Kept()
    options = {"trackers": ["tensorboard", kept], "callbacks": [Draws()], "learning_rate": RATE}
    history = fit(model(), epochs=3, batch_size=2, out=tmp_path, validation=X, **options)
    read = events(tmp_path / "tensorboard")
    assert points(read, "epoch/val_loss") == [(25 * (n + 1), pytest.approx(v)) for n, v in enumerate(history["val_loss"])]
    (record,) = kept.steps()
    assert points(read, "step/loss") == [(50, pytest.approx(record.terms["loss"]))]
    assert points(read, "step/learning_rate") == [(50, pytest.approx(record.learning_rate))]
    assert [image.step for image in read.Images("red")] == [25, 50, 75]
    assert read.Images("red")[0].width == 120
    assert (
        json.dumps(model().config()["likelihood"]["name"])
        in read.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    )


def test_tensorboard_hides_what_a_resumed_run_takes_again(tmp_path):
    pytest.importorskip("tensorboard")
    for is_resumed, step, values in ((False, 0, (1.0, 2.0, 3.0)), (True, 100, (4.0,))):
        (tracker,) = build(["tensorboard"])
        tracker.begin(tracked(tmp_path, epochs=0, step=step, is_resumed=is_resumed))
        for number, value in enumerate(values, start=step // 50 + 1):
            tracker.log_steps(Summary(50 * number, 1, {"loss": value}, 1e-3, 100, 1.0))
        tracker.end("interrupted")
    assert points(events(tmp_path / "tensorboard"), "step/loss") == [(50, 1.0), (100, 2.0), (150, 4.0)]
    with pytest.raises(FileExistsError, match="records of an earlier run"):
        tracker.begin(tracked(tmp_path, epochs=0, step=0, is_resumed=False))


def test_wandb_keeps_a_run_on_the_disk(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    kept = Kept()
    options = {"trackers": [{"name": "wandb", "mode": "offline"}, kept], "callbacks": [Draws()], "validation": X}
    history = fit(model(), epochs=3, batch_size=2, out=tmp_path, **options)
    wandb.teardown()  # its writer is a process of its own, which may still be writing
    logged = {row["_step"]: row for row in wandb_files.history(tmp_path)}
    assert [logged[25 * (n + 1)]["epoch/val_loss"] for n in range(3)] == history["val_loss"]
    assert logged[50]["step/loss"] == kept.steps()[0].terms["loss"]
    assert wandb_files.config(tmp_path)["fit"]["batch_size"] == 2
    pictures = sorted(tmp_path.glob("wandb/offline-run-*/files/media/images/red_*.png"))
    assert [int(picture.name.split("_")[1]) for picture in pictures] == [25, 50, 75]
    with Image.open(pictures[0]) as image:
        assert is_red(image)
    assert (tmp_path / "wandb-run.txt").read_text().strip() in str(pictures[0])


def test_mlflow_keeps_a_run_on_the_disk(tmp_path):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    out, kept = tmp_path / "digits", Kept()
    store = {"name": "mlflow", "tracking_uri": f"sqlite:///{tmp_path / 'runs.db'}"}
    client = MlflowClient(store["tracking_uri"])
    client.create_experiment("vaekit", artifact_location=(tmp_path / "artifacts").as_uri())
    history = fit(model(), epochs=3, batch_size=2, out=out, validation=X, trackers=[store, kept], callbacks=[Draws()])
    run = client.get_run((out / "mlflow-run.txt").read_text().strip())
    assert (run.info.run_name, run.info.status) == ("digits", "FINISHED")
    assert run.data.params["fit.batch_size"] == "2"

    def recorded(metric):
        return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)]

    assert recorded("epoch/val_loss") == [(25 * (n + 1), value) for n, value in enumerate(history["val_loss"])]
    assert recorded("step/loss") == [(50, kept.steps()[0].terms["loss"])]
    assert len(client.list_artifacts(run.info.run_id)) == 4  # three pictures and the settings
    with Image.open(client.download_artifacts(run.info.run_id, "red-00000025.png", str(tmp_path))) as image:
        assert image.size == (120, 60)
    # A run that is resumed goes on with it, and records nothing twice.
    (tracker,) = build([store])
    tracker.begin(tracked(out, epochs=1, step=25))
    for step in (50, 100):
        tracker.log_steps(Summary(step, step // 25, {"loss": 4.0}, 1e-3, 100, 1.0))
    tracker.end("interrupted")
    assert recorded("step/loss") == [(50, kept.steps()[0].terms["loss"]), (100, 4.0)]
    assert client.get_run(run.info.run_id).info.status == "KILLED"
