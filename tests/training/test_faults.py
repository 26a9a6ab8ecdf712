"""What a run refuses, leaves alone or explains: precision, frozen modules, long schedules, a first loss that is NaN."""

import copy
import warnings

import pytest
import torch
from helpers.small_runs import X, fit, model, weights
from helpers.spoiled import Spoiled
from torch.utils.data import DataLoader, TensorDataset

import vaekit
from vaekit import EarlyStopping, History, NonFiniteLossError
from vaekit.data import as_batches
from vaekit.training import preflight

WARM_UP = {"name": "linear", "steps": 6}


# Precision.


def test_a_run_inside_autocast_is_refused():
    vae = model()
    before = weights(vae)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match=r"autocast\('cpu'\)"):
        fit(vae)
    assert torch.equal(weights(vae), before)
    with torch.autocast("cpu", enabled=False):
        fit(vae)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_refused(dtype):
    with pytest.raises(TypeError, match=f"{dtype}.*vae.float()"):
        fit(model().to(dtype), X.to(dtype))
    mixed = model()
    mixed.decoder.to(dtype)
    with pytest.raises(TypeError, match=str(dtype)):
        fit(mixed)


# Modes, and what is frozen.


@pytest.mark.parametrize("how", ["trained", "stopped by an error", "interrupted"])
def test_a_run_leaves_the_model_in_evaluation_mode(how):
    class End(vaekit.Callback):
        def on_step_end(self, state):
            assert state.vae.training
            if how != "trained":
                raise KeyboardInterrupt if how == "interrupted" else RuntimeError

    vae = model()
    if how == "stopped by an error":
        with pytest.raises(RuntimeError):
            fit(vae, callbacks=[End()])
    else:
        fit(vae, callbacks=[End()])
    assert not any(module.training for module in vae.modules())


def with_normalization():
    return model(encoder={"hidden": (8,), "normalization": "batch", "dropout": 0.5})


def test_a_frozen_module_in_evaluation_mode_stays_as_it_is():
    vae = with_normalization()
    vae.encoder.requires_grad_(False).eval()
    before = copy.deepcopy(vae.encoder.state_dict())
    seen = []

    class Look(vaekit.Callback):
        def on_step_end(self, state):
            seen.append((any(m.training for m in vae.encoder.modules()), all(m.training for m in vae.decoder.modules())))

    fit(vae, callbacks=[Look()])
    assert set(seen) == {(False, True)}
    for name, tensor in vae.encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("part", ["frozen in training mode", "in evaluation mode and not frozen"])
def test_only_both_together_keep_a_module_from_training_mode(part):
    vae = with_normalization()
    if part == "frozen in training mode":
        vae.encoder.requires_grad_(False)
    else:
        vae.eval()
    before = [tensor.clone() for name, tensor in vae.encoder.state_dict().items() if "running" in name]
    fit(vae)
    after = [tensor for name, tensor in vae.encoder.state_dict().items() if "running" in name]
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_frozen_parameters_stay_and_the_others_learn():
    vae = model()
    vae.decoder.requires_grad_(False)
    before = copy.deepcopy(vae.state_dict())
    fit(vae, optimizer={"name": "adamw", "weight_decay": 0.5})
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("decoder."), name


def test_a_model_without_a_trainable_parameter_is_refused():
    with pytest.raises(ValueError, match="requires_grad"):
        fit(model().requires_grad_(False))


# Batch normalisation, and a last batch of one.


@pytest.mark.parametrize(("count", "batch_size"), [(33, 16), (1, 16), (5, 1)])
def test_a_last_batch_of_one_is_refused_before_the_first_step(count, batch_size):
    vae = with_normalization()
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(ValueError, match=f"batch_size={batch_size} .*of {count}"):
        fit(vae, X[:count], batch_size=batch_size)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(("count", "options"), [(33, {}), (34, {"sampler": range(33)}), (33, {"shuffle": True})], ids=str)
def test_a_last_batch_of_one_in_a_loader_is_refused_as_well(count, options):
    loader = DataLoader(TensorDataset(X[:count], torch.zeros(count)), batch_size=16, **options)
    with pytest.raises(ValueError, match=r"batch_size=16 .*of 33.*drop_last=True"):
        fit(with_normalization(), loader)


