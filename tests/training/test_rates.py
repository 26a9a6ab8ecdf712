"""The learning rate of a run: from the run's own length, through its history, and refused in the middle of it."""

import math
import warnings

import pytest
import torch
from helpers.small_runs import Stop, X, fit, model, weights
from torch.utils.data import DataLoader

import vaekit
from vaekit.schedules import Cosine, HistorySchedule, Plateau, Schedule, WarmupCosine
from vaekit.training import FitOptions


class Rates(vaekit.Callback):
    """Keeps the rate of each step."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, state):
        self.seen.append(state.optimizer.param_groups[0]["lr"])


def rates_of(learning_rate, data=X, **options):
    rates = Rates()
    history = fit(model(), data, learning_rate=learning_rate, callbacks=[rates], **options)
    return rates.seen, history


@pytest.mark.parametrize(
    ("data", "options", "steps"),
    [
        (X, {}, 2 * 4),
        (X, {"accumulate": 3}, 2 * 2),
        (DataLoader(X, batch_size=10), {"epochs": 3}, 3 * 5),
        (list(X.split(20)), {"accumulate": 2}, 2 * 2),
    ],
    ids=["whole", "accumulated", "loader", "list"],
)
def test_a_schedule_without_steps_lasts_as_long_as_the_run(data, options, steps):
    spec = {"name": "cosine", "start": 0.1, "end": 0.01}
    assert rates_of(spec, data, **options)[0] == [Cosine(steps, 0.1, 0.01)(step) for step in range(steps)]
    assert rates_of({**spec, "steps": 5}, data, **options)[0] == [Cosine(5, 0.1, 0.01)(step) for step in range(steps)]


def test_a_loader_without_a_length_needs_steps():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from X

    loader = DataLoader(Endless(), batch_size=25)
    with pytest.raises(TypeError, match="learning_rate: schedule 'warmup_cosine' needs the option 'steps'.*loader has no length"):
        rates_of({"name": "warmup_cosine", "peak": 0.1, "warmup": 2}, loader)
    seen, _ = rates_of({"name": "warmup_cosine", "peak": 0.1, "warmup": 2, "steps": 4}, loader)
    assert seen == [WarmupCosine(4, 0.1, 2)(step) for step in range(4)]


def test_a_warm_up_longer_than_the_run_is_refused_before_the_first_step(tmp_path):
    spec = {"name": "warmup_cosine", "peak": 0.1, "warmup": 500}
    FitOptions(learning_rate=spec)
    with pytest.raises(ValueError, match="learning_rate: warmup has to be less than the 8 steps of the whole, got 500"):
        fit(model(), learning_rate=spec, out=tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


SHORT = {  # a schedule that is longer than 8 steps, and how long it is
    "warm-up": ({"name": "warmup_cosine", "peak": 0.1, "warmup": 500, "steps": 1000}, "1,000"),
    "milestones": ({"name": "step", "start": 0.1, "gamma": 0.5, "milestones": [3, 8]}, "9"),
    "every": ({"name": "step", "start": 0.1, "every": 8}, "9"),
    "one cycle": ({"name": "one_cycle", "peak": 0.1, "steps": 80}, "80"),
    "an object": (vaekit.schedules.Linear(9, 0.1, 0.0), "9"),
    "cycles": ({"name": "cyclic", "period": 5, "cycles": 2, "start": 0.1, "end": 0.2}, "10"),
}


@pytest.mark.parametrize("as_loader", [None, "with a length", "without"])
@pytest.mark.parametrize(("rate", "steps"), SHORT.values(), ids=SHORT)
def test_a_schedule_that_is_longer_than_the_run_is_warned_of_once_with_numbers(rate, steps, as_loader):
    loaders = {"with a length": DataLoader(X, batch_size=16), "without": Unsized(X.split(16))}
    with pytest.warns(UserWarning, match="schedule of the learning rate") as warned:
        seen, _ = rates_of(rate, loaders.get(as_loader, X))
    assert len(warned) == 1
    said, final = str(warned[0].message), vaekit.schedules.registry.build(rate)(None)
    assert said.startswith(
        f"the run {'had' if as_loader == 'without' else 'has'} 8 steps, and the schedule of the learning rate takes"
    )
    assert f" takes {steps}: it is {seen[-1]:.4g} at the last step; its final value is {final:.4g}." in said


class Unsized(torch.utils.data.IterableDataset):
    """Batches, nobody knows how many."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


