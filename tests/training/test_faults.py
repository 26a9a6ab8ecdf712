"""What a run refuses, leaves alone or explains: precision, frozen modules, long schedules, a first loss that is NaN."""

import copy
import warnings

import pytest
import torch

import vaekit
from vaekit import EarlyStopping, History, NonFiniteLossError

X = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
WARM_UP = {"name": "linear", "steps": 6}


def model(**parts):
    small = {"encoder": {"hidden": (8,)}, "decoder": {"hidden": (8,)}}
    return vaekit.create_vae(input_shape=(6,), latent_dim=2, seed=0, **{**small, **parts})


def fit(vae, data=X, **options):
    return vaekit.fit(vae, data, **{"epochs": 2, "batch_size": 16, "progress": False, "device": "cpu", **options})


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


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
    loader = torch.utils.data.DataLoader(X, batch_size=16)
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
    assert torch.equal(weights(vae), before)


def test_a_loss_that_is_not_finite_at_once_is_blamed_on_the_log_variance_where_it_is():
    vae = model(likelihood="gaussian")
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.mul_(60.0)
    with pytest.raises(NonFiniteLossError, match="log variance of .*logvar_bound"):
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
    assert not (tmp_path / "history.csv").exists()
