"""Training: that a run is a function of its arguments, equals a loop written by hand, and ends well however it ends."""

import math

import pytest
import torch
from helpers.small_runs import Stop, X, fit, model, weights
from helpers.spoiled import spoil
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import vaekit
from vaekit import Callback, EarlyStopping, Elbo, NonFiniteLossError, fold_in, make_key
from vaekit.training import gate, watch
from vaekit.training.checkpoints import Checkpoints


def test_two_runs_are_identical_and_another_seed_is_another_run():
    runs = []
    for seed in (0, 0, 1):
        vae = model()
        torch.rand(3)  # a run does not depend on torch's global generator
        runs.append((fit(vae, validation=X[:7], seed=seed), weights(vae)))
    (first, first_weights), (second, second_weights), (other, _) = runs
    assert dict(first) == dict(second)
    assert torch.equal(first_weights, second_weights)
    assert first["loss"] != other["loss"]


def test_a_run_is_the_loop_that_its_documentation_describes():
    vae, by_hand = model(), model()
    history = fit(vae, seed=3, learning_rate=0.01)
    adam = torch.optim.Adam(by_hand.parameters(), lr=0.01)
    noise, order, _ = fold_in(make_key(3), torch.arange(3))
    step, means = 0, []
    for epoch in range(2):
        generator = torch.Generator().manual_seed(int(fold_in(order, epoch)[0]))
        total = 0.0
        for rows in torch.randperm(50, generator=generator).split(16):
            loss = by_hand(X[rows], key=fold_in(noise, step), step=step).total
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(rows)
            step += 1
        means.append(total / 50)
    torch.testing.assert_close(weights(vae), weights(by_hand), rtol=1e-5, atol=1e-6)
    assert history["loss"] == pytest.approx(means, rel=1e-5)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(model())
    assert torch.equal(torch.rand(3), expected)


def test_dropout_repeats_too():
    histories = []
    for _ in range(2):
        vae = model()
        vae.encoder.body.append(torch.nn.Dropout(0.5))
        histories.append(fit(vae)["loss"])
    assert histories[0] == histories[1]


def test_validation_sees_the_same_noise_every_epoch_and_evaluation_mode():
    vae = model()
    vae.encoder.body.append(torch.nn.Dropout(0.5))
    history = fit(vae, validation=X, epochs=3, learning_rate=1e-30)  # the weights stay as they are
    assert len(set(history["val_loss"])) == 1
    assert not any(module.training for module in vae.modules())


def test_the_epochs_mean_counts_every_example_once_however_the_batches_fall():
    whole = fit(model(), batch_size=50, learning_rate=1e-30, epochs=1)
    # another batching draws other noise for a row, so compare the part that needs none
    parts = fit(model(), batch_size=7, learning_rate=1e-30, epochs=1)
    assert whole["kl"] == pytest.approx(parts["kl"], rel=1e-5)


def test_float64_models_train_in_float64():
    vae = model().double()
    before = weights(vae)
    fit(vae, X.double(), validation=X.double())
    assert weights(vae).dtype == torch.float64
    assert not torch.equal(weights(vae), before)


def test_the_model_learns():
    pattern = torch.eye(6)[torch.arange(600) % 6]
    history = fit(model(), pattern, epochs=60, learning_rate=1e-2)
    # six equally likely patterns cost at least log 6 nats; a model that learned nothing pays the pixels' entropy
    nothing_learned = -6 * (math.log(1 / 6) / 6 + 5 / 6 * math.log(5 / 6))
    assert math.log(6) - 0.05 < history["loss"][-1] < 0.9 * nothing_learned


@pytest.mark.parametrize("form", ["x", "pair", "mapping"])
def test_a_loader_is_taken_as_it_is(form):
    loaders = {
        "x": DataLoader(X, batch_size=10),
        "pair": DataLoader(TensorDataset(X, torch.arange(50)), batch_size=10),
        "mapping": DataLoader([{"x": x, "name": "row"} for x in X], batch_size=10),
    }
    vae, expected = model(), model()
    history = fit(vae, loaders[form], validation=loaders[form])
    reference = fit(expected, loaders["x"], validation=loaders["x"])
    assert dict(history) == dict(reference)
    assert history.epochs == 2


def test_an_iterator_that_is_used_up_is_told():
    with pytest.raises(ValueError, match="the loader gave no batch in this epoch"):
        fit(model(), iter(DataLoader(X, batch_size=10)))