def test_what_a_loader_leaves_out_or_batches_otherwise_is_not_refused():
    data = TensorDataset(X[:33])
    by_sampler = DataLoader(data, batch_sampler=[range(16), range(16, 33)])
    for loader in (
        DataLoader(data, batch_size=16, drop_last=True),
        DataLoader(data, batch_size=11),
        by_sampler,
        [X[:16], X[16:33]],
    ):
        assert fit(with_normalization(), loader, epochs=1).epochs == 1


def test_a_last_batch_of_one_is_fine_where_positions_are_normalised_too():
    images = torch.rand(17, 1, 8, 8)
    conv = {"name": "conv", "channels": (4,), "hidden": (), "normalization": "batch"}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, encoder=conv)
    assert fit(vae, images).epochs == 2
    assert fit(model(), X[:33]).epochs == 2


# Scheduled weights.


def test_a_run_shorter_than_its_schedule_is_warned_of():
    for loss, name in (({"name": "elbo", "beta": WARM_UP}, "beta"), ({"name": "capacity", "capacity": WARM_UP}, "capacity")):
        with pytest.warns(UserWarning, match=f"4 steps.* {name} reaches 0.5.* 1"):
            fit(model(loss=loss), epochs=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(model(loss=loss), epochs=2)  # 8 steps


def test_a_loader_that_was_shorter_than_the_schedule_is_warned_of_afterwards():
    loader = DataLoader(X, batch_size=16)
    with pytest.warns(UserWarning, match="4 steps.* beta"):
        fit(model(loss={"name": "elbo", "beta": WARM_UP}), loader, epochs=1)


@pytest.mark.parametrize("validation", [None, X])
def test_the_best_epoch_is_one_with_the_final_weight(tmp_path, validation):
    history = fit(
        model(loss={"name": "elbo", "beta": {"name": "linear", "steps": 9, "end": 50.0}}),
        validation=validation,
        epochs=5,
        out=tmp_path,
        learning_rate=1e-30,
    )
    assert history.is_settled == [False, False, False, True, True]  # of four steps each; the tenth is the first at the end
    loss = history["val_loss" if validation is not None else "loss"]
    assert history.best_epoch == min((3, 4), key=loss.__getitem__)
    again = History.from_csv(tmp_path / "history.csv")
    assert (again.best_epoch, again.is_settled, dict(again)) == (history.best_epoch, history.is_settled, dict(history))


def test_where_the_final_weight_is_never_reached_the_last_epoch_is_the_best(tmp_path):
    vae = model(loss={"name": "elbo", "beta": {"name": "linear", "steps": 1000}})
    with pytest.warns(UserWarning, match="1,000|beta"):
        history = fit(vae, epochs=3, out=tmp_path)
    assert history.best_epoch == 2
    assert torch.equal(weights(vaekit.load(tmp_path / "best")), weights(vae))


def test_early_stopping_counts_from_the_final_weight_on():
    vae = model(loss={"name": "elbo", "beta": {"name": "linear", "steps": 12}})
    history = fit(vae, validation=X, epochs=50, learning_rate=1e-30, callbacks=[EarlyStopping(patience=2)])
    assert history.epochs == 3 + 1 + 2  # the warm-up, the first that counts, two that are no better


# A first loss that is not finite.


def test_a_loss_that_is_not_finite_at_once_is_explained_by_the_data():
    vae = model(likelihood="gaussian")
    before = weights(vae)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(vae, X * 1e30)
    said = str(caught.value)
    assert "step 0" in said
    assert "tandardise" in said
    assert "e+29" in said
    assert "lower learning_rate" not in said
    assert all(len(line) < 200 for line in said.split("\n"))
    assert torch.equal(weights(vae), before)


def test_a_loss_that_is_not_finite_at_once_is_blamed_on_the_log_variance_where_it_is():
    vae = model(likelihood="gaussian")
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.mul_(60.0)
    with pytest.raises(NonFiniteLossError, match=r"(?s)logvar is from .*overflows beyond 88.7.*logvar_bound"):
        fit(vae, 100 * X)


def test_later_the_advice_is_about_the_learning_rate():
    with pytest.raises(NonFiniteLossError, match="learning_rate") as caught:
        fit(model(likelihood="gaussian"), epochs=50, learning_rate=1e6)
    assert "step 0:" not in str(caught.value)


# ^C while the run ends.


@pytest.mark.parametrize("at", ["best", "last"])
def test_an_interrupt_in_the_last_save_loses_nothing(tmp_path, monkeypatch, at):
    original, calls = vaekit.VAE.save, []

    def interrupted(self, folder):
        calls.append(str(folder))
        if calls.count(str(folder)) == 1 and str(folder).endswith(at):
            raise KeyboardInterrupt
        return original(self, folder)

    monkeypatch.setattr(vaekit.VAE, "save", interrupted)
    vae = model()
    history = fit(vae, epochs=1, out=tmp_path)
    assert history.interrupted
    assert history.epochs == 1
    assert torch.equal(weights(vaekit.load(tmp_path / "last")), weights(vae))
    assert dict(History.from_csv(tmp_path / "history.csv")) == dict(history)


def test_the_history_is_never_ahead_of_the_weights_it_speaks_of(tmp_path, monkeypatch):
    def failing(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vaekit.VAE, "save", failing)
    with pytest.raises(OSError, match="No space"):
        fit(model(), out=tmp_path)
    assert (tmp_path / "history.csv").read_text() == ""  # with which the run claimed the folder


class NoEnd(vaekit.Callback):
    def on_fit_end(self, state):
        raise ValueError("no end")


@pytest.mark.parametrize("where", ["last", "the end of a callback"])
def test_what_fails_after_a_failure_is_warned_of_and_does_not_hide_it(where, tmp_path, monkeypatch, own_registries):
    @vaekit.losses.register("spoiled-after-2")
    class SpoiledAfter2(Spoiled):
        def __init__(self):
            super().__init__([2])

    def failing(self, folder):
        raise OSError(28, "No space left on device")

    if where == "last":
        monkeypatch.setattr(vaekit.VAE, "save", failing)
    also = "OSError: .*No space left" if where == "last" else "ValueError: no end"
    callbacks = [] if where == "last" else [NoEnd()]
    with pytest.warns(RuntimeWarning, match=f"the end of the run failed as well: {also}") as warned:
        with pytest.raises(NonFiniteLossError, match="reconstruction is not finite"):
            fit(model(loss="spoiled-after-2"), out=tmp_path, callbacks=callbacks)
    assert warned[0].filename == fit.__code__.co_filename  # where `vaekit.fit` was called


def test_what_fails_at_the_end_of_a_good_run_is_raised_even_while_another_error_is_handled():
    try:
        raise KeyError("of the caller's")
    except KeyError:
        with pytest.raises(ValueError, match="no end"):
            fit(model(), callbacks=[NoEnd()])


# Found by attack.


def test_an_override_of_train_is_respected():
    class Frozen(torch.nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[0].eval()
            return self

    vae = model()
    vae.encoder.body.insert(0, Frozen(torch.nn.BatchNorm1d(6)))
    before = vae.encoder.body[0][0].running_mean.clone()
    fit(vae)
    assert torch.equal(vae.encoder.body[0][0].running_mean, before)


def test_a_layer_without_parameters_stays_in_evaluation_mode_where_it_was_put_there_by_itself():
    for whole_is_evaluating in (False, True):
        vae = model(encoder={"hidden": (8,), "dropout": 0.5})
        dropout = next(m for m in vae.encoder.modules() if isinstance(m, torch.nn.Dropout))
        dropout.eval()
        if whole_is_evaluating:
            vae.eval()
        seen = []

        class Look(vaekit.Callback):
            def on_step_end(self, state, dropout=dropout, seen=seen):
                seen.append(dropout.training)

        fit(vae, callbacks=[Look()])
        assert set(seen) == {whole_is_evaluating}


def test_a_layer_that_a_frozen_module_shares_is_trained_where_it_is_not_frozen():
    vae = model()
    shared = torch.nn.Dropout(0.5)
    vae.encoder.body.append(shared)
    vae.decoder.shared = shared
    vae.encoder.requires_grad_(False).eval()
    seen = []

    class Look(vaekit.Callback):
        def on_step_end(self, state):
            seen.append((shared.training, vae.encoder.training))

    fit(vae, callbacks=[Look()])
    assert set(seen) == {(True, False)}


def test_a_frozen_bias_is_not_started_and_a_refused_run_moves_nothing():
    vae = model()
    vae.decoder.requires_grad_(False)
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(ValueError, match="initialize_output_bias"):
        fit(vae, initialize_output_bias=True)
    vae.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        fit(vae)
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_frozen_weights_in_half_precision_are_no_reason_to_refuse():
    vae = model()
    vae.loss.judge = torch.nn.Linear(6, 6).bfloat16().requires_grad_(False)
    assert fit(vae).epochs == 2


def test_weights_that_are_not_finite_are_refused_by_name_before_the_first_step():
    vae = model()
    with torch.no_grad():
        vae.decoder.get_parameter(name := next(iter(dict(vae.decoder.named_parameters())))).view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=f"decoder.{name}"):
        fit(vae)


def test_an_epoch_in_which_a_cyclic_weight_went_down_is_not_settled():
    beta = {"name": "cyclic", "period": 4, "cycles": 4, "ramp": 0.5}
    history = fit(model(loss={"name": "elbo", "beta": beta}), X[:20], batch_size=4, epochs=4)  # five steps an epoch
    assert history.is_settled == [False, False, False, True]


def test_a_schedule_that_only_comes_near_its_end_is_settled_when_it_is_near():
    class Nearing(vaekit.schedules.Schedule):
        def __call__(self, step):
            return 1.0 if step is None else 1.0 - 2.0 ** -(step + 1)

    vae = model()
    vae.loss.beta = Nearing()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(vae, epochs=5)
    assert history.is_settled == [False, False, False, True, True]


def test_every_scheduled_weight_counts_also_that_of_an_objective_within():
    loss = vaekit.losses.create("elbo", beta={"name": "linear", "steps": 3})
    loss.inner = vaekit.losses.create("elbo", beta={"name": "linear", "steps": 1000})
    assert sorted(vaekit.schedules.scheduled(loss)) == ["beta", "inner.beta"]


def test_callbacks_may_come_from_a_generator_and_no_other_thing():
    steps = []

    class Count(vaekit.Callback):
        def on_step_end(self, state):
            steps.append(state.step)

    fit(model(), callbacks=(callback for callback in [Count()]))
    assert len(steps) == 8
    for callbacks in (None, Count(), [Count], 3):
        with pytest.raises(TypeError, match="callbacks"):
            fit(model(), callbacks=callbacks)


@pytest.mark.parametrize(
    ("option", "value"), [("patience", 2.5), ("patience", 0), ("patience", "3"), ("min_delta", float("nan"))]
)
def test_early_stopping_checks_its_options(option, value):
    with pytest.raises((TypeError, ValueError), match=option):
        EarlyStopping(**{option: value})


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [({"progress": "no"}, TypeError, "progress"), ({"device": None}, (TypeError, ValueError), "device")],
)
def test_other_mistakes_are_named(arguments, error, name):
    with pytest.raises(error, match=name):
        fit(model(), **arguments)
    with pytest.raises(TypeError, match="Linear"):
        fit(torch.nn.Linear(1, 1))


def test_dropout_is_seeded_whatever_the_global_generator_has_drawn():
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(fit(model(encoder={"hidden": (8,), "dropout": 0.5}))["loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["epoch", "is_settled"])
def test_a_term_with_the_name_of_a_column_is_refused(name):
    with pytest.raises(ValueError, match=name):
        History().append({"loss": 1.0, name: 2.0}, 0.0)


def test_a_last_batch_of_one_that_can_be_trained_on_leaves_the_averages_alone():
    conv = {"name": "conv", "channels": (4,), "hidden": (), "normalization": "batch"}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, encoder=conv, seed=0)
    before = copy.deepcopy(vae.state_dict())
    preflight.check_smallest_batch(vae.train(), as_batches(torch.rand(17, 1, 8, 8), 16))
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, before[name]), name