@pytest.mark.parametrize(
    "rate",
    [
        0.1,
        {"name": "one_cycle", "peak": 0.1},
        {"name": "linear", "start": 0.1, "end": 0.0, "steps": 8},
        {"name": "warmup_cosine", "peak": 0.1, "warmup": 3, "steps": 8},
        {"name": "step", "start": 0.1, "milestones": [3, 7]},
        {"name": "step", "start": 0.1, "every": 7},
        {"name": "plateau", "start": 0.1},
        lambda step: 0.1,
    ],
    ids=lambda rate: "function" if callable(rate) else str(rate),
)
def test_a_schedule_that_the_run_is_long_enough_for_is_not_warned_of(rate):
    class Own(Schedule):
        def __call__(self, step):
            return 0.0 if step is None else 0.1 / (1 + step)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates_of(Own() if callable(rate) else rate)


def test_a_run_that_was_stopped_early_is_not_told_that_it_was_short():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model(), Unsized(X.split(16)), learning_rate={"name": "linear", "start": 0.1, "steps": 8}, callbacks=[Stop(1)])


def test_a_plateau_follows_the_history_of_the_run():
    plateau = Plateau(0.2, factor=0.5, patience=1, monitor="val_kl")
    seen, history = rates_of({"name": "plateau", "start": 0.2, "factor": 0.5, "patience": 1, "monitor": "val_kl"}, epochs=6,
                             validation=X)  # fmt: skip
    expected = []
    for epoch in range(6):
        before = vaekit.History()
        for term in history["val_kl"][:epoch]:
            before.append({"val_kl": term}, seconds=1.0)
        expected += [plateau.after(before)(0)] * 4
    assert seen == expected
    assert len(set(seen)) > 2


def test_a_plateau_that_watches_what_the_history_lacks_says_so_after_the_first_epoch():
    with pytest.raises(ValueError, match="'plateau' watches 'val_loss', but the history has loss, reconstruction, kl"):
        rates_of({"name": "plateau", "start": 0.1, "monitor": "val_loss"})


def test_a_rate_of_ones_own_through_the_history():
    class Halved(HistorySchedule):
        def __call__(self, step):
            return 0.5

        def after(self, history):
            return vaekit.schedules.Constant(0.5 ** (1 + len(history.is_settled)))

    assert rates_of(Halved(), batch_size=25, epochs=3)[0] == [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]

    class Nothing(Halved):
        def after(self, history):
            return None

    with pytest.raises(TypeError, match="learning_rate: expected a number, a Schedule.*got None"):
        rates_of(Nothing())


class Turns(Schedule):
    def __init__(self, into):
        self.into = into

    def __call__(self, step):
        return self.into if step == 5 else 0.1


@pytest.mark.parametrize(
    ("into", "error", "said"),
    [
        (None, TypeError, "learning_rate has to be a number, got None"),
        (math.nan, ValueError, "learning_rate has to be finite and at least 0, got nan"),
        (-0.1, ValueError, "learning_rate has to be at least 0, got -0.1"),
    ],
)
def test_a_rate_that_cannot_be_stops_the_run_and_keeps_the_weights_before(into, error, said):
    class Keep(vaekit.Callback):
        def on_step_end(self, state):
            kept[:] = [weights(state.vae)]

    vae, kept = model(), []
    with pytest.raises(error, match=f"{said}; the schedule 'Turns' gave it at step 5"):
        fit(vae, learning_rate=Turns(into), callbacks=[Keep()])
    assert torch.equal(weights(vae), kept[0])


def test_what_is_no_rate_is_refused_by_its_name():
    for rate in (None, "fast", [1e-3], True):
        with pytest.raises(TypeError, match="^learning_rate: expected a number, a Schedule"):
            FitOptions(learning_rate=rate)