def test_gradient_clipping_bounds_the_norm():
    norms = []

    class Norm(Elbo):
        def forward(self, *arguments):
            terms = super().forward(*arguments)
            return terms._replace(total=1000 * terms.total)

    class Record(Callback):
        def on_step_end(self, state):
            moments = [adam_state["exp_avg"] for adam_state in optimizers[-1].state.values()]
            norms.append(float(torch.cat([m.flatten() for m in moments]).norm()) / 0.1)
            state.stop = True

    optimizers = []
    original = torch.optim.Adam

    class Adam(original):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            optimizers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Adam)
        for clip in (None, 0.5):
            optimizers.clear()
            fit(vaekit.VAE(model().encoder, model().decoder, likelihood=model().likelihood, loss=Norm()),
                gradient_clip=clip, callbacks=[Record()])  # fmt: skip
    # Adam's first moment after one step is a tenth of the gradient
    assert norms[0] > 100
    assert norms[1] == pytest.approx(0.5, rel=1e-3)


class WithScale(Elbo):
    """An ELBO with a parameter of its own, which learns the mean divergence, and changes nothing else."""

    def __init__(self, group=None, spoiled=None):
        super().__init__()
        self.scale, self.group, self.spoiled = torch.nn.Parameter(torch.zeros(3)), group or {}, spoiled

    def parameter_groups(self):
        return [{"params": [self.scale], **self.group}]

    def forward(self, model, batch, context):
        terms = super().forward(model, batch, context)
        auxiliary = 1000.0 * (self.scale - terms.kl.detach().mean()).square().sum()
        return terms._replace(auxiliary=auxiliary * (math.nan if context.step == self.spoiled else 1.0))


def with_loss(loss):
    parts = model()
    return vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, loss=loss)


def test_parameters_of_the_objective_change_nothing_in_the_rest_and_are_clipped_by_themselves():
    plain, vae = model(), with_loss(WithScale({"lr": 0.5, "eps": 1.0}))
    expected, history = fit(plain, gradient_clip=0.01), fit(vae, gradient_clip=0.01)
    assert dict(history) == dict(expected)
    state = vae.state_dict()
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, state[name])
    steps = 2 * 4  # each of at most lr |gradient| / (|gradient| + eps), with gradients clipped from thousands to 0.01
    assert 0.0 < vae.loss.scale.norm() < steps * 0.5 * 0.01


def test_what_the_group_leaves_out_is_as_for_the_rest():
    moved = []
    for group, options in (({}, {"learning_rate": 0.02}), ({"lr": 0.02, "betas": (0.9, 0.999), "eps": 1e-8}, {})):
        vae = with_loss(WithScale(group))
        fit(vae, batch_size=50, epochs=1, **options)
        moved.append(vae.loss.scale.detach())
    assert torch.equal(*moved)
    assert moved[0][0].item() == pytest.approx(0.02, rel=1e-4)  # the first step of Adam is as long as its learning rate


def test_an_auxiliary_that_is_not_finite_stops_the_run_and_is_named():
    good, bad = with_loss(WithScale()), with_loss(WithScale(spoiled=5))
    fit(good, epochs=2, callbacks=[Stop(5)])
    with pytest.raises(
        NonFiniteLossError, match=r"(?s)epoch 2, step 5: auxiliary is not finite\n.*the weights from before that step"
    ):
        fit(bad, epochs=3)
    assert torch.equal(weights(bad), weights(good))


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ({"learning_rate": 0.1}, TypeError, r"WithScale.parameter_groups has to give .* got params, learning_rate"),
        (
            {"params": [torch.nn.Parameter(torch.zeros(7))]},
            ValueError,
            r"not the model's, of the shape \(7,\); make its module",
        ),
        ({"lr": 0.0}, ValueError, "lr in WithScale.parameter_groups .* above 0, got 0.0"),
        ({"betas": (2.0, 3.0)}, ValueError, "WithScale.parameter_groups gives .*'adam'.*: Invalid beta"),
    ],
)
def test_groups_that_are_none_are_refused_before_the_first_step(group, error, message):
    with pytest.raises(error, match=message):
        fit(with_loss(WithScale(group)), callbacks=[Stop(0)])
    vae = with_loss(WithScale())
    vae.loss.parameter_groups = lambda: [vae.loss.scale]
    with pytest.raises(TypeError, match=r"has to give mappings with \"params\""):
        fit(vae)


def test_groups_have_the_forms_that_torch_takes():
    """One parameter, a list of them, and pairs of names and parameters train alike."""
    trained = []
    for form in (lambda scale: scale, lambda scale: [scale], lambda scale: [("scale", scale)]):
        vae = with_loss(WithScale())
        group = dict(vae.loss.parameter_groups()[0])
        vae.loss.parameter_groups = lambda group=group, form=form, vae=vae: [{**group, "params": form(vae.loss.scale)}]
        fit(vae)
        trained.append(weights(vae))
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[1], trained[2])


def test_out_keeps_the_best_and_the_last_weights_and_the_history(tmp_path):
    kept = []

    class Keep(Callback):
        def on_epoch_end(self, state):
            kept.append(weights(state.vae).clone())

    vae = model()
    history = fit(vae, validation=X[:5], epochs=6, learning_rate=0.3, out=tmp_path / "run", callbacks=[Keep()])
    assert torch.equal(weights(vaekit.load(tmp_path / "run/last")), weights(vae))
    assert torch.equal(weights(vaekit.load(tmp_path / "run/best")), kept[history.best_epoch])
    assert history.best_epoch == min(range(6), key=history["val_loss"].__getitem__)
    assert dict(vaekit.History.from_csv(tmp_path / "run/history.csv")) == dict(history)


@pytest.mark.parametrize("looks", [0.0, 1e9])
def test_a_non_finite_term_stops_the_run_names_its_rows_and_keeps_the_weights_from_before(looks, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", looks)
    good = model()
    fit(good, epochs=2, callbacks=[Stop(5)])
    bad = spoil(model(), [5], rows=[2, 5])
    noise, order, _ = fold_in(make_key(0), torch.arange(3))
    rows = torch.randperm(50, generator=torch.Generator().manual_seed(int(fold_in(order, 1)[0])))[16:32][[2, 5]].tolist()
    message = rf"epoch 2, step 5: reconstruction is not finite in 2 of 16 examples, in train these: {rows[0]}, {rows[1]}\n"
    with pytest.raises(NonFiniteLossError, match=message):
        fit(bad, epochs=3)
    assert torch.equal(weights(bad), weights(good))


@pytest.mark.parametrize("looks", [0.0, 1e9])
@pytest.mark.parametrize("step", [4, 5, 7])
def test_a_gradient_that_alone_is_not_finite_is_found_in_its_step(step, looks, monkeypatch):
    """Steps 4 to 7 are the second epoch: its first, one in the middle, its last, after which no loss would tell."""
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", looks)
    good, bad = model(), spoil(model(), [step], "gradient")
    fit(good, epochs=2, callbacks=[Stop(step)])
    message = rf"(?s)epoch 2, step {step}: a gradient is not finite, though every term .*the weights from before that step"
    with pytest.raises(NonFiniteLossError, match=message):
        fit(bad, epochs=3)
    assert torch.equal(weights(bad), weights(good))


def test_a_validation_loss_that_is_not_finite_is_told():
    class Broken(Elbo):
        def forward(self, model, batch, context):
            terms = super().forward(model, batch, context)
            return terms if context.step is not None else terms._replace(total=terms.total * math.nan)

    vae = vaekit.VAE(model().encoder, model().decoder, likelihood=model().likelihood, loss=Broken())
    with pytest.raises(NonFiniteLossError, match="epoch 1, on the validation data: loss is not finite"):
        fit(vae, validation=X)


def test_statistics_that_a_bad_batch_ruined_are_put_back(tmp_path):
    vae = model(likelihood="gaussian")
    vae.encoder.body.insert(0, torch.nn.BatchNorm1d(6))
    x = X.clone()
    x[3] = 3e38
    with pytest.raises(NonFiniteLossError):
        fit(vae, x)
    assert all(t.isfinite().all() for t in vae.state_dict().values())


def test_a_folder_with_an_earlier_run_is_refused(tmp_path):
    fit(model(), out=tmp_path)
    before = (tmp_path / "last/model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="of an earlier run; resume=True goes on with it; or choose another"):
        fit(model(seed=1), out=tmp_path)
    assert (tmp_path / "last/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("what", ["to_csv", "_save"])
def test_an_interrupt_while_an_epoch_is_saved_saves_it_all_the_same(what, tmp_path, monkeypatch):
    owner = vaekit.History if what == "to_csv" else Checkpoints
    original, calls = getattr(owner, what), []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(owner, what, interrupted)
    history = fit(model(), out=tmp_path)
    assert history.interrupted
    assert history.epochs == 1
    assert dict(vaekit.History.from_csv(tmp_path / "history.csv")) == dict(history)
    assert vaekit.load(tmp_path / "best")
    assert vaekit.load(tmp_path / "last")


def test_training_works_where_gradients_are_switched_off():
    expected = fit(model())
    for mode in (torch.no_grad, torch.inference_mode):
        vae = model()
        with mode():
            assert dict(fit(vae)) == dict(expected)


def test_bad_rows_are_named_by_their_numbers_in_the_file(tmp_path):
    import numpy as np

    x = X.numpy().copy()
    x[41, 0] = math.nan
    np.save(tmp_path / "x.npy", x)
    train, test = vaekit.data.load(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="sample 41 holds NaN"):
        fit(model(), train, validation=test)


def test_with_clipping_a_gradient_that_is_not_finite_is_not_applied_at_all():
    good, bad = model(), spoil(model(), [5], "gradient")
    fit(good, epochs=2, callbacks=[Stop(5)], gradient_clip=10.0)
    with pytest.raises(NonFiniteLossError, match="step 5: a gradient is not finite, though every term of the loss is"):
        fit(bad, epochs=3, gradient_clip=10.0)
    assert torch.equal(weights(bad), weights(good))


def test_a_failed_run_leaves_its_last_finite_weights_in_out(tmp_path):
    # a model that can be saved; a learning rate that no model survives
    with pytest.raises(NonFiniteLossError):
        fit(model(), epochs=50, learning_rate=1e6, out=tmp_path)
    assert weights(vaekit.load(tmp_path / "last")).isfinite().all()


def test_an_interrupt_ends_the_run_cleanly_with_everything_so_far_saved(tmp_path):
    class Interrupt(Callback):
        def on_step_end(self, state):
            if state.step == 6:  # in the second epoch of four steps
                raise KeyboardInterrupt

    vae = model()
    history = fit(vae, epochs=5, out=tmp_path, callbacks=[Interrupt()])
    assert history.interrupted
    assert history.epochs == 1
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))
    assert (tmp_path / "best/model.safetensors").is_file()


def test_callbacks_see_every_step_and_epoch_and_can_stop():
    class Count(Callback):
        steps = epochs = 0

        def on_step_end(self, state):
            self.steps += 1
            assert state.step == self.steps

        def on_epoch_end(self, state):
            self.epochs += 1
            assert state.history.epochs == self.epochs == state.epoch + 1
            state.stop = self.epochs == 3

    count = Count()
    history = fit(model(), epochs=9, callbacks=[count])
    assert (count.steps, count.epochs, history.epochs) == (12, 3, 3)


def test_early_stopping_waits_as_long_as_it_says():
    history = fit(model(), validation=X, epochs=50, learning_rate=1e-30, callbacks=[EarlyStopping(patience=4)])
    assert history.epochs == 5  # the first, and four that are no better


@pytest.mark.parametrize("trackers", [("csv",), (vaekit.Tracker(),)])
def test_nothing_in_a_step_waits_for_the_device(trackers, monkeypatch):
    """The number of values read from tensors does not grow with the number of steps."""

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Reads.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 1e9)
    monkeypatch.setattr(gate, "READ_ON", ())  # as on a GPU
    counts = []
    for batch_size in (25, 2):
        Reads.count = 0
        with Reads():
            fit(model(), epochs=1, batch_size=batch_size, trackers=trackers)
        counts.append(Reads.count)
    assert counts[0] == counts[1] > 0


NAN = X.clone()
NAN[7, 2] = math.nan


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (X, {"epochs": 0}, ValueError, "epochs .*1, got 0"),
        (X, {"batch_size": 0}, ValueError, "batch_size .*1, got 0"),
        (X, {"learning_rate": 0.0}, ValueError, "learning_rate .* above 0, got 0.0"),
        (X, {"gradient_clip": -1.0}, ValueError, "gradient_clip .* above 0, got -1.0"),
        (X, {"device": "gpu7"}, ValueError, "device has to be"),
        (X, {"device": "meta:3"}, ValueError, "no device 'meta:3' here"),
        (X, {"callbacks": [print]}, TypeError, "callbacks takes a sequence of objects that extend vaekit.Callback"),
        (X[:, :5], {}, ValueError, r"takes examples of shape \(6\), the data has \(5\)"),
        (X[:0], {}, ValueError, "the dataset is empty"),
        (NAN, {}, ValueError, "train: sample 7 holds NaN"),
        (X * 3, {}, ValueError, r"train: Bernoulli models values in \[0, 1\], but the data ranges from"),
        (X, {"validation": NAN}, ValueError, "validation: sample 7 holds NaN"),
        (DataLoader(NAN, batch_size=10), {}, ValueError, "train, the batch of step 0: sample 7 holds NaN"),
        (DataLoader(X * 3, batch_size=10), {}, ValueError, "but the data ranges from"),
        ("mnist5k", {}, ValueError, "the model takes examples of shape"),
        (X.double(), {}, TypeError, "x is torch.float64, the model's weights are torch.float32"),
    ],
)  # fmt: skip
def test_mistakes_are_told(data, options, error, message, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.0)
    vae = model()
    before = weights(vae).clone()
    with pytest.raises(error, match=message):
        fit(vae, data, **options)
    if not isinstance(data, DataLoader):
        assert torch.equal(weights(vae), before)


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write into the folder"):
        fit(model(), out=tmp_path / "file" / "run")


def test_a_model_that_cannot_be_saved_is_found_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="register"):
        fit(spoil(model(), [5], rows=[2, 5]), out=tmp_path)
